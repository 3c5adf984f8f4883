//! Queries over the keys and values of one KV head, block by block (online softmax: arXiv 1805.02867; grouped
//! heads: arXiv 2305.13245).
//!
//! Plain safe loops over fixed widths, compiled for AVX-512, for AVX2 and for any processor.

use super::{BLOCK_TOKENS, Heads, Reach};
use crate::kernels::ops::{exp, vectorised};
use crate::kernels::{Panel, prefetch};
use crate::transformer::paging::visible;
use std::ops::Range;

/// Queries that meet a block together.
const TOGETHER: usize = 6;
/// Floats of each query that are summed in registers: those of six queries fill twelve of AVX2's sixteen.
const WIDTH: usize = 16;
/// The same where there are AVX-512's registers.
const WIDTH_WIDE: usize = 32;

/// How keys and values are kept: as f32, or as bf16, the upper half of an f32, by its bits.
pub(super) trait Stored: Copy + Send + Sync {
    /// As many zeros, whose memory the system need not touch.
    fn zeros(count: usize) -> Vec<Self>;
    fn narrow(value: f32) -> Self;
    fn widen(self) -> f32;
    /// Puts a matrix of rows `columns` wide in panels of 16 columns.
    fn widen_all(values: &[Self], columns: usize, to: &mut Panel);
    /// What `queries` find, `(rows, group, head_dim)` into `found`, over the cache of their KV head.
    fn walk(queries: Queries<'_>, keys: &[Self], values: &[Self], found: &mut [f32]);
}

impl Stored for f32 {
    fn zeros(count: usize) -> Vec<Self> {
        vec![0.0; count]
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    fn widen_all(values: &[Self], columns: usize, to: &mut Panel) {
        to.fill(values, columns, Self::widen);
    }

    fn walk(queries: Queries<'_>, keys: &[Self], values: &[Self], found: &mut [f32]) {
        walk_f32(queries, keys, values, found);
    }
}

impl Stored for u16 {
    fn zeros(count: usize) -> Vec<Self> {
        vec![0; count]
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        half::bf16::from_f32(value).to_bits()
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }

    fn widen_all(values: &[Self], columns: usize, to: &mut Panel) {
        widen_bf16(values, columns, to);
    }

    fn walk(queries: Queries<'_>, keys: &[Self], values: &[Self], found: &mut [f32]) {
        walk_bf16(queries, keys, values, found);
    }
}

#[inline(always)]
fn widen_rows(values: &[u16], columns: usize, to: &mut Panel) {
    to.fill(values, columns, u16::widen);
}
vectorised!(widen_bf16, widen_rows, (values: &[u16], columns: usize, to: &mut Panel));

/// Rows that walk together, with the queries of one KV head.
#[derive(Clone, Copy)]
pub(super) struct Queries<'a> {
    /// Scaled and turned, `(rows, group, head_dim)`.
    pub(super) values: &'a [f32],
    pub(super) rows: &'a [Reach<'a>],
    pub(super) heads: Heads,
    /// Newest tokens that a row sees.
    pub(super) window: usize,
}

/// Running maximum and sum of one query's softmax.
#[derive(Clone, Copy)]
pub(super) struct State {
    top: f32,
    sum: f32,
}

