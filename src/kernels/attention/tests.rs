use super::*;

const HEADS: Heads = Heads { heads: 6, kv_heads: 2, head_dim: 24, scale: 0.3 };
/// Heads of whole tiles of bf16 dot products.
const TILED: Heads = Heads { heads: 10, kv_heads: 2, head_dim: 64, scale: 0.1 };

fn wave(count: usize, pace: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * pace).sin() * 2.0).collect()
}

fn attend(cache: &mut KvCache, qkv: &[f32], rows: &[AttentionRow<'_>], window: usize) -> Vec<f32> {
    let heads = cache.heads;
    let mut by_head = vec![f32::NAN; rows.len() * heads.q_width()];
    let mut out = by_head.clone();
    // Angles of zero.
    let half = heads.head_dim / 2;
    let (cos, sin) = (vec![1.0; rows.len() * half], vec![0.0; rows.len() * half]);
    let params = AttentionParams { angles: (&cos, &sin), half, qk_norms: None, norm_epsilon: 1e-5, window };
    cache.attend(0, qkv, &mut by_head, rows, params);
    heads.by_row(&by_head, rows.len(), 0, &mut out);
    out
}

/// Attention of the row `row` of `qkv` over the tokens `seen` by the definition, in f64.
fn plain(heads: Heads, qkv: &[f32], row: usize, seen: Range<usize>) -> Vec<f32> {
    let (dim, q_width) = (heads.head_dim, heads.q_width());
    let width = q_width + 2 * heads.kv_width();
    let at = |row: usize, column: usize| f64::from(qkv[row * width + column]);
    let mut out = vec![];
    for head in 0..heads.heads {
        let kv = q_width + head / (heads.heads / heads.kv_heads) * dim;
        let score = |j: usize| (0..dim).map(|d| at(row, head * dim + d) * at(j, kv + d)).sum::<f64>();
        let weights: Vec<f64> = seen.clone().map(|j| (score(j) * f64::from(heads.scale)).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let value =
            |d: usize| weights.iter().zip(seen.clone()).map(|(w, j)| w * at(j, kv + heads.kv_width() + d)).sum::<f64>();
        out.extend((0..dim).map(|d| (value(d) / sum) as f32));
    }
    out
}

fn assert_close(got: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() < tolerance, "{what}: {got} for {expected}");
    }
}

#[test]
fn paged_attention_is_attention_whatever_the_order_of_blocks() {
    let (tokens, blocks) = (83, [4u32, 0, 2]);
    let rows: Vec<_> = (0..tokens).map(|position| AttentionRow { blocks: &blocks, position }).collect();
    for (heads, narrow, tolerance) in
        [(HEADS, false, 1e-5), (HEADS, true, 3e-2), (TILED, false, 1e-5), (TILED, true, 3e-2)]
    {
        let width = heads.q_width() + 2 * heads.kv_width();
        let qkv = wave(tokens * width, 0.37);
        let mut cache = KvCache::new(1, heads, 5, narrow);
        // Windows: none, of one token, within a block, of a block, over several.
        for window in [1, 7, 32, 50, usize::MAX] {
            let out = attend(&mut cache, &qkv, &rows, window);
            for (position, out) in out.chunks_exact(heads.q_width()).enumerate() {
                let expected = plain(heads, &qkv, position, (position + 1).saturating_sub(window)..position + 1);
                assert_close(out, &expected, tolerance, &format!("window {window}, position {position}"));
            }
            // Alone, a row gives the same to the last bit.
            for (row, out) in rows.iter().zip(out.chunks_exact(heads.q_width())) {
                let alone = attend(&mut cache, &qkv[row.position * width..][..width], &[*row], window);
                assert_eq!(alone, out, "{heads:?}, narrow {narrow}, window {window}, position {}", row.position);
            }
            attend(&mut cache, &qkv, &rows, window);
        }
        // So it does over a copied block.
        let joint = attend(&mut cache, &qkv, &rows, usize::MAX);
        cache.copy_blocks(&[(2, 3)]);
        let last = AttentionRow { blocks: &[4, 0, 3], position: tokens - 1 };
        let alone = attend(&mut cache, &qkv[(tokens - 1) * width..], &[last], usize::MAX);
        assert_eq!(alone, joint[(tokens - 1) * heads.q_width()..]);
    }
}

/// What an earlier sequence left in a block counts for nothing, though it be no number.
#[test]
fn places_behind_the_newest_token_count_for_nothing() {
    for heads in [HEADS, TILED] {
        let width = heads.q_width() + 2 * heads.kv_width();
        let (qkv, blocks) = (wave(21 * width, 0.29), [0u32]);
        let rows = |count: usize| Vec::from_iter((0..count).map(|position| AttentionRow { blocks: &blocks, position }));
        let mut clean = KvCache::new(1, heads, 1, true);
        let mut used = KvCache::new(1, heads, 1, true);
        attend(&mut used, &vec![f32::NAN; 32 * width], &rows(32), usize::MAX);
        let [clean, used] = [&mut clean, &mut used].map(|cache| attend(cache, &qkv, &rows(21), usize::MAX));
        assert!(clean.iter().all(|value| value.is_finite()) && clean == used, "{heads:?}");
    }
}

#[test]
fn siblings_over_a_common_prefix_give_what_each_gives_alone() {
    let width = HEADS.q_width() + 2 * HEADS.kv_width();
    let prefix = 64;
    let shared = wave(prefix * width, 0.71);
    let first: Vec<_> = (0..prefix).map(|position| AttentionRow { blocks: &[1, 2], position }).collect();
    // Two on the prefix, another sequence between them and a third, and one with a longer table.
    let tables: [&[u32]; 5] = [&[1, 2, 3], &[1, 2, 4], &[6, 7], &[1, 2, 5], &[1, 2, 8, 9]];
    let rows = tables.map(|blocks| AttentionRow { blocks, position: if blocks.len() == 2 { 40 } else { prefix } });
    let qkv = wave(rows.len() * width, 0.53);
    let fresh = || {
        let mut cache = KvCache::new(1, HEADS, 10, false);
        attend(&mut cache, &shared, &first, usize::MAX);
        cache
    };
    let each_shared_range = attend(&mut fresh(), &qkv, &rows, usize::MAX);
    for (i, row) in rows.iter().enumerate() {
        let alone = attend(&mut fresh(), &qkv[i * width..][..width], &[*row], usize::MAX);
        assert_eq!(alone, each_shared_range[i * HEADS.q_width()..][..HEADS.q_width()], "row {i}");
    }
}
