//! The paged KV cache and the attention that reads it, on the CPU.
//!
//! A block holds 32 positions of every KV head, `[blocks, 32, kv_heads, head_dim]`. A query walks its
//! sequence's blocks in order with an online softmax, so its result depends on the keys before it and
//! on nothing else: not on the chunk it came in, nor on its neighbours in the batch.

use super::ops::{exp, vectorised};
use super::spec::ModelSpec;
use rayon::prelude::*;

/// Tokens of one KV block.
pub const BLOCK_TOKENS: usize = 32;

/// Where one query row finds its keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach<'a> {
    /// The sequence's block table.
    pub(crate) blocks: &'a [u32],
    /// The row's own position; it sees `0..=position`.
    pub(crate) position: usize,
}

/// Sizes of attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// What scores are multiplied by.
    pub(crate) scale: f32,
}

impl Heads {
    pub(crate) fn of(spec: &ModelSpec) -> Self {
        Self { heads: spec.heads, kv_heads: spec.kv_heads, head_dim: spec.head_dim, scale: spec.score_scale }
    }

    /// Floats of one token's keys.
    pub(crate) fn kv_width(self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Floats of one token's queries.
    pub(crate) fn q_width(self) -> usize {
        self.heads * self.head_dim
    }
}

/// Keys and values of every layer, in blocks.
pub(crate) struct KvCache {
    layers: Vec<(Vec<f32>, Vec<f32>)>,
    heads: Heads,
    blocks: usize,
}

impl KvCache {
    /// Bytes of one block over all layers, keys and values.
    pub(crate) fn block_bytes(spec: &ModelSpec) -> usize {
        spec.layers * 2 * BLOCK_TOKENS * Heads::of(spec).kv_width() * size_of::<f32>()
    }

