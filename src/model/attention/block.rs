//! Queries over the keys and values of one KV head, block by block (online softmax: arXiv 1805.02867; grouped
//! heads: arXiv 2305.13245).
//!
//! Plain safe loops over fixed widths, compiled once for AVX2 and once for any processor.

use super::{BLOCK_TOKENS, Heads, Reach};
use crate::model::kernel::prefetch;
use crate::model::ops::{exp, vectorised};
use crate::model::paging::visible;

/// Queries whose scores are computed in one sweep over a block's keys: twelve AVX2 registers of sums.
const TOGETHER: usize = 3;
/// Floats of a result that are summed in registers.
const WIDTH: usize = 64;

/// How keys and values are kept: as f32, or as bf16, the upper half of an f32, by its bits.
pub(super) trait Stored: Copy + Send + Sync {
    /// As many zeros, whose memory the system need not touch.
    fn zeros(count: usize) -> Vec<Self>;
    fn narrow(value: f32) -> Self;
    fn widen(self) -> f32;
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

    fn walk(queries: Queries<'_>, keys: &[Self], values: &[Self], found: &mut [f32]) {
        walk_bf16(queries, keys, values, found);
    }
}

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
struct State {
    top: f32,
    sum: f32,
}

#[inline(always)]
fn walk_rows<T: Stored>(queries: Queries<'_>, keys: &[T], values: &[T], found: &mut [f32]) {
    let Queries { values: q, rows, heads, window } = queries;
    let (dim, group) = (heads.head_dim, heads.heads / heads.kv_heads);
    let mut states = vec![State { top: f32::NEG_INFINITY, sum: 0.0 }; rows.len() * group];
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
                    3 => visit::<T, 3>(q, keys, values, [seen(0), seen(1), seen(2)], states, found, dim),
                    2 => visit::<T, 2>(q, keys, values, [seen(0), seen(1)], states, found, dim),
                    _ => visit::<T, 1>(q, keys, values, [seen(0)], states, found, dim),
                }
                query += count;
            }
            row += run;
        }
    }
    for (found, state) in found.chunks_exact_mut(dim).zip(&states) {
        let inverse = 1.0 / state.sum;
        found.iter_mut().for_each(|found| *found *= inverse);
    }
}

#[inline(always)]
fn walk_rows_f32(queries: Queries<'_>, keys: &[f32], values: &[f32], found: &mut [f32]) {
    walk_rows(queries, keys, values, found);
}
vectorised!(walk_f32, walk_rows_f32, (queries: Queries<'_>, keys: &[f32], values: &[f32], found: &mut [f32]));

#[inline(always)]
fn walk_rows_bf16(queries: Queries<'_>, keys: &[u16], values: &[u16], found: &mut [f32]) {
    walk_rows(queries, keys, values, found);
}
vectorised!(walk_bf16, walk_rows_bf16, (queries: Queries<'_>, keys: &[u16], values: &[u16], found: &mut [f32]));

/// `Q` queries meet one block: `keys` is `(head_dim, 32)`, `values` `(32, head_dim)`.
#[inline(always)]
fn visit<T: Stored, const Q: usize>(
    q: &[f32],
    keys: &[T],
    values: &[T],
    seen: [std::ops::Range<usize>; Q],
    states: &mut [State],
    found: &mut [f32],
    dim: usize,
) {
    let mut scores = [[0.0f32; BLOCK_TOKENS]; Q];
    for (d, keys) in keys.chunks_exact(BLOCK_TOKENS).enumerate() {
        for i in 0..Q {
            let factor = q[i * dim + d];
            for j in 0..BLOCK_TOKENS {
                scores[i][j] = factor.mul_add(keys[j].widen(), scores[i][j]);
            }
        }
    }
    for i in 0..Q {
        let seen = seen[i].clone();
        if seen.is_empty() {
            continue;
        }
        let mut weights = [f32::NEG_INFINITY; BLOCK_TOKENS];
        weights[seen.clone()].copy_from_slice(&scores[i][seen.clone()]);
        let mut tops = [states[i].top; 8];
        for weights in weights.chunks_exact(8) {
            for (top, &weight) in tops.iter_mut().zip(weights) {
                *top = if weight > *top { weight } else { *top };
            }
        }
        let top = tops.into_iter().fold(f32::NEG_INFINITY, |top, other| if other > top { other } else { top });
        let kept = exp(states[i].top - top);
        let mut sums = [0.0f32; 8];
        for weights in weights.chunks_exact_mut(8) {
            for (weight, sum) in weights.iter_mut().zip(&mut sums) {
                *weight = exp(*weight - top);
                *sum += *weight;
            }
        }
        states[i] = State { top, sum: states[i].sum.mul_add(kept, sums.iter().sum()) };
        let found = &mut found[i * dim..][..dim];
        let mut from = 0;
        while from + WIDTH <= dim {
            add::<T, WIDTH>(&weights, seen.clone(), values, dim, from, kept, found);
            from += WIDTH;
        }
        while from + 8 <= dim {
            add::<T, 8>(&weights, seen.clone(), values, dim, from, kept, found);
            from += 8;
        }
        while from < dim {
            add::<T, 1>(&weights, seen.clone(), values, dim, from, kept, found);
            from += 1;
        }
    }
}

/// `found = found * kept + weights^T values`, columns `from .. from + W`.
#[inline(always)]
fn add<T: Stored, const W: usize>(
    weights: &[f32; BLOCK_TOKENS],
    seen: std::ops::Range<usize>,
    values: &[T],
    dim: usize,
    from: usize,
    kept: f32,
    found: &mut [f32],
) {
    let mut sums = [0.0f32; W];
    for (sum, &found) in sums.iter_mut().zip(&found[from..from + W]) {
        *sum = found * kept;
    }
    for j in seen {
        let values = &values[j * dim + from..][..W];
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum = weights[j].mul_add(value.widen(), *sum);
        }
    }
    found[from..from + W].copy_from_slice(&sums);
}
