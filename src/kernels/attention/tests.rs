use super::*;

const HEADS: Heads = Heads { heads: 6, kv_heads: 2, head_dim: 24, scale: 0.3 };

fn cache(blocks: usize, narrow: bool) -> KvCache {
    KvCache::new(1, HEADS, blocks, narrow)
}

fn wave(count: usize, pace: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * pace).sin() * 2.0).collect()
}

fn attend(cache: &mut KvCache, qkv: &[f32], rows: &[AttentionRow<'_>], window: usize) -> Vec<f32> {
    let mut by_head = vec![f32::NAN; rows.len() * HEADS.q_width()];
    let mut out = by_head.clone();
    // Angles of zero.
    let half = HEADS.head_dim / 2;
    let (cos, sin) = (vec![1.0; rows.len() * half], vec![0.0; rows.len() * half]);
    let params = AttentionParams { angles: (&cos, &sin), half, qk_norms: None, norm_epsilon: 1e-5, window };
    cache.attend(0, qkv, &mut by_head, rows, params);
    HEADS.by_row(&by_head, rows.len(), 0, &mut out);
    out
}

/// Attention of the row `row` of `qkv` over the tokens `seen` by the definition, in f64.
fn plain(qkv: &[f32], row: usize, seen: Range<usize>) -> Vec<f32> {
    let (dim, q_width) = (HEADS.head_dim, HEADS.q_width());
    let width = q_width + 2 * HEADS.kv_width();
    let at = |row: usize, column: usize| f64::from(qkv[row * width + column]);
    let mut out = vec![];
    for head in 0..HEADS.heads {
        let kv = q_width + head / (HEADS.heads / HEADS.kv_heads) * dim;
        let score = |j: usize| (0..dim).map(|d| at(row, head * dim + d) * at(j, kv + d)).sum::<f64>();
        let weights: Vec<f64> = seen.clone().map(|j| (score(j) * f64::from(HEADS.scale)).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let value =
            |d: usize| weights.iter().zip(seen.clone()).map(|(w, j)| w * at(j, kv + HEADS.kv_width() + d)).sum::<f64>();
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
    let tokens = 83;
    let qkv = wave(tokens * (HEADS.q_width() + 2 * HEADS.kv_width()), 0.37);
    let blocks = [4u32, 0, 2];
    let rows: Vec<_> = (0..tokens).map(|position| AttentionRow { blocks: &blocks, position }).collect();
    for (narrow, tolerance) in [(false, 1e-5), (true, 2e-2)] {
        let mut cache = cache(5, narrow);
        // Windows: none, of one token, within a block, of a block, over several.
        for window in [1, 7, 32, 50, usize::MAX] {
            let out = attend(&mut cache, &qkv, &rows, window);
            for (position, out) in out.chunks_exact(HEADS.q_width()).enumerate() {
                let expected = plain(&qkv, position, (position + 1).saturating_sub(window)..position + 1);
                assert_close(out, &expected, tolerance, &format!("window {window}, position {position}"));
            }
        }
        // Alone, over a copied block, a row gives the same to the last bit.
        let each_shared_range = attend(&mut cache, &qkv, &rows, usize::MAX);
        cache.copy_blocks(&[(2, 3)]);
        let last = AttentionRow { blocks: &[4, 0, 3], position: tokens - 1 };
        let width = qkv.len() / tokens;
        let alone = attend(&mut cache, &qkv[(tokens - 1) * width..], &[last], usize::MAX);
        assert_eq!(alone, each_shared_range[(tokens - 1) * HEADS.q_width()..]);
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
        let mut cache = cache(10, false);
        attend(&mut cache, &shared, &first, usize::MAX);
        cache
    };
    let each_shared_range = attend(&mut fresh(), &qkv, &rows, usize::MAX);
    for (i, row) in rows.iter().enumerate() {
        let alone = attend(&mut fresh(), &qkv[i * width..][..width], &[*row], usize::MAX);
        assert_eq!(alone, each_shared_range[i * HEADS.q_width()..][..HEADS.q_width()], "row {i}");
    }
}