#[inline(always)]
fn walk_rows<T: Stored, const WIDTH: usize>(queries: Queries<'_>, keys: &[T], values: &[T], found: &mut [f32]) {
    let Queries { values: q, rows, heads, window } = queries;
    let (dim, group) = (heads.head_dim, heads.heads / heads.kv_heads);
    let mut states = vec![State::NEW; rows.len() * group];
    let oldest = |reach: &Reach<'_>| visible(reach.position, window).start;
    let first = rows.iter().map(oldest).min().unwrap_or(0) / BLOCK_TOKENS;
    let last = rows.iter().map(|reach| reach.position / BLOCK_TOKENS).max().unwrap_or(0);
    for index in first..=last {
        let mut row = 0;
        while row < rows.len() {
            // Neighbours that share this block read it together.
            let block = rows[row].blocks.get(index);
            let run = 1 + rows[row + 1..].iter().take_while(|reach| reach.blocks.get(index) == block).count();
            let Some(&block) = block else {
                row += run;
                continue;
            };
            let start = |block: u32| block as usize * BLOCK_TOKENS * dim;
            // Blocks lie anywhere in memory: the values are asked for while scores are computed, and the next
            // rows' keys, which are this run's own where it is the last, while values are summed.
            let next = match rows.get(row + run) {
                Some(reach) => reach.blocks.get(index),
                None => rows[0].blocks.get(index + 1),
            };
            let place = |block: u32| start(block)..start(block) + BLOCK_TOKENS * dim;
            prefetch(&values[place(block)]);
            if let Some(&next) = next {
                prefetch(&keys[place(next)]);
            }
            let (keys, values) = (&keys[place(block)], &values[place(block)]);
            let mut query = row * group;
            let end = (row + run) * group;
            while query < end {
                let count = TOGETHER.min(end - query);
                let (q, found) = (&q[query * dim..][..count * dim], &mut found[query * dim..][..count * dim]);
                let states = &mut states[query..][..count];
                // The places of the block that each query sees.
                let seen = |offset: usize| {
                    let reach = &rows[(query + offset) / group];
                    let (from, before) = (index * BLOCK_TOKENS, reach.position + 1);
                    let seen = oldest(reach).max(from)..before.min(from + BLOCK_TOKENS).max(from);
                    (seen.start - from).min(seen.end - from)..seen.end - from
                };
                match count {
                    6 => visit::<T, 6, WIDTH>(q, keys, values, std::array::from_fn(seen), states, found, dim),
                    5 => visit::<T, 5, WIDTH>(q, keys, values, std::array::from_fn(seen), states, found, dim),
                    4 => visit::<T, 4, WIDTH>(q, keys, values, std::array::from_fn(seen), states, found, dim),
                    3 => visit::<T, 3, WIDTH>(q, keys, values, std::array::from_fn(seen), states, found, dim),
                    2 => visit::<T, 2, WIDTH>(q, keys, values, std::array::from_fn(seen), states, found, dim),
                    _ => visit::<T, 1, WIDTH>(q, keys, values, std::array::from_fn(seen), states, found, dim),
                }
                query += count;
            }
            row += run;
        }
    }
    for (found, state) in found.chunks_exact_mut(dim).zip(&states) {
        let inverse = state.inverse();
        found.iter_mut().for_each(|found| *found *= inverse);
    }
}

