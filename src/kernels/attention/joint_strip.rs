//! Joint prefill in strips, by AVX-512: lanes are queries.
//!
//! Scores, softmax and sums of 16 queries are vertical, and keys and values are broadcast from where the cache has them. A strip
//! of queries passes over the blocks of keys as in flash attention (arXiv 2205.14135); blocks that no query sees are left
//! out. The products are [`StripProducts`]. Results equal those of [`super::online`] to the last bit.

use super::element::KvElement;
use super::layout::{AttentionRow, BLOCK_TOKENS, visible};
use super::online::Queries;
use super::softmax_wide::exp_of_negative;
use crate::kernels::isa::Isa;
use crate::kernels::layout::{Lane, NO_SUM, PANEL};
use crate::kernels::transpose16::panel_to_rows;
use std::arch::x86_64::*;
use std::ops::Range;

/// Vectors of 16 queries in the largest strip: with 24 sums they take 24 of 32 registers.
const VECTORS_MAX: usize = 3;

/// Products of a strip of queries, `V` vectors of them, with one block, and the queries and weights as it reads them.
///
/// All but [`Self::applies`] is called by [`attend`] alone, which has looked for the instructions.
pub(super) trait StripProducts: Default {
    /// What the block stores.
    type Element: KvElement;
    /// Whether the processor has the instructions, and a head of `dim` dimensions is made of their tiles.
    fn applies(dim: usize) -> bool;
    /// [`Strip::attend`], compiled for the instructions.
    fn attend<const V: usize>(strip: &Strip<'_>, scratch: &mut Scratch<Self>, operands: Operands<'_, Self::Element>);
    /// Keeps the queries `q`, `(16 V, dim)`.
    fn set_queries<const V: usize>(&mut self, q: &[f32], dim: usize);
    /// Scores of all queries with a block's keys, `(32, vectors)`.
    fn scores<const V: usize>(&self, keys: &[Self::Element], scores: &mut [Lane]);
    /// Keeps the weights of the places `2 pair` and `2 pair + 1` of the vector `v`.
    fn set_weights<const V: usize>(&mut self, pair: usize, v: usize, weights: [__m512; 2]);
    /// Rescales the sums, `(dim, vectors)`, and adds the block's values, of which `places` count.
    fn add_values<const V: usize>(
        &mut self,
        values: &[Self::Element],
        places: Range<usize>,
        rescale: &[__m512; V],
        sums: &mut [Lane],
    );
}

/// A strip's buffers, reused: all of them fit the first-level cache together with a block.
#[derive(Default)]
pub(super) struct Scratch<P> {
    products: P,
    /// `(32, vectors)`.
    scores: Vec<Lane>,
    /// `(head_dim, vectors)`.
    sums: Vec<Lane>,
    /// Queries of a strip with fewer than 16 a vector, `(16 vectors, head_dim)`.
    padded: Vec<f32>,
}

/// Attention of `queries`, all of one sequence; `out` becomes `(rows, group, head_dim)`.
///
/// # Panics
/// Where [`StripProducts::applies`] does not.
pub(super) fn attend<P: StripProducts>(
    scratch: &mut Scratch<P>,
    queries: Queries<'_>,
    keys: &[P::Element],
    values: &[P::Element],
    out: &mut [f32],
) {
    let Queries { values: q, rows, heads, window } = queries;
    let (dim, group) = (heads.head_dim, heads.group());
    assert!(P::applies(dim) && q.len() == rows.len() * group * dim && out.len() == q.len(), "{} queries", q.len());
    let count = rows.len() * group;
    for first in (0..count).step_by(VECTORS_MAX * PANEL) {
        let strip = first..count.min(first + VECTORS_MAX * PANEL);
        let of_strip = strip.start * dim..strip.end * dim;
        let strip = Strip { queries: strip, group, rows, window, dim };
        let operands = Operands { q: &q[of_strip.clone()], keys, values, out: &mut out[of_strip] };
        match strip.queries.len().div_ceil(PANEL) {
            1 => P::attend::<1>(&strip, scratch, operands),
            2 => P::attend::<2>(&strip, scratch, operands),
            _ => P::attend::<VECTORS_MAX>(&strip, scratch, operands),
        }
    }
}

