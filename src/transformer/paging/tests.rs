//! Promises of the numbers that attention is told, on every device the same.
use super::*;
use proptest::prelude::*;

/// A batch of sequences, each `(cached, new, blocks)`.
fn batch(sequences: &[(usize, usize, &[u32])]) -> Batch {
    let mut batch = Batch::default();
    for &(cached, new, table) in sequences {
        batch.push(&vec![7; new], cached, table, None, 1);
    }
    batch
}

#[test]
fn a_ragged_step_is_laid_out_as_the_kernels_want_it() {
    // One decodes at position 40 over blocks 5 and 2; one begins with 3 tokens in block 4; one goes on for 2 at 63.
    let paging = Paging::of(&batch(&[(40, 1, &[5, 2]), (0, 3, &[4]), (63, 2, &[1, 0, 3])]));
    assert_eq!(paging.positions, [40, 0, 1, 2, 63, 64]);
    assert_eq!(paging.slots, [2 * 32 + 8, 128, 129, 130, 31, 3 * 32]);
    assert_eq!((&paging.row_starts, &paging.key_starts), (&vec![0, 1, 4, 6], &vec![0, 41, 44, 109]));
    assert_eq!((paging.rows_max, paging.keys_max, paging.blocks_max), (3, 65, 3));
    assert_eq!(paging.tables, [5, 2, 0, 4, 0, 0, 1, 0, 3]);
    assert_eq!(paging.groups().len(), 3);
}

#[test]
fn sequences_that_decode_are_one_group_wherever_they_stand() {
    let paging = Paging::of(&batch(&[(3, 1, &[1]), (0, 5, &[2]), (33, 1, &[4, 6])]));
    let groups = paging.groups();
    assert_eq!(groups[0], Group { sequences: vec![0, 2], rows: 1, blocks: 2 });
    assert_eq!(groups[0].row_indices(&paging), [0, 6]);
    assert_eq!(groups[0].tables(&paging), [1, 0, 4, 6]);
    let mask = groups[0].mask(&paging, 3);
    let seen = |mask: &[f32]| (0..mask.len()).filter(|&key| mask[key] == 0.0).collect::<Vec<_>>();
    assert_eq!((seen(&mask[..64]), seen(&mask[64..])), (vec![1, 2, 3], vec![31, 32, 33]));
}

#[test]
fn an_empty_step_has_no_rows() {
    let paging = Paging::of(&Batch::default());
    assert!(paging.positions.is_empty() && paging.groups().is_empty());
    assert_eq!(paging.row_starts, [0]);
}

proptest! {
    #[test]
    fn every_row_writes_into_a_block_of_its_own_and_sees_what_was_written_before(
        lengths in prop::collection::vec((0usize..100, 1usize..40), 1..6), window in prop_oneof![1usize..50, Just(usize::MAX)],
    ) {
        // Tables of distinct blocks, dealt out backwards.
        let mut next = 100u32;
        let tables: Vec<Vec<u32>> = lengths.iter().map(|(cached, new)| {
            (0..(cached + new).div_ceil(BLOCK_TOKENS)).map(|_| { next -= 1; next }).collect()
        }).collect();
        let sequences: Vec<_> = lengths.iter().zip(&tables).map(|(&(c, n), t)| (c, n, t.as_slice())).collect();
        let paging = Paging::of(&batch(&sequences));
        let mut written: Vec<u32> = paging.slots.clone();
        written.sort_unstable();
        written.dedup();
        prop_assert_eq!(written.len(), paging.slots.len(), "two rows share a slot");
        let mut grouped: Vec<u32> = vec![];
        for group in paging.groups() {
            let (rows, keys) = (group.row_indices(&paging), group.blocks * BLOCK_TOKENS);
            let (tables_of_group, mask) = (group.tables(&paging), group.mask(&paging, window));
            for (index, &row) in rows.iter().enumerate() {
                let (sequence, position) = (group.sequences[index / group.rows], paging.positions[row as usize] as usize);
                let table = &tables_of_group[index / group.rows * group.blocks..][..group.blocks];
                for key in 0..keys {
                    let sees = key <= position && position - key < window;
                    prop_assert_eq!(mask[index * keys + key] == 0.0, sees);
                    if sees {
                        prop_assert_eq!(slot(table, key), slot(&tables[sequence], key), "row {} looks elsewhere", row);
                    }
                }
                prop_assert_eq!(paging.slots[row as usize] as usize, slot(&tables[sequence], position));
            }
            grouped.extend(rows);
        }
        grouped.sort_unstable();
        prop_assert_eq!(grouped, (0..paging.positions.len() as u32).collect::<Vec<_>>(), "each row in one group");
    }

    #[test]
    fn copies_at_once_come_to_the_same_as_one_after_the_other(
        pairs in prop::collection::vec((0u32..6, 0u32..6), 0..8),
    ) {
        let (mut one_by_one, mut at_once) = ((0..6).collect::<Vec<u32>>(), (0..6).collect::<Vec<u32>>());
        for &(from, to) in &pairs {
            one_by_one[to as usize] = one_by_one[from as usize];
        }
        for run in copies_at_once(&pairs) {
            let before = at_once.clone();
            for &(from, to) in run {
                at_once[to as usize] = before[from as usize];
            }
        }
        prop_assert_eq!(one_by_one, at_once);
    }
}
