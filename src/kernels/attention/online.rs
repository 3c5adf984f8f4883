//! Attention of queries over the keys and values of one KV head, block by block (online softmax: arXiv 1805.02867;
//! grouped heads: arXiv 2305.13245).
//!
//! Plain safe loops over fixed widths, compiled for AVX-512, for AVX2 and for any processor.

use super::element::{Bf16Pair, FloatElement, KvElement};
use super::layout::{AttentionRow, BLOCK_TOKENS, Heads, visible};
use super::softmax::SoftmaxState;
use crate::kernels::ops::vectorised;
use crate::kernels::prefetch;
use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::Range;

/// Queries that are computed over a block at a time.
const QUERIES_MAX: usize = 6;
/// Floats of each query that are summed in registers: six queries take twelve of AVX2's sixteen.
const WIDTH: usize = 16;
/// [`WIDTH`] with AVX-512's registers.
const WIDTH_WIDE: usize = 32;

/// Bytes of a block, of which two fit the first-level cache beside what is computed.
const PREFETCHED_BYTES_MAX: usize = 10 << 10;

/// The queries of neighbouring rows for one KV head.
#[derive(Clone, Copy)]
pub(super) struct Queries<'a> {
    /// Scaled and rotated, `(rows, group, head_dim)`.
    pub(super) values: &'a [f32],
    pub(super) rows: &'a [AttentionRow<'a>],
    pub(super) heads: Heads,
    /// Newest tokens that a row attends to.
    pub(super) window: usize,
}

/// Products of a few queries with one block: by plain loops, or by instructions of their own.
pub(super) trait BlockProducts {
    /// What the block stores.
    type Element: KvElement;
    /// What a packed query is made of.
    type Word: Copy;
    /// Queries of `dim` dimensions as [`Self::scores`] reads them, all of the same length.
    fn pack(q: &[f32], dim: usize) -> Cow<'_, [Self::Word]>;
    /// The scores of `Q` packed queries over a block's 32 keys.
    fn scores<const Q: usize>(q: &[Self::Word], keys: &[Self::Element]) -> [[f32; BLOCK_TOKENS]; Q];
    /// Turns the scores of the places that each query sees into weights, and the others into 0, and updates the states. Returns
    /// the factors on the outputs so far.
    #[inline(always)]
    fn weigh<const Q: usize>(
        scores: &mut [[f32; BLOCK_TOKENS]; Q],
        seen: &[Range<usize>; Q],
        states: &mut [SoftmaxState],
    ) -> [f32; Q] {
        let mut rescale = [0.0; Q];
        for (((scores, seen), state), rescale) in scores.iter_mut().zip(seen).zip(states).zip(&mut rescale) {
            scores[..seen.start].fill(f32::NEG_INFINITY);
            scores[seen.end..].fill(f32::NEG_INFINITY);
            *rescale = state.update(scores);
        }
        rescale
    }
    /// `out = out * rescale + weights * values`, for `Q` queries.
    fn add_values<const Q: usize>(weights: &BlockWeights<Q>, values: &[Self::Element], out: &mut [f32]);
}

/// Weights of a block's values for `Q` queries.
pub(super) struct BlockWeights<const Q: usize> {
    pub(super) weights: [[f32; BLOCK_TOKENS]; Q],
    /// Places of the block that any query attends to.
    pub(super) places: Range<usize>,
    pub(super) rescale: [f32; Q],
}

