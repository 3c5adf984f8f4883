//! Attention of neighbouring tokens of one sequence over the keys and values of one KV head: joint prefill.
//!
//! There are enough queries to widen a block once for all of them and to compute both products by tiles. A query's
//! result equals that of [`super::online`] to the last bit.

use super::element::FloatElement;
use super::layout::{BLOCK_TOKENS, visible};
use super::online::Queries;
use super::softmax::SoftmaxState;
use crate::kernels::ops::vectorised;
use crate::kernels::{PanelBuffer, Strided, prefetch};
use std::cell::Cell;
use std::ops::Range;

/// Queries from which joint prefill is faster.
pub(super) const QUERIES_MIN: usize = 12;
/// Panels of a block's keys.
const KEY_PANELS: usize = BLOCK_TOKENS / PanelBuffer::WIDTH;

/// A thread's buffers, reused.
#[derive(Default)]
struct Scratch {
    /// A block's keys, `(panels of 16 keys, head_dim)`, and its values, `(panels of 16 dimensions, 32)`.
    keys: PanelBuffer,
    values: PanelBuffer,
    /// `(panels of keys, queries)`, then by query.
    scores: PanelBuffer,
    weights: Vec<[f32; BLOCK_TOKENS]>,
    /// `(panels of dimensions, queries)`.
    sums: PanelBuffer,
    states: Vec<SoftmaxState>,
    /// Factors on the output so far.
    rescale: Vec<f32>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// Whether `queries` are tokens of one sequence, and enough of them.
pub(super) fn applies(queries: &Queries<'_>) -> bool {
    let Queries { rows, heads, .. } = queries;
    let same = |blocks: &[u32]| std::ptr::eq(blocks, rows[0].blocks);
    crate::kernels::has_tiles() && rows.len() * heads.group() >= QUERIES_MIN && rows.iter().all(|row| same(row.blocks))
}

/// Attention of `queries`; `out` becomes `(rows, group, head_dim)`.
pub(super) fn attend<T: FloatElement>(queries: Queries<'_>, keys: &[T], values: &[T], out: &mut [f32]) {
    let mut scratch = SCRATCH.take();
    scratch.attend(queries, keys, values, out);
    SCRATCH.set(scratch);
}

impl Scratch {
    fn attend<T: FloatElement>(&mut self, queries: Queries<'_>, keys: &[T], values: &[T], out: &mut [f32]) {
        let Queries { values: q, rows, heads, window } = queries;
        let (dim, group) = (heads.head_dim, heads.group());
        let (count, panels) = (rows.len() * group, dim.div_ceil(PanelBuffer::WIDTH));
        self.scores.resize(KEY_PANELS * count);
        self.sums.resize(panels * count);
        self.sums.clear(0..panels * count);
        self.weights.resize(count, [0.0; BLOCK_TOKENS]);
        self.rescale.resize(count, 0.0);
        self.states.clear();
        self.states.resize(count, SoftmaxState::NEW);

        let oldest = rows.iter().map(|row| visible(row.position, window).start).min().unwrap_or(0);
        let newest = rows.iter().map(|row| row.position).max().unwrap_or(0);
        // Keys and values of a block are as many elements.
        let size = T::keys_len(dim);
        let place = |block: u32| block as usize * size..(block as usize + 1) * size;
        for index in oldest / BLOCK_TOKENS..=newest / BLOCK_TOKENS {
            let Some(&block) = rows[0].blocks.get(index) else { break };
            let from = index * BLOCK_TOKENS;
            prefetch(&values[place(block)]);
            T::widen_all(&keys[place(block)], BLOCK_TOKENS, &mut self.keys);
            // Places that any row attends to.
            let seen = oldest.max(from) - from..(newest + 1).min(from + BLOCK_TOKENS) - from;
            self.scores.clear(0..KEY_PANELS * count);
            for panel in seen.start / PanelBuffer::WIDTH..seen.end.div_ceil(PanelBuffer::WIDTH) {
                let (to, depth) = (panel * count..(panel + 1) * count, panel * dim..(panel + 1) * dim);
                self.scores.add_product(to, Strided::rows(q, dim), &self.keys, depth);
            }
            if let Some(&next) = rows[0].blocks.get(index + 1) {
                prefetch(&keys[place(next)]);
            }
            let Self { scores, weights, states, rescale, .. } = self;
            let each = weights
                .chunks_exact_mut(group)
                .zip(states.chunks_exact_mut(group))
                .zip(rescale.chunks_exact_mut(group));
            for (row, ((weights, states), rescale)) in each.enumerate() {
                let seen = visible(rows[row].position, window);
                let [start, end] = [seen.start, seen.end].map(|place| place.clamp(from, from + BLOCK_TOKENS) - from);
                weigh(scores, (row * group, count), weights, start..end, states, rescale);
                weights.iter_mut().flatten().for_each(|weight| *weight = T::rounded(*weight));
            }
            T::widen_all(&values[place(block)], dim, &mut self.values);
            rescale_sums(&mut self.sums, &self.rescale);
            let weights = Strided::rows(&self.weights.as_flattened()[seen.start..], BLOCK_TOKENS);
            for panel in 0..panels {
                let (to, places) = (panel * count..(panel + 1) * count, panel * BLOCK_TOKENS);
                self.sums.add_product(to, weights, &self.values, places + seen.start..places + seen.end);
            }
        }
        for (query, (out, state)) in out.chunks_exact_mut(dim).zip(&self.states).enumerate() {
            let inverse = state.inverse();
            for (panel, out) in out.chunks_mut(PanelBuffer::WIDTH).enumerate() {
                let sums = self.sums.lane(panel * count + query);
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * inverse);
            }
        }
    }
}

/// Turns the scores of a row's queries, the first of which is `first` of `count`, into weights over the places `seen`.
#[inline(always)]
fn weigh_queries(
    scores: &PanelBuffer,
    (first, count): (usize, usize),
    weights: &mut [[f32; BLOCK_TOKENS]],
    seen: Range<usize>,
    states: &mut [SoftmaxState],
    rescale: &mut [f32],
) {
    for (query, ((weights, state), rescale)) in weights.iter_mut().zip(states).zip(rescale).enumerate() {
        for (panel, weights) in weights.as_chunks_mut::<{ PanelBuffer::WIDTH }>().0.iter_mut().enumerate() {
            *weights = *scores.lane(panel * count + first + query);
        }
        if seen != (0..BLOCK_TOKENS) {
            weights[..seen.start].fill(f32::NEG_INFINITY);
            weights[seen.end..].fill(f32::NEG_INFINITY);
        }
        *rescale = state.update(weights);
    }
}
vectorised!(
    weigh, weigh_queries,
    (
        scores: &PanelBuffer, places: (usize, usize), weights: &mut [[f32; BLOCK_TOKENS]], seen: Range<usize>,
        states: &mut [SoftmaxState], rescale: &mut [f32]
    )
);

/// Rescales each query's sums, `(panels, queries)`.
fn rescale_sums(sums: &mut PanelBuffer, rescale: &[f32]) {
    for first in (0..sums.lanes()).step_by(rescale.len()) {
        for (query, &factor) in rescale.iter().enumerate().filter(|(_, factor)| **factor != 1.0) {
            sums.lane_mut(first + query).iter_mut().for_each(|value| *value *= factor);
        }
    }
}
