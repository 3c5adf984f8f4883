use super::*;
use crate::kernels::{KvKind, LazyZeros};

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
    let kinds = [(KvKind::F32, 1e-5), (KvKind::Bf16, 3e-2), (KvKind::Int8, 3e-2)];
    for (heads, (kind, tolerance)) in [HEADS, TILED].into_iter().flat_map(|heads| kinds.map(|kind| (heads, kind))) {
        let width = heads.q_width() + 2 * heads.kv_width();
        let qkv = wave(tokens * width, 0.37);
        let mut cache = KvCache::new(1, heads, 5, kind).unwrap();
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
                assert_eq!(alone, out, "{heads:?}, {kind:?}, window {window}, position {}", row.position);
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
    let kinds = [KvKind::F32, KvKind::Bf16, KvKind::Int8];
    for (heads, kind) in [HEADS, TILED].into_iter().flat_map(|heads| kinds.map(|kind| (heads, kind))) {
        let width = heads.q_width() + 2 * heads.kv_width();
        let (qkv, blocks) = (wave(21 * width, 0.29), [0u32]);
        let rows = |count: usize| Vec::from_iter((0..count).map(|position| AttentionRow { blocks: &blocks, position }));
        let mut clean = KvCache::new(1, heads, 1, kind).unwrap();
        let mut used = KvCache::new(1, heads, 1, kind).unwrap();
        attend(&mut used, &vec![f32::NAN; 32 * width], &rows(32), usize::MAX);
        let [clean, used] = [&mut clean, &mut used].map(|cache| attend(cache, &qkv, &rows(21), usize::MAX));
        assert!(clean.iter().all(|value| value.is_finite()) && clean == used, "{heads:?}, {kind:?}");
    }
}

#[test]
fn siblings_over_a_common_prefix_give_what_each_gives_alone() {
    let kinds = [KvKind::F32, KvKind::Bf16, KvKind::Int8];
    for (heads, kind) in [HEADS, TILED].into_iter().flat_map(|heads| kinds.map(|kind| (heads, kind))) {
        let width = heads.q_width() + 2 * heads.kv_width();
        let prefix = 64;
        let shared = wave(prefix * width, 0.71);
        let first: Vec<_> = (0..prefix).map(|position| AttentionRow { blocks: &[1, 2], position }).collect();
        // Two on the prefix, another sequence between them and a third, and one with a longer table.
        let tables: [&[u32]; 5] = [&[1, 2, 3], &[1, 2, 4], &[6, 7], &[1, 2, 5], &[1, 2, 8, 9]];
        let rows = tables.map(|blocks| AttentionRow { blocks, position: if blocks.len() == 2 { 40 } else { prefix } });
        let qkv = wave(rows.len() * width, 0.53);
        let fresh = || {
            let mut cache = KvCache::new(1, heads, 10, kind).unwrap();
            attend(&mut cache, &shared, &first, usize::MAX);
            cache
        };
        let each_shared_range = attend(&mut fresh(), &qkv, &rows, usize::MAX);
        for (i, row) in rows.iter().enumerate() {
            let alone = attend(&mut fresh(), &qkv[i * width..][..width], &[*row], usize::MAX);
            assert_eq!(
                alone,
                each_shared_range[i * heads.q_width()..][..heads.q_width()],
                "{heads:?}, {kind:?}, row {i}"
            );
        }
    }
}

/// A sequence of `tokens` tokens in a cache of 8-bit codes: its queries and the keys and values of its first KV head.
fn coded(heads: Heads, tokens: usize) -> (Vec<f32>, KvHead<codes::CodeQuad>) {
    let dim = heads.head_dim;
    let blocks = tokens.div_ceil(BLOCK_TOKENS);
    let elements = |len: usize| LazyZeros::new(blocks * len).unwrap();
    let (keys_len, values_len) = (codes::CodeQuad::keys_len(dim), codes::CodeQuad::values_len(dim));
    let mut head = KvHead { keys: elements(keys_len), values: elements(values_len) };
    let (keys, values) = (wave(tokens * dim, 0.37), wave(tokens * dim, 0.71));
    for (position, (key, value)) in keys.chunks_exact(dim).zip(values.chunks_exact(dim)).enumerate() {
        let (block, place) = (position / BLOCK_TOKENS, position % BLOCK_TOKENS);
        codes::CodeQuad::put_key(&mut head.keys[block * keys_len..][..keys_len], place, key);
        codes::CodeQuad::put_value(&mut head.values[block * values_len..][..values_len], place, value);
    }
    (wave(tokens * heads.group() * dim, 0.53), head)
}