#[inline(always)]
pub(super) fn attend_rows<P: BlockProducts>(
    queries: Queries<'_>,
    keys: &[P::Element],
    values: &[P::Element],
    out: &mut [f32],
) {
    let Queries { values: q, rows, heads, window } = queries;
    let (dim, group) = (heads.head_dim, heads.group());
    let (q, mut states) = (P::pack(q, dim), vec![SoftmaxState::NEW; rows.len() * group]);
    let packed = q.len() / states.len().max(1);
    let (keys_len, values_len) = (P::Element::keys_len(dim), P::Element::values_len(dim));
    let two_fit = (keys_len + values_len) * size_of::<P::Element>() <= PREFETCHED_BYTES_MAX;
    let place = |block: u32, len: usize| block as usize * len..(block as usize + 1) * len;
    let oldest = |row: &AttentionRow<'_>| visible(row.position, window).start;
    let first = rows.iter().map(oldest).min().unwrap_or(0) / BLOCK_TOKENS;
    let last = rows.iter().map(|row| row.position / BLOCK_TOKENS).max().unwrap_or(0);
    for index in first..=last {
        let mut row = 0;
        while row < rows.len() {
            // Neighbouring rows that share this block read it together.
            let block = rows[row].blocks.get(index);
            let run = 1 + rows[row + 1..].iter().take_while(|row| row.blocks.get(index) == block).count();
            let Some(&block) = block else {
                row += run;
                continue;
            };
            // Blocks lie anywhere in memory. While one is computed the next is prefetched, which is that of the next rows;
            // behind the last run comes the first rows' next one. Where two do not fit the first-level cache, values are
            // prefetched while the scores before them are computed.
            let next = match rows.get(row + run) {
                Some(row) => row.blocks.get(index),
                None => rows[0].blocks.get(index + 1),
            };
            if let Some(&next) = next {
                prefetch(&keys[place(next, keys_len)]);
            }
            if let Some(&block) = if two_fit { next } else { Some(&block) } {
                prefetch(&values[place(block, values_len)]);
            }
            let (keys, values) = (&keys[place(block, keys_len)], &values[place(block, values_len)]);
            let (mut query, end) = (row * group, (row + run) * group);
            while query < end {
                let count = QUERIES_MAX.min(end - query);
                let (q, out) = (&q[query * packed..][..count * packed], &mut out[query * dim..][..count * dim]);
                let states = &mut states[query..][..count];
                // The places of the block that each query attends to.
                let seen = |offset: usize| {
                    let row = &rows[(query + offset) / group];
                    let (from, before) = (index * BLOCK_TOKENS, row.position + 1);
                    let seen = oldest(row).max(from)..before.min(from + BLOCK_TOKENS).max(from);
                    (seen.start - from).min(seen.end - from)..seen.end - from
                };
                match count {
                    6 => attend_block::<P, 6>(q, keys, values, std::array::from_fn(seen), states, out),
                    5 => attend_block::<P, 5>(q, keys, values, std::array::from_fn(seen), states, out),
                    4 => attend_block::<P, 4>(q, keys, values, std::array::from_fn(seen), states, out),
                    3 => attend_block::<P, 3>(q, keys, values, std::array::from_fn(seen), states, out),
                    2 => attend_block::<P, 2>(q, keys, values, std::array::from_fn(seen), states, out),
                    _ => attend_block::<P, 1>(q, keys, values, std::array::from_fn(seen), states, out),
                }
                query += count;
            }
            row += run;
        }
    }
    for (out, state) in out.chunks_exact_mut(dim).zip(&states) {
        let inverse = state.inverse();
        out.iter_mut().for_each(|out| *out *= inverse);
    }
}