/// What a strip reads and writes.
pub(super) struct Operands<'a, T> {
    /// `(queries, head_dim)`.
    q: &'a [f32],
    keys: &'a [T],
    values: &'a [T],
    /// `(queries, head_dim)`.
    out: &'a mut [f32],
}

/// Queries that pass over the keys together.
pub(super) struct Strip<'a> {
    /// Of all queries of `rows`, `group` each.
    queries: Range<usize>,
    group: usize,
    rows: &'a [AttentionRow<'a>],
    window: usize,
    dim: usize,
}

/// Running maximum and sum of the softmax of 16 queries: see [`super::softmax::SoftmaxState`].
#[derive(Clone, Copy)]
struct States {
    max: __m512,
    sum: __m512,
}

impl States {
    /// The states before the first block.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn new() -> Self {
        Self { max: _mm512_set1_ps(f32::NEG_INFINITY), sum: _mm512_setzero_ps() }
    }
}

impl Strip<'_> {
    /// Attention of the strip's queries, in `V` vectors.
    ///
    /// # Safety
    /// The processor must have AVX-512 F, BW, DQ and VL, and the instructions of the products.
    #[inline(always)]
    pub(super) unsafe fn attend<P: StripProducts, const V: usize>(
        &self,
        scratch: &mut Scratch<P>,
        Operands { q, keys, values, out }: Operands<'_, P::Element>,
    ) {
        let dim = self.dim;
        scratch.start::<V>(q, dim);
        let Scratch { products, scores, sums, .. } = scratch;
        // SAFETY: here and below, the processor has the instructions.
        let mut states = [unsafe { States::new() }; V];
        let seen = self.seen::<V>();
        let row = |query: usize| &self.rows[query / self.group];
        let blocks = row(self.queries.start).blocks;
        let (first, last) = (row(self.queries.start), row(self.queries.end - 1));
        let (oldest, newest) = (visible(first.position, self.window).start, last.position);
        for index in oldest / BLOCK_TOKENS..=newest / BLOCK_TOKENS {
            let Some(&block) = blocks.get(index) else { break };
            let (keys_len, values_len) = (P::Element::keys_len(dim), P::Element::values_len(dim));
            products.scores::<V>(&keys[block as usize * keys_len..][..keys_len], scores);
            let from = index * BLOCK_TOKENS;
            // The last query sees the newest places, the first one the oldest; some see not all where these differ.
            let all = visible(last.position, self.window).start <= from && first.position + 1 >= from + BLOCK_TOKENS;
            if !all {
                mask::<V>(scores, &seen, from);
            }
            let keep = |pair: usize, v: usize, weights: [__m512; 2]| products.set_weights::<V>(pair, v, weights);
            // SAFETY: as above.
            let rescale = unsafe { weigh::<V>(scores, &mut states, keep) };
            let places = oldest.max(from) - from..(newest + 1).min(from + BLOCK_TOKENS) - from;
            products.add_values::<V>(&values[block as usize * values_len..][..values_len], places, &rescale, sums);
        }
        // SAFETY: as above.
        unsafe { self.write::<V>(sums, &states, out) }
    }

    /// The positions that each query sees, first and last; lanes past the last query are like it.
    fn seen<const V: usize>(&self) -> [[[i32; PANEL]; 2]; V] {
        let mut seen = [[[0; PANEL]; 2]; V];
        for lane in 0..V * PANEL {
            let query = (self.queries.start + lane).min(self.queries.end - 1);
            let places = visible(self.rows[query / self.group].position, self.window);
            seen[lane / PANEL][0][lane % PANEL] = places.start as i32;
            seen[lane / PANEL][1][lane % PANEL] = places.end as i32 - 1;
        }
        seen
    }

    /// Writes the sums over their weights to the queries' rows.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn write<const V: usize>(&self, sums: &[Lane], states: &[States; V], out: &mut [f32]) {
        let isa = Isa::detect();
        for (v, States { sum, .. }) in states.iter().enumerate() {
            let inverse = _mm512_div_ps(_mm512_set1_ps(1.0), *sum);
            let queries = v * PANEL..self.queries.len().min((v + 1) * PANEL);
            for first in (0..self.dim).step_by(PANEL) {
                let mut square = [NO_SUM; PANEL];
                for (d, to) in square.iter_mut().enumerate() {
                    // SAFETY: lanes are 16 floats aligned to 64 bytes.
                    unsafe {
                        let sum = _mm512_load_ps(sums[(first + d) * V + v].0.as_ptr());
                        _mm512_store_ps(to.0.as_mut_ptr(), _mm512_mul_ps(sum, inverse));
                    }
                }
                let out = &mut out[queries.start * self.dim + first..];
                panel_to_rows(isa, &square, queries.len(), (out, self.dim));
            }
        }
    }
}

