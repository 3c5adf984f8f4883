//! Queries of neighbouring tokens of one sequence over the keys and values of one KV head: a prefill's share of attention.
//!
//! They are many enough for a block to be widened once for all of them, and for both products to go through the
//! kernels' tiles. What a query finds is what it finds alone ([`super::block`]), to the last bit.

use super::BLOCK_TOKENS;
use super::block::{Queries, State, Stored};
use crate::kernels::ops::vectorised;
use crate::kernels::{Panel, Strided, prefetch};
use crate::transformer::paging::visible;
use std::cell::Cell;
use std::ops::Range;

/// Queries from which it pays.
const FEWEST: usize = 12;
/// Panels of a block's keys.
const KEY_PANELS: usize = BLOCK_TOKENS / Panel::WIDTH;

/// What a thread works with, used again.
#[derive(Default)]
struct Scratch {
    /// A block's keys, `(panels of 16 keys, head_dim)`, and its values, `(panels of 16 dimensions, 32)`.
    keys: Panel,
    values: Panel,
    /// `(panels of keys, queries)`, then by query.
    scores: Panel,
    weights: Vec<[f32; BLOCK_TOKENS]>,
    /// `(panels of dimensions, queries)`.
    found: Panel,
    states: Vec<State>,
    /// What is kept of what was found before the block.
    kept: Vec<f32>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// Whether these rows are tokens of one sequence, and enough of them.
pub(super) fn serves(queries: &Queries<'_>) -> bool {
    let Queries { rows, heads, .. } = queries;
    let same = |blocks: &[u32]| std::ptr::eq(blocks, rows[0].blocks);
    crate::kernels::has_tiles()
        && rows.len() * heads.heads / heads.kv_heads >= FEWEST
        && rows.iter().all(|reach| same(reach.blocks))
}

/// What `queries` find, `(rows, group, head_dim)` into `found`.
pub(super) fn walk<T: Stored>(queries: Queries<'_>, keys: &[T], values: &[T], found: &mut [f32]) {
    let mut scratch = SCRATCH.take();
    scratch.walk(queries, keys, values, found);
    SCRATCH.set(scratch);
}

impl Scratch {
    fn walk<T: Stored>(&mut self, queries: Queries<'_>, keys: &[T], values: &[T], out: &mut [f32]) {
        let Queries { values: q, rows, heads, window } = queries;
        let (dim, group) = (heads.head_dim, heads.heads / heads.kv_heads);
        let (count, panels) = (rows.len() * group, dim.div_ceil(Panel::WIDTH));
        self.scores.resize(KEY_PANELS * count);
        self.found.resize(panels * count);
        self.found.clear(0..panels * count);
        self.weights.resize(count, [0.0; BLOCK_TOKENS]);
        self.kept.resize(count, 0.0);
        self.states.clear();
        self.states.resize(count, State::NEW);

        let oldest = rows.iter().map(|reach| visible(reach.position, window).start).min().unwrap_or(0);
        let newest = rows.iter().map(|reach| reach.position).max().unwrap_or(0);
        let place = |block: u32| block as usize * BLOCK_TOKENS * dim..(block as usize + 1) * BLOCK_TOKENS * dim;
        for index in oldest / BLOCK_TOKENS..=newest / BLOCK_TOKENS {
            let Some(&block) = rows[0].blocks.get(index) else { break };
            let from = index * BLOCK_TOKENS;
            prefetch(&values[place(block)]);
            T::widen_all(&keys[place(block)], BLOCK_TOKENS, &mut self.keys);
            // Places that some of the rows see.
            let seen = oldest.max(from) - from..(newest + 1).min(from + BLOCK_TOKENS) - from;
            self.scores.clear(0..KEY_PANELS * count);
            for panel in seen.start / Panel::WIDTH..seen.end.div_ceil(Panel::WIDTH) {
                let (to, depth) = (panel * count..(panel + 1) * count, panel * dim..(panel + 1) * dim);
                self.scores.add_product(to, Strided::rows(q, dim), &self.keys, depth);
            }
            if let Some(&next) = rows[0].blocks.get(index + 1) {
                prefetch(&keys[place(next)]);
            }
            let Self { scores, weights, states, kept, .. } = self;
            let each =
                weights.chunks_exact_mut(group).zip(states.chunks_exact_mut(group)).zip(kept.chunks_exact_mut(group));
            for (row, ((weights, states), kept)) in each.enumerate() {
                let seen = visible(rows[row].position, window);
                let [start, end] = [seen.start, seen.end].map(|place| place.clamp(from, from + BLOCK_TOKENS) - from);
                meet(scores, (row * group, count), weights, start..end, states, kept);
            }
            T::widen_all(&values[place(block)], dim, &mut self.values);
            keep(&mut self.found, &self.kept);
            let weights = Strided::rows(&self.weights.as_flattened()[seen.start..], BLOCK_TOKENS);
            for panel in 0..panels {
                let (to, places) = (panel * count..(panel + 1) * count, panel * BLOCK_TOKENS);
                self.found.add_product(to, weights, &self.values, places + seen.start..places + seen.end);
            }
        }
        for (query, (out, state)) in out.chunks_exact_mut(dim).zip(&self.states).enumerate() {
            let inverse = state.inverse();
            for (panel, out) in out.chunks_mut(Panel::WIDTH).enumerate() {
                let found = self.found.lane(panel * count + query);
                out.iter_mut().zip(found).for_each(|(out, found)| *out = found * inverse);
            }
        }
    }
}

/// Turns the scores of a row's queries, the first of which is `first` of `count`, into weights, of the places that it sees.
#[inline(always)]
fn meet_queries(
    scores: &Panel,
    (first, count): (usize, usize),
    weights: &mut [[f32; BLOCK_TOKENS]],
    seen: Range<usize>,
    states: &mut [State],
    kept: &mut [f32],
) {
    for (query, ((weights, state), kept)) in weights.iter_mut().zip(states).zip(kept).enumerate() {
        for (panel, weights) in weights.as_chunks_mut::<{ Panel::WIDTH }>().0.iter_mut().enumerate() {
            *weights = *scores.lane(panel * count + first + query);
        }
        if seen != (0..BLOCK_TOKENS) {
            weights[..seen.start].fill(f32::NEG_INFINITY);
            weights[seen.end..].fill(f32::NEG_INFINITY);
        }
        *kept = state.meet(weights);
    }
}
vectorised!(
    meet, meet_queries,
    (
        scores: &Panel, places: (usize, usize), weights: &mut [[f32; BLOCK_TOKENS]], seen: Range<usize>,
        states: &mut [State], kept: &mut [f32]
    )
);

/// Multiplies what each query found, `(panels, queries)`, by what is kept of it.
fn keep(found: &mut Panel, kept: &[f32]) {
    for first in (0..found.lanes()).step_by(kept.len()) {
        for (query, &kept) in kept.iter().enumerate().filter(|(_, kept)| **kept != 1.0) {
            found.lane_mut(first + query).iter_mut().for_each(|value| *value *= kept);
        }
    }
}