#[inline(always)]
fn attend_rows_f32(queries: Queries<'_>, keys: &[f32], values: &[f32], out: &mut [f32]) {
    attend_rows::<Loops<f32, WIDTH>>(queries, keys, values, out);
}
#[inline(always)]
fn attend_rows_f32_wide(queries: Queries<'_>, keys: &[f32], values: &[f32], out: &mut [f32]) {
    attend_rows::<Loops<f32, WIDTH_WIDE>>(queries, keys, values, out);
}
vectorised!(
    attend_f32, attend_rows_f32, attend_rows_f32_wide,
    (queries: Queries<'_>, keys: &[f32], values: &[f32], out: &mut [f32])
);

#[inline(always)]
fn attend_rows_bf16(queries: Queries<'_>, keys: &[Bf16Pair], values: &[Bf16Pair], out: &mut [f32]) {
    attend_rows::<Loops<Bf16Pair, WIDTH>>(queries, keys, values, out);
}
#[inline(always)]
fn attend_rows_bf16_wide(queries: Queries<'_>, keys: &[Bf16Pair], values: &[Bf16Pair], out: &mut [f32]) {
    attend_rows::<Loops<Bf16Pair, WIDTH_WIDE>>(queries, keys, values, out);
}
vectorised!(
    attend_bf16, attend_rows_bf16, attend_rows_bf16_wide,
    (queries: Queries<'_>, keys: &[Bf16Pair], values: &[Bf16Pair], out: &mut [f32])
);

/// `Q` queries over one block.
#[inline(always)]
fn attend_block<P: BlockProducts, const Q: usize>(
    q: &[P::Word],
    keys: &[P::Element],
    values: &[P::Element],
    seen: [Range<usize>; Q],
    states: &mut [SoftmaxState],
    out: &mut [f32],
) {
    let mut weights = P::scores::<Q>(q, keys);
    let rescale = P::weigh(&mut weights, &seen, states);
    weights.as_flattened_mut().iter_mut().for_each(|weight| *weight = P::Element::rounded(*weight));
    // A place that only some queries see has weight 0 for the others.
    let first = seen.iter().map(|seen| seen.start).min().unwrap_or(0);
    let last = seen.iter().map(|seen| seen.end).max().unwrap_or(0);
    P::add_values(&BlockWeights { weights, places: first..last, rescale }, values, out);
}

/// Loops over `WIDTH` floats of each query in registers.
struct Loops<T, const WIDTH: usize>(PhantomData<T>);

impl<T: FloatElement, const WIDTH: usize> BlockProducts for Loops<T, WIDTH> {
    type Element = T;
    type Word = f32;

    #[inline(always)]
    fn pack(q: &[f32], _dim: usize) -> Cow<'_, [f32]> {
        Cow::Borrowed(q)
    }

    #[inline(always)]
    fn scores<const Q: usize>(q: &[f32], keys: &[T]) -> [[f32; BLOCK_TOKENS]; Q] {
        let (dim, mut scores) = (q.len() / Q, [[0.0f32; BLOCK_TOKENS]; Q]);
        for from in (0..BLOCK_TOKENS).step_by(WIDTH) {
            let mut sums = [[0.0f32; WIDTH]; Q];
            for (row, keys) in keys.chunks_exact(BLOCK_TOKENS).enumerate() {
                for (part, d) in (row * T::TOGETHER..(row + 1) * T::TOGETHER).enumerate() {
                    let mut key = [0.0; WIDTH];
                    for (key, stored) in key.iter_mut().zip(&keys[from..from + WIDTH]) {
                        *key = stored.widen(part);
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let factor = q[i * dim + d];
                        for (sum, key) in sums.iter_mut().zip(key) {
                            *sum = factor.mul_add(key, *sum);
                        }
                    }
                }
            }
            for (scores, sums) in scores.iter_mut().zip(&sums) {
                scores[from..from + WIDTH].copy_from_slice(sums);
            }
        }
        scores
    }

    #[inline(always)]
    fn add_values<const Q: usize>(weights: &BlockWeights<Q>, values: &[T], out: &mut [f32]) {
        let (dim, mut from) = (out.len() / Q, 0);
        while from + WIDTH <= dim {
            weights.add_columns::<T, WIDTH>(values, from, out);
            from += WIDTH;
        }
        while from + 8 <= dim {
            weights.add_columns::<T, 8>(values, from, out);
            from += 8;
        }
        while from < dim {
            weights.add_columns::<T, 1>(values, from, out);
            from += 1;
        }
    }
}

impl<const Q: usize> BlockWeights<Q> {
    /// `out = out * rescale + weights * values`, columns `from .. from + W`.
    #[inline(always)]
    fn add_columns<T: FloatElement, const W: usize>(&self, values: &[T], from: usize, out: &mut [f32]) {
        let dim = out.len() / Q;
        let mut sums = [[0.0f32; W]; Q];
        for (i, sums) in sums.iter_mut().enumerate() {
            for (sum, &out) in sums.iter_mut().zip(&out[i * dim + from..][..W]) {
                *sum = out * self.rescale[i];
            }
        }
        for row in self.places.start / T::TOGETHER..self.places.end.div_ceil(T::TOGETHER) {
            for (part, place) in (row * T::TOGETHER..(row + 1) * T::TOGETHER).enumerate() {
                let mut value = [0.0; W];
                for (value, stored) in value.iter_mut().zip(&values[row * dim + from..][..W]) {
                    *value = stored.widen(part);
                }
                for (sums, weights) in sums.iter_mut().zip(&self.weights) {
                    for (sum, value) in sums.iter_mut().zip(value) {
                        *sum = weights[place].mul_add(value, *sum);
                    }
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            out[i * dim + from..][..W].copy_from_slice(sums);
        }
    }
}