#[inline(always)]
fn walk_rows_f32(queries: Queries<'_>, keys: &[f32], values: &[f32], found: &mut [f32]) {
    walk_rows::<f32, WIDTH>(queries, keys, values, found);
}
#[inline(always)]
fn walk_rows_f32_wide(queries: Queries<'_>, keys: &[f32], values: &[f32], found: &mut [f32]) {
    walk_rows::<f32, WIDTH_WIDE>(queries, keys, values, found);
}
vectorised!(
    walk_f32, walk_rows_f32, walk_rows_f32_wide,
    (queries: Queries<'_>, keys: &[f32], values: &[f32], found: &mut [f32])
);

#[inline(always)]
fn walk_rows_bf16(queries: Queries<'_>, keys: &[u16], values: &[u16], found: &mut [f32]) {
    walk_rows::<u16, WIDTH>(queries, keys, values, found);
}
#[inline(always)]
fn walk_rows_bf16_wide(queries: Queries<'_>, keys: &[u16], values: &[u16], found: &mut [f32]) {
    walk_rows::<u16, WIDTH_WIDE>(queries, keys, values, found);
}
vectorised!(
    walk_bf16, walk_rows_bf16, walk_rows_bf16_wide,
    (queries: Queries<'_>, keys: &[u16], values: &[u16], found: &mut [f32])
);

/// `Q` queries meet one block: `keys` is `(head_dim, 32)`, `values` `(32, head_dim)`.
#[inline(always)]
fn visit<T: Stored, const Q: usize, const WIDTH: usize>(
    q: &[f32],
    keys: &[T],
    values: &[T],
    seen: [Range<usize>; Q],
    states: &mut [State],
    found: &mut [f32],
    dim: usize,
) {
    let mut weights = scores::<T, Q, WIDTH>(q, keys, dim);
    let mut kept = [0.0; Q];
    for (((weights, seen), state), kept) in weights.iter_mut().zip(&seen).zip(states).zip(&mut kept) {
        weights[..seen.start].fill(f32::NEG_INFINITY);
        weights[seen.end..].fill(f32::NEG_INFINITY);
        *kept = state.meet(weights);
    }
    // Places that only some of them see have no weight for the others.
    let first = seen.iter().map(|seen| seen.start).min().unwrap_or(0);
    let last = seen.iter().map(|seen| seen.end).max().unwrap_or(0);
    let sums = Sums { weights: &weights, places: first..last, kept: &kept, dim };
    let mut from = 0;
    while from + WIDTH <= dim {
        sums.add::<T, WIDTH>(values, from, found);
        from += WIDTH;
    }
    while from + 8 <= dim {
        sums.add::<T, 8>(values, from, found);
        from += 8;
    }
    while from < dim {
        sums.add::<T, 1>(values, from, found);
        from += 1;
    }
}

/// The scores of `Q` queries over a block's 32 keys.
#[inline(always)]
fn scores<T: Stored, const Q: usize, const WIDTH: usize>(
    q: &[f32],
    keys: &[T],
    dim: usize,
) -> [[f32; BLOCK_TOKENS]; Q] {
    let mut scores = [[0.0f32; BLOCK_TOKENS]; Q];
    for from in (0..BLOCK_TOKENS).step_by(WIDTH) {
        let mut sums = [[0.0f32; WIDTH]; Q];
        for (d, keys) in keys.chunks_exact(BLOCK_TOKENS).enumerate() {
            let mut key = [0.0; WIDTH];
            for (key, stored) in key.iter_mut().zip(&keys[from..from + WIDTH]) {
                *key = stored.widen();
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let factor = q[i * dim + d];
                for (sum, key) in sums.iter_mut().zip(key) {
                    *sum = factor.mul_add(key, *sum);
                }
            }
        }
        for (scores, sums) in scores.iter_mut().zip(&sums) {
            scores[from..from + WIDTH].copy_from_slice(sums);
        }
    }
    scores
}

impl State {
    /// Of a query that met no block yet.
    pub(super) const NEW: Self = Self { top: f32::NEG_INFINITY, sum: 0.0 };

    /// What weights sum up to, to be divided by.
    pub(super) fn inverse(&self) -> f32 {
        1.0 / self.sum
    }

    /// Takes in a block's scores, minus infinity where there is nothing to see, and turns them into weights.
    /// Returns what is kept of what was found before.
    #[inline(always)]
    pub(super) fn meet(&mut self, scores: &mut [f32; BLOCK_TOKENS]) -> f32 {
        let mut tops = [self.top; 8];
        for scores in scores.chunks_exact(8) {
            for (top, &score) in tops.iter_mut().zip(scores) {
                *top = if score > *top { score } else { *top };
            }
        }
        let top = halved(tops, |a, b| if b > a { b } else { a });
        if top == f32::NEG_INFINITY && scores.iter().all(|&score| score == top) {
            // Nothing was seen yet, nor is there anything in this block.
            scores.fill(0.0);
            return 1.0;
        }
        let kept = if top == self.top { 1.0 } else { exp(self.top - top) };
        let mut sums = [0.0f32; 8];
        for scores in scores.chunks_exact_mut(8) {
            for (score, sum) in scores.iter_mut().zip(&mut sums) {
                *score = exp(*score - top);
                *sum += *score;
            }
        }
        *self = Self { top, sum: self.sum.mul_add(kept, halved(sums, |a, b| a + b)) };
        kept
    }
}

/// What `join` makes of eight values, half of them with the other half at a time.
#[inline(always)]
fn halved(values: [f32; 8], join: impl Fn(f32, f32) -> f32) -> f32 {
    let [a, b, c, d, e, f, g, h] = values;
    let [a, b, c, d] = [join(a, e), join(b, f), join(c, g), join(d, h)];
    join(join(a, c), join(b, d))
}

/// What a block adds to the results of `Q` queries.
struct Sums<'a, const Q: usize> {
    weights: &'a [[f32; BLOCK_TOKENS]; Q],
    /// Places of the block that any of them sees.
    places: Range<usize>,
    kept: &'a [f32; Q],
    dim: usize,
}

impl<const Q: usize> Sums<'_, Q> {
    /// `found = found * kept + weights values`, columns `from .. from + W`.
    #[inline(always)]
    fn add<T: Stored, const W: usize>(&self, values: &[T], from: usize, found: &mut [f32]) {
        let mut sums = [[0.0f32; W]; Q];
        for (i, sums) in sums.iter_mut().enumerate() {
            for (sum, &found) in sums.iter_mut().zip(&found[i * self.dim + from..][..W]) {
                *sum = found * self.kept[i];
            }
        }
        for place in self.places.clone() {
            let mut value = [0.0; W];
            for (value, stored) in value.iter_mut().zip(&values[place * self.dim + from..][..W]) {
                *value = stored.widen();
            }
            for (sums, weights) in sums.iter_mut().zip(self.weights) {
                for (sum, value) in sums.iter_mut().zip(value) {
                    *sum = weights[place].mul_add(value, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            found[i * self.dim + from..][..W].copy_from_slice(sums);
        }
    }
}
