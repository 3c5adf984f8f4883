//! Joint prefill by bf16 dot products (AVX-512 BF16).
//!
//! Lanes are queries: scores, softmax and sums of 16 queries are vertical, and keys and values are broadcast from where
//! the cache has them. A strip of queries passes over the blocks of keys as in flash attention (arXiv 2205.14135);
//! blocks that no query sees are left out. A dot product of pairs is two fused multiply-adds, the pair's first before its
//! second, so results equal those of [`super::online`] to the last bit.

use super::element::{Bf16Pair, KvElement as _, pair_of_rounded};
use super::layout::{AttentionRow, BLOCK_TOKENS, visible};
use super::online::Queries;
use crate::kernels::isa::{Isa, has_bf16_dots};
use crate::kernels::layout::{Lane, NO_SUM, PANEL, floats_mut};
use crate::kernels::ops::exp;
use crate::kernels::transpose16::{panel_to_rows, transpose16};
use std::arch::x86_64::*;
use std::cell::Cell;
use std::ops::Range;

/// Vectors of 16 queries in the largest strip: with eight keys or dimensions its sums take 24 of 32 registers.
const VECTORS_MAX: usize = 3;
/// Keys or dimensions of a tile.
const TILE: usize = 8;

/// A strip's buffers, reused: all of them fit the first-level cache together with a block.
#[derive(Default)]
struct Scratch {
    /// `(head_dim / 2, vectors)`: pairs of each query.
    queries: Vec<Lane>,
    /// `(32, vectors)`.
    scores: Vec<Lane>,
    /// `(16, vectors)`: pairs of weights.
    weights: Vec<Lane>,
    /// `(head_dim, vectors)`.
    sums: Vec<Lane>,
    /// Queries of a strip with fewer than 16 a vector, `(16 vectors, head_dim)`.
    padded: Vec<f32>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// Whether this processor has bf16 dot products, and a head of `dim` dimensions is made of their tiles.
pub(super) fn applies(dim: usize) -> bool {
    dim.is_multiple_of(2 * PANEL) && has_bf16_dots()
}

/// Attention of `queries`, all of one sequence, rounded to bf16; `out` becomes `(rows, group, head_dim)`.
pub(super) fn attend(queries: Queries<'_>, keys: &[Bf16Pair], values: &[Bf16Pair], out: &mut [f32]) {
    let Queries { values: q, rows, heads, window } = queries;
    let (dim, group) = (heads.head_dim, heads.group());
    assert!(applies(dim) && q.len() == rows.len() * group * dim && out.len() == q.len(), "{} queries", q.len());
    let mut scratch = SCRATCH.take();
    let count = rows.len() * group;
    for first in (0..count).step_by(VECTORS_MAX * PANEL) {
        let strip = first..count.min(first + VECTORS_MAX * PANEL);
        let of_strip = strip.start * dim..strip.end * dim;
        let strip = Strip { queries: strip, group, rows, window, dim };
        let (q, out) = (&q[of_strip.clone()], &mut out[of_strip]);
        // SAFETY: `applies` has looked for the instructions.
        unsafe {
            match strip.queries.len().div_ceil(PANEL) {
                1 => strip.attend::<1>(&mut scratch, q, (keys, values), out),
                2 => strip.attend::<2>(&mut scratch, q, (keys, values), out),
                _ => strip.attend::<VECTORS_MAX>(&mut scratch, q, (keys, values), out),
            }
        }
    }
    SCRATCH.set(scratch);
}

/// Queries that pass over the keys together.
struct Strip<'a> {
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

impl Strip<'_> {
    /// Attention of the strip's queries, in `V` vectors.
    ///
    /// # Safety
    /// The processor must have AVX-512 F, BW, DQ, VL and BF16.
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn attend<const V: usize>(
        &self,
        scratch: &mut Scratch,
        q: &[f32],
        (keys, values): (&[Bf16Pair], &[Bf16Pair]),
        out: &mut [f32],
    ) {
        let dim = self.dim;
        scratch.resize::<V>(dim);
        scratch.pack_queries::<V>(q, dim);
        scratch.sums.fill(NO_SUM);
        let mut states = [States { max: _mm512_set1_ps(f32::NEG_INFINITY), sum: _mm512_setzero_ps() }; V];
        let seen = self.seen::<V>();
        let row = |query: usize| &self.rows[query / self.group];
        let blocks = row(self.queries.start).blocks;
        let (first, last) = (row(self.queries.start), row(self.queries.end - 1));
        let (oldest, newest) = (visible(first.position, self.window).start, last.position);
        for index in oldest / BLOCK_TOKENS..=newest / BLOCK_TOKENS {
            let Some(&block) = blocks.get(index) else { break };
            let size = Bf16Pair::block_len(dim);
            let place = |block: u32| block as usize * size..(block as usize + 1) * size;
            let (keys_here, values_here) = (&keys[place(block)], &values[place(block)]);
            scores::<V>(&scratch.queries, keys_here, &mut scratch.scores);
            let from = index * BLOCK_TOKENS;
            // The last query sees the newest places, the first one the oldest; some see not all where these differ.
            let all = visible(last.position, self.window).start <= from && first.position + 1 >= from + BLOCK_TOKENS;
            if !all {
                mask::<V>(&mut scratch.scores, &seen, from);
            }
            let rescale = weigh::<V>(&scratch.scores, &mut states, &mut scratch.weights);
            let places = oldest.max(from) - from..(newest + 1).min(from + BLOCK_TOKENS) - from;
            let pairs = places.start / Bf16Pair::TOGETHER..places.end.div_ceil(Bf16Pair::TOGETHER);
            add_values::<V>(&scratch.weights, values_here, pairs, &rescale, &mut scratch.sums);
        }
        self.write::<V>(&scratch.sums, &states, out);
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

impl Scratch {
    fn resize<const V: usize>(&mut self, dim: usize) {
        self.queries.resize(dim / 2 * V, NO_SUM);
        self.scores.resize(BLOCK_TOKENS * V, NO_SUM);
        self.weights.resize(BLOCK_TOKENS / 2 * V, NO_SUM);
        self.sums.resize(dim * V, NO_SUM);
    }

    /// Packs pairs of dimensions of 16 queries a lane.
    #[inline(always)]
    fn pack_queries<const V: usize>(&mut self, q: &[f32], dim: usize) {
        let isa = Isa::detect();
        let q = if q.len() == V * PANEL * dim {
            q
        } else {
            self.padded.clear();
            self.padded.extend_from_slice(q);
            self.padded.resize(V * PANEL * dim, 0.0);
            &self.padded
        };
        for v in 0..V {
            for first in (0..dim).step_by(PANEL) {
                let mut square = [NO_SUM; PANEL];
                transpose16(isa, (&q[v * PANEL * dim + first..], dim), (floats_mut(&mut square), PANEL));
                for (pair, lanes) in square.as_chunks::<2>().0.iter().enumerate() {
                    let to = &mut self.queries[(first / 2 + pair) * V + v].0;
                    for ((to, first), second) in to.iter_mut().zip(&lanes[0].0).zip(&lanes[1].0) {
                        *to = f32::from_bits(pair_of_rounded(*first, *second));
                    }
                }
            }
        }
    }
}

/// A lane of pairs.
#[inline(always)]
fn pairs(lane: &Lane) -> __m512bh {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute::<[f32; PANEL], __m512bh>(lane.0) }
}

/// The pair in all lanes.
#[target_feature(enable = "avx512f")]
#[inline]
fn broadcast(pair: Bf16Pair) -> __m512bh {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair.cast_signed())) }
}