#[test]
fn attention_over_codes_is_the_same_on_every_processor() {
    // Queries of one strip and of two; one query, and more than six.
    for (heads, tokens) in [(HEADS, 40), (TILED, 1), (TILED, 7), (TILED, 83)] {
        let (queries, KvHead { keys, values }) = coded(heads, tokens);
        let blocks: Vec<u32> = (0..tokens.div_ceil(BLOCK_TOKENS) as u32).collect();
        let rows: Vec<_> = (0..tokens).map(|position| AttentionRow { blocks: &blocks, position }).collect();
        for window in [9, usize::MAX] {
            let by = |kernel: fn(Queries<'_>, &[codes::CodeQuad], &[codes::CodeQuad], &mut [f32])| {
                let mut out = vec![0.0; queries.len()];
                kernel(Queries { values: &queries, rows: &rows, heads, window }, &keys, &values, &mut out);
                out
            };
            let [portable, wide] = online_codes::ANY.map(by);
            assert!(portable == wide && portable == by(online_codes::attend), "{heads:?}, {tokens} tokens");
            assert!(portable.iter().all(|value| value.is_finite()));
            #[cfg(target_arch = "x86_64")]
            if online_code_dot::applies(heads.head_dim) {
                let what = format!("{heads:?}, {tokens} tokens, window {window}");
                assert_eq!(portable, by(online_code_dot::attend), "{what}");
                assert_eq!(portable, by(joint_codes::attend), "{what}");
            }
        }
    }
}

#[test]
fn an_outlier_costs_the_precision_of_its_32_dimensions_only() {
    let dim = 64;
    let (mut queries, mut key) = (wave(dim, 0.3), wave(dim, 0.9));
    (queries[40], key[40]) = (0.0, 1000.0);
    let mut keys = vec![[0; 4]; codes::CodeQuad::keys_len(dim)];
    codes::CodeQuad::put_key(&mut keys, 17, &key);
    let score = |queries: &[f32]| online_codes::scores_of(queries, &keys)[17];
    let exact = |queries: &[f32]| queries.iter().zip(&key).map(|(q, k)| q * k).sum::<f32>();
    let first: Vec<f32> = queries.iter().enumerate().map(|(i, q)| if i < 32 { *q } else { 0.0 }).collect();
    assert!((score(&first) - exact(&first)).abs() < 0.1, "{} for {}", score(&first), exact(&first));
    assert!((score(&queries) - exact(&queries)).abs() > 0.1, "this test sees a lost precision");
    queries[40] = 1.0;
    assert!((score(&queries) / exact(&queries) - 1.0).abs() < 0.01);
}

/// Whatever is no number makes what it enters none.
#[test]
fn what_is_no_number_is_seen_through_codes() {
    for (heads, odd) in [HEADS, TILED].into_iter().flat_map(|heads| [f32::NAN, f32::INFINITY].map(|odd| (heads, odd))) {
        let width = heads.q_width() + 2 * heads.kv_width();
        let rows: Vec<_> = (0..9).map(|position| AttentionRow { blocks: &[0], position }).collect();
        for column in [heads.q_width() + 3, heads.q_width() + heads.kv_width() + 3] {
            let mut qkv = wave(9 * width, 0.29);
            qkv[5 * width + column] = odd;
            let out = attend(&mut KvCache::new(1, heads, 1, KvKind::Int8).unwrap(), &qkv, &rows, usize::MAX);
            let of_first = |row: usize| &out[row * heads.q_width()..][..heads.head_dim];
            assert!((0..5).all(|row| of_first(row).iter().all(|value| value.is_finite())));
            assert!((5..9).all(|row| of_first(row).iter().any(|value| value.is_nan())), "{heads:?}, {odd}, {column}");
        }
    }
}