impl<P: StripProducts> Scratch<P> {
    /// Keeps the queries `q` and clears the sums.
    #[inline(always)]
    fn start<const V: usize>(&mut self, q: &[f32], dim: usize) {
        let q = if q.len() == V * PANEL * dim {
            q
        } else {
            self.padded.clear();
            self.padded.extend_from_slice(q);
            self.padded.resize(V * PANEL * dim, 0.0);
            &self.padded
        };
        self.products.set_queries::<V>(q, dim);
        self.scores.resize(BLOCK_TOKENS * V, NO_SUM);
        self.sums.clear();
        self.sums.resize(dim * V, NO_SUM);
    }
}

/// Minus infinity where a query does not see a place of the block that begins at `from`.
#[inline(always)]
fn mask<const V: usize>(scores: &mut [Lane], seen: &[[[i32; PANEL]; 2]; V], from: usize) {
    for (position, scores) in (from as i32..).zip(scores.chunks_exact_mut(V)) {
        for (scores, [first, last]) in scores.iter_mut().zip(seen) {
            for ((score, first), last) in scores.0.iter_mut().zip(first).zip(last) {
                *score = if (*first <= position) & (position <= *last) { *score } else { f32::NEG_INFINITY };
            }
        }
    }
}

/// Turns a block's scores into weights, which `keep` receives by pair of places and vector, and updates the states.
/// Returns the factors on the sums so far. The operations are those of [`super::softmax::SoftmaxState::update`].
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn weigh<const V: usize>(
    scores: &[Lane],
    states: &mut [States; V],
    mut keep: impl FnMut(usize, usize, [__m512; 2]),
) -> [__m512; V] {
    // SAFETY: a lane is 16 floats aligned to 64 bytes.
    let load = |lane: &Lane| unsafe { _mm512_load_ps(lane.0.as_ptr()) };
    let least = _mm512_set1_ps(f32::NEG_INFINITY);
    let mut rescales = [_mm512_set1_ps(1.0); V];
    for (v, (state, rescale)) in states.iter_mut().zip(&mut rescales).enumerate() {
        let mut maxima = [state.max; 4];
        for scores in scores.chunks_exact(4 * V) {
            for (place, max) in maxima.iter_mut().enumerate() {
                // If either is not a number, the result is the second one.
                *max = _mm512_max_ps(load(&scores[place * V + v]), *max);
            }
        }
        let [a, b, c, d] = maxima;
        let max = _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d));
        // Where every place so far is masked, all weights are 0.
        let some = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(max, least);
        let shift = _mm512_maskz_mov_ps(some, max);
        let grown = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(max, state.max);
        *rescale = _mm512_mask_mov_ps(*rescale, grown, exp_of_negative(_mm512_sub_ps(state.max, shift)));
        let mut sums = [_mm512_setzero_ps(); 8];
        for (eight, scores) in scores.chunks_exact(8 * V).enumerate() {
            for pair in 0..4 {
                let weight =
                    |part: usize| exp_of_negative(_mm512_sub_ps(load(&scores[(2 * pair + part) * V + v]), shift));
                let both = [weight(0), weight(1)];
                for (part, weight) in both.into_iter().enumerate() {
                    sums[2 * pair + part] = _mm512_add_ps(sums[2 * pair + part], weight);
                }
                keep(4 * eight + pair, v, both);
            }
        }
        let [a, b, c, d, e, f, g, h] = sums;
        let add = |a: __m512, b: __m512| _mm512_add_ps(a, b);
        let sum = add(add(add(a, e), add(c, g)), add(add(b, f), add(d, h)));
        *state = States { max, sum: _mm512_fmadd_ps(state.sum, *rescale, sum) };
    }
    rescales
}