/// Scores of all queries with a block's keys, `(head_dim / 2, 32)`.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn scores<const V: usize>(queries: &[Lane], keys: &[Bf16Pair], scores: &mut [Lane]) {
    for first in (0..BLOCK_TOKENS).step_by(TILE) {
        let mut sums = [[_mm512_setzero_ps(); V]; TILE];
        for (queries, keys) in queries.chunks_exact(V).zip(keys.chunks_exact(BLOCK_TOKENS)) {
            let keys = &keys[first..first + TILE];
            for (sums, key) in sums.iter_mut().zip(keys) {
                let key = broadcast(*key);
                for (sum, query) in sums.iter_mut().zip(queries) {
                    *sum = _mm512_dpbf16_ps(*sum, pairs(query), key);
                }
            }
        }
        for (to, sum) in scores[first * V..][..TILE * V].iter_mut().zip(sums.as_flattened()) {
            // SAFETY: a lane is 16 floats aligned to 64 bytes.
            unsafe { _mm512_store_ps(to.0.as_mut_ptr(), *sum) }
        }
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

/// [`crate::kernels::ops::exp`] of 16 numbers that are at most 0, or not a number: the same bits.
#[target_feature(enable = "avx512f")]
#[inline]
fn exp_of_negative(x: __m512) -> __m512 {
    let all = _mm512_set1_ps;
    let shifted = _mm512_fmadd_ps(x, all(exp::LOG2_E), all(exp::ROUND));
    let n = _mm512_sub_ps(shifted, all(exp::ROUND));
    let r = _mm512_fmadd_ps(n, all(-exp::LN2_LOW), _mm512_fmadd_ps(n, all(-exp::LN2_HIGH), x));
    let mut p = all(exp::COEFFICIENTS[0]);
    for coefficient in &exp::COEFFICIENTS[1..] {
        p = _mm512_fmadd_ps(p, r, all(*coefficient));
    }
    let mantissa = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), all(1.0));
    let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
    let seen = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, all(exp::LEAST));
    _mm512_castsi512_ps(_mm512_maskz_add_epi32(seen, _mm512_castps_si512(mantissa), exponent))
}