    /// A cache of `blocks` blocks; the system hands out its pages as they are first written.
    pub(crate) fn new(spec: &ModelSpec, blocks: usize) -> Self {
        let heads = Heads::of(spec);
        let floats = blocks * BLOCK_TOKENS * heads.kv_width();
        let layers = (0..spec.layers).map(|_| (vec![0.0; floats], vec![0.0; floats])).collect();
        Self { layers, heads, blocks }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Copies whole blocks, `(from, to)`, in every layer.
    pub(crate) fn copy_blocks(&mut self, pairs: &[(u32, u32)]) {
        let size = BLOCK_TOKENS * self.heads.kv_width();
        for (keys, values) in &mut self.layers {
            for &(from, to) in pairs {
                let (from, to) = (from as usize * size, to as usize * size);
                keys.copy_within(from..from + size, to);
                values.copy_within(from..from + size, to);
            }
        }
    }

    /// Writes the keys and values of the step's rows, `(rows, kv_width)`, to their places.
    pub(crate) fn write(&mut self, layer: usize, keys: &[f32], values: &[f32], rows: &[Reach<'_>]) {
        let width = self.heads.kv_width();
        let (cached_keys, cached_values) = &mut self.layers[layer];
        for (row, reach) in rows.iter().enumerate() {
            let block = reach.blocks[reach.position / BLOCK_TOKENS] as usize;
            let to = (block * BLOCK_TOKENS + reach.position % BLOCK_TOKENS) * width;
            cached_keys[to..to + width].copy_from_slice(&keys[row * width..][..width]);
            cached_values[to..to + width].copy_from_slice(&values[row * width..][..width]);
        }
    }

    /// Attention of the step's rows over the newest `window` tokens: `q` and `out` are `(rows, heads * head_dim)`.
    pub(crate) fn attend(&self, layer: usize, q: &[f32], out: &mut [f32], rows: &[Reach<'_>], window: usize) {
        let width = self.heads.q_width();
        let (keys, values) = &self.layers[layer];
        let keys_seen: usize = rows.iter().map(|reach| window.min(reach.position + 1)).sum();
        let one = |row: usize, out: &mut [f32]| {
            attend_row(&q[row * width..][..width], keys, values, rows[row], window, self.heads, out);
        };
        if keys_seen * width < 1 << 16 {
            out.chunks_exact_mut(width).enumerate().for_each(|(row, out)| one(row, out));
        } else {
            out.par_chunks_exact_mut(width).enumerate().for_each(|(row, out)| one(row, out));
        }
    }
}

/// One query row over its blocks (online softmax: arXiv 1805.02867; grouped heads: arXiv 2305.13245).
#[inline(always)]
fn attend_row_blocks(
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    reach: Reach<'_>,
    window: usize,
    heads: Heads,
    out: &mut [f32],
) {
    let Heads { head_dim, kv_heads, scale, .. } = heads;
    let group = heads.heads / kv_heads;
    let width = heads.kv_width();
    let oldest = (reach.position + 1).saturating_sub(window);
    out.fill(0.0);
    for kv_head in 0..kv_heads {
        let of_group = kv_head * group * head_dim..(kv_head + 1) * group * head_dim;
        let (q, out) = (&q[of_group.clone()], &mut out[of_group]);
        // Running maximum and sum of each query of the group; a spec with more than 16 is refused.
        let mut state = [(f32::NEG_INFINITY, 0.0f32); 16];
        for (index, &block) in reach.blocks.iter().enumerate().skip(oldest / BLOCK_TOKENS) {
            let first = index * BLOCK_TOKENS;
            if first > reach.position {
                break;
            }
            let seen = oldest.saturating_sub(first)..BLOCK_TOKENS.min(reach.position + 1 - first);
            let start = block as usize * BLOCK_TOKENS * width + kv_head * head_dim;
            let (keys, values) = (&keys[start..], &values[start..]);
            for member in 0..group {
                let q = &q[member * head_dim..][..head_dim];
                let out = &mut out[member * head_dim..][..head_dim];
                let mut scores = [f32::NEG_INFINITY; BLOCK_TOKENS];
                for (j, score) in scores.iter_mut().enumerate().take(seen.end).skip(seen.start) {
                    *score = dot(q, &keys[j * width..][..head_dim]) * scale;
                }
                let (top, sum) = state[member];
                let new_top = scores.iter().fold(top, |top, &score| if score > top { score } else { top });
                let kept = exp(top - new_top);
                let mut weights = [0.0f32; BLOCK_TOKENS];
                for (weight, &score) in weights.iter_mut().zip(&scores) {
                    *weight = exp(score - new_top);
                }
                let mut added = 0.0;
                for out in out.iter_mut() {
                    *out *= kept;
                }
                for (j, &weight) in weights.iter().enumerate().take(seen.end).skip(seen.start) {
                    added += weight;
                    for (out, &value) in out.iter_mut().zip(&values[j * width..][..head_dim]) {
                        *out += weight * value;
                    }
                }
                state[member] = (new_top, sum * kept + added);
            }
        }
        for member in 0..group {
            let inverse = 1.0 / state[member].1;
            for out in &mut out[member * head_dim..][..head_dim] {
                *out *= inverse;
            }
        }
    }
}
vectorised!(
    attend_row, attend_row_blocks,
    (q: &[f32], keys: &[f32], values: &[f32], reach: Reach<'_>, window: usize, heads: Heads, out: &mut [f32])
);

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::Range;

    const HEADS: Heads = Heads { heads: 6, kv_heads: 2, head_dim: 24, scale: 0.3 };

    fn cache(blocks: usize) -> KvCache {
        let floats = blocks * BLOCK_TOKENS * HEADS.kv_width();
        KvCache { layers: vec![(vec![0.0; floats], vec![0.0; floats])], heads: HEADS, blocks }
    }

    fn wave(count: usize, pace: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * pace).sin() * 2.0).collect()
    }

    /// Attention by its definition, in f64.
    fn plain(q: &[f32], keys: &[f32], values: &[f32], seen: Range<usize>) -> Vec<f32> {
        let (dim, width) = (HEADS.head_dim, HEADS.kv_width());
        let mut out = vec![];
        for head in 0..HEADS.heads {
            let kv = head / (HEADS.heads / HEADS.kv_heads) * dim;
            let weights: Vec<f64> = seen
                .clone()
                .map(|j| {
                    (0..dim).map(|d| f64::from(q[head * dim + d]) * f64::from(keys[j * width + kv + d])).sum::<f64>()
                })
                .map(|s: f64| (s * f64::from(HEADS.scale)).exp())
                .collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..dim).map(|d| {
                (weights.iter().zip(seen.clone()).map(|(w, j)| w * f64::from(values[j * width + kv + d])).sum::<f64>()
                    / sum) as f32
            }));
        }
        out
    }

    #[test]
    fn paged_attention_is_attention_whatever_the_order_of_blocks() {
        let tokens = 83;
        let (q, k, v) = (
            wave(tokens * HEADS.q_width(), 0.37),
            wave(tokens * HEADS.kv_width(), 0.61),
            wave(tokens * HEADS.kv_width(), 0.83),
        );
        let blocks = [4u32, 0, 2];
        let rows: Vec<_> = (0..tokens).map(|position| Reach { blocks: &blocks, position }).collect();
        let mut cache = cache(5);
        cache.write(0, &k, &v, &rows);
        let mut out = vec![f32::NAN; q.len()];
        // Windows: none, of one token, within a block, of a block, over several.
        for window in [1, 7, 32, 50, usize::MAX] {
            cache.attend(0, &q, &mut out, &rows, window);
            for position in 0..tokens {
                let q = &q[position * HEADS.q_width()..][..HEADS.q_width()];
                let expected = plain(q, &k, &v, (position + 1).saturating_sub(window)..position + 1);
                for (got, expected) in out[position * HEADS.q_width()..].iter().zip(&expected) {
                    assert!(
                        (got - expected).abs() < 1e-5,
                        "window {window}, position {position}: {got} for {expected}"
                    );
                }
            }
        }
        // A copied block serves as well as the first one.
        cache.copy_blocks(&[(2, 3)]);
        let mut again = vec![0.0; HEADS.q_width()];
        let last = Reach { blocks: &[4, 0, 3], position: tokens - 1 };
        cache.attend(0, &q[(tokens - 1) * HEADS.q_width()..], &mut again, &[last], usize::MAX);
        assert_eq!(again, out[(tokens - 1) * HEADS.q_width()..]);
    }
}