/// Turns a block's scores into weights, in pairs, and updates the states. Returns the factors on the sums so far. The
/// operations are those of [`super::softmax::SoftmaxState::update`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn weigh<const V: usize>(scores: &[Lane], states: &mut [States; V], weights: &mut [Lane]) -> [__m512; V] {
    // SAFETY: a lane is 16 floats aligned to 64 bytes.
    let load = |lane: &Lane| unsafe { _mm512_load_ps(lane.0.as_ptr()) };
    let least = _mm512_set1_ps(f32::NEG_INFINITY);
    let order = interleaved();
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
        for (scores, weights) in scores.chunks_exact(8 * V).zip(weights.chunks_exact_mut(4 * V)) {
            for pair in 0..4 {
                let weight =
                    |part: usize| exp_of_negative(_mm512_sub_ps(load(&scores[(2 * pair + part) * V + v]), shift));
                let both = [weight(0), weight(1)];
                for (part, weight) in both.into_iter().enumerate() {
                    sums[2 * pair + part] = _mm512_add_ps(sums[2 * pair + part], weight);
                }
                // SAFETY: both are 64 bytes of plain numbers; a lane is aligned to 64.
                unsafe {
                    let narrow = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(both[0], both[1]));
                    let to = weights[pair * V + v].0.as_mut_ptr();
                    _mm512_store_si512(to.cast(), _mm512_permutexvar_epi16(order, narrow));
                }
            }
        }
        let [a, b, c, d, e, f, g, h] = sums;
        let add = |a: __m512, b: __m512| _mm512_add_ps(a, b);
        let sum = add(add(add(a, e), add(c, g)), add(add(b, f), add(d, h)));
        *state = States { max, sum: _mm512_fmadd_ps(state.sum, *rescale, sum) };
    }
    rescales
}

/// The order that interleaves the two halves of a register of bf16, the upper half's numbers first: narrowed, the first
/// operand is in the upper half, and a pair's first number is its upper one.
#[target_feature(enable = "avx512f")]
#[inline]
fn interleaved() -> __m512i {
    let mut order = [0u16; 2 * PANEL];
    for lane in 0..PANEL {
        (order[2 * lane], order[2 * lane + 1]) = (lane as u16, (PANEL + lane) as u16);
    }
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute::<[u16; 2 * PANEL], __m512i>(order) }
}

/// Rescales the sums and adds the block's values, `(16, head_dim)` pairs, of which `places` count.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn add_values<const V: usize>(
    weights: &[Lane],
    values: &[Bf16Pair],
    places: Range<usize>,
    rescale: &[__m512; V],
    sums: &mut [Lane],
) {
    let dim = sums.len() / V;
    for first in (0..dim).step_by(TILE) {
        let sums = &mut sums[first * V..][..TILE * V];
        let mut tile = [[_mm512_setzero_ps(); V]; TILE];
        for (tile, sums) in tile.iter_mut().zip(sums.chunks_exact(V)) {
            for ((sum, so_far), rescale) in tile.iter_mut().zip(sums).zip(*rescale) {
                // SAFETY: a lane is 16 floats aligned to 64 bytes.
                *sum = _mm512_mul_ps(unsafe { _mm512_load_ps(so_far.0.as_ptr()) }, rescale);
            }
        }
        for place in places.clone() {
            let (weights, values) = (&weights[place * V..][..V], &values[place * dim + first..][..TILE]);
            for (sums, value) in tile.iter_mut().zip(values) {
                let value = broadcast(*value);
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_dpbf16_ps(*sum, pairs(weights), value);
                }
            }
        }
        for (to, sum) in sums.iter_mut().zip(tile.as_flattened()) {
            // SAFETY: a lane is 16 floats aligned to 64 bytes.
            unsafe { _mm512_store_ps(to.0.as_mut_ptr(), *sum) }
        }
    }
}
