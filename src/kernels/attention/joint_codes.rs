//! Joint prefill over 8-bit keys and values by 8-bit dot products (AVX-512 VNNI): see [`super::joint_strip`].
//!
//! Sums of products are integers and exact; what is rounded is rounded by the operations of [`super::codes`].

use super::codes::{self, CodeQuad, GROUP_QUADS, LEAST, ROUND_UNSIGNED, query_len, round_query, step_of};
use super::joint_strip::{self, Operands, Scratch, Strip, StripProducts};
use super::layout::BLOCK_TOKENS;
use super::online::Queries;
use super::online_code_dot::{applies, joined};
use crate::kernels::layout::{Lane, NO_SUM, PANEL};
use std::arch::x86_64::*;
use std::cell::Cell;
use std::ops::Range;

/// Keys or dimensions of a tile.
const TILE: usize = 4;
/// Quads of places of a block.
const PLACE_QUADS: usize = BLOCK_TOKENS / 4;

thread_local! {
    static SCRATCH: Cell<Scratch<Digits>> = Cell::default();
}

/// Attention of `queries`, all of one sequence; `out` becomes `(rows, group, head_dim)`.
///
/// # Panics
/// Where [`applies`] does not.
pub(super) fn attend(queries: Queries<'_>, keys: &[CodeQuad], values: &[CodeQuad], out: &mut [f32]) {
    let mut scratch = SCRATCH.take();
    joint_strip::attend(&mut scratch, queries, keys, values, out);
    SCRATCH.set(scratch);
}

/// Rounded queries and weights. Private, and used in [`joint_strip::attend`] alone.
#[derive(Default)]
struct Digits {
    dim: usize,
    /// `(words of a query, vectors)`: see [`codes::RoundedQuery`].
    queries: Vec<Lane>,
    /// A query's words.
    words: Vec<i32>,
    /// `(32, vectors)`.
    weights: Vec<Lane>,
    /// `(2, 8, vectors)`: quads of the weights' digits, the high ones first.
    digits: Vec<Lane>,
}

impl StripProducts for Digits {
    type Element = CodeQuad;

    fn applies(dim: usize) -> bool {
        applies(dim)
    }

    fn attend<const V: usize>(strip: &Strip<'_>, scratch: &mut Scratch<Self>, operands: Operands<'_, CodeQuad>) {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn compiled<const V: usize>(
            strip: &Strip<'_>,
            scratch: &mut Scratch<Digits>,
            operands: Operands<'_, CodeQuad>,
        ) {
            // SAFETY: these are the instructions.
            unsafe { strip.attend::<Digits, V>(scratch, operands) }
        }
        // SAFETY: `applies` has looked for them.
        unsafe { compiled::<V>(strip, scratch, operands) }
    }

    #[inline(always)]
    fn set_queries<const V: usize>(&mut self, q: &[f32], dim: usize) {
        let len = query_len(dim);
        self.dim = dim;
        self.words.resize(len, 0);
        self.queries.resize(len * V, NO_SUM);
        self.weights.resize(BLOCK_TOKENS * V, NO_SUM);
        self.digits.resize(2 * PLACE_QUADS * V, NO_SUM);
        for (query, q) in q.chunks_exact(dim).enumerate() {
            round_query(q, &mut self.words);
            for (lanes, word) in self.queries.chunks_exact_mut(V).zip(&self.words) {
                lanes[query / PANEL].0[query % PANEL] = f32::from_bits(word.cast_unsigned());
            }
        }
    }

    #[inline(always)]
    fn scores<const V: usize>(&self, keys: &[CodeQuad], to: &mut [Lane]) {
        // SAFETY: the processor has the instructions.
        unsafe { scores::<V>(&self.queries, self.dim, keys, to) }
    }

    #[inline(always)]
    fn set_weights<const V: usize>(&mut self, pair: usize, v: usize, weights: [__m512; 2]) {
        for (part, weights) in weights.into_iter().enumerate() {
            // SAFETY: the processor has the instructions.
            unsafe { store(&mut self.weights[(2 * pair + part) * V + v], weights) }
        }
    }

    #[inline(always)]
    fn add_values<const V: usize>(
        &mut self,
        values: &[CodeQuad],
        places: Range<usize>,
        rescale: &[__m512; V],
        sums: &mut [Lane],
    ) {
        let (values, steps) = values.split_at(PLACE_QUADS * self.dim);
        let quads = places.start / 4..places.end.div_ceil(4);
        // SAFETY: the processor has the instructions.
        unsafe {
            let steps = round_weights::<V>(&mut self.weights, steps, &mut self.digits);
            add_values::<V>(&self.digits, values, quads, (rescale, &steps), sums);
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(lane: &Lane) -> __m512 {
    // SAFETY: a lane is 16 floats aligned to 64 bytes.
    unsafe { _mm512_load_ps(lane.0.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(to: &mut Lane, floats: __m512) {
    // SAFETY: as above.
    unsafe { _mm512_store_ps(to.0.as_mut_ptr(), floats) }
}

/// The bits of a lane.
#[target_feature(enable = "avx512f")]
#[inline]
fn bits(lane: &Lane) -> __m512i {
    _mm512_castps_si512(load(lane))
}

/// The quad in all lanes.
#[target_feature(enable = "avx512f")]
#[inline]
fn broadcast(quad: CodeQuad) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes(quad))
}

/// Scores of all queries with a block's keys.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn scores<const V: usize>(queries: &[Lane], dim: usize, keys: &[CodeQuad], scores: &mut [Lane]) {
    let (quads, groups) = (codes::quads(dim), codes::groups(dim));
    let (digits, rest) = queries.split_at(2 * quads * V);
    let (high, low) = digits.split_at(quads * V);
    let (corrections, query_steps) = rest.split_at(groups * V);
    let (keys, key_steps) = keys.split_at(quads * BLOCK_TOKENS);
    for first in (0..BLOCK_TOKENS).step_by(TILE) {
        let scores = &mut scores[first * V..][..TILE * V];
        scores.fill(NO_SUM);
        for (group, words) in key_steps.chunks_exact(BLOCK_TOKENS / 2).enumerate() {
            let corrections: [__m512i; V] = std::array::from_fn(|v| bits(&corrections[group * V + v]));
            let mut sums = [corrections.map(|correction| [_mm512_setzero_si512(), correction]); TILE];
            let quads = group * GROUP_QUADS..quads.min((group + 1) * GROUP_QUADS);
            let lanes = quads.start * V..quads.end * V;
            let digits = high[lanes.clone()].chunks_exact(V).zip(low[lanes].chunks_exact(V));
            for ((high, low), keys) in digits.zip(keys[quads.start * BLOCK_TOKENS..].chunks_exact(BLOCK_TOKENS)) {
                for (sums, key) in sums.iter_mut().zip(&keys[first..first + TILE]) {
                    let key = broadcast(*key);
                    for ((sum, high), low) in sums.iter_mut().zip(high).zip(low) {
                        sum[0] = _mm512_dpbusd_epi32(sum[0], key, bits(high));
                        sum[1] = _mm512_dpbusd_epi32(sum[1], key, bits(low));
                    }
                }
            }
            for (place, (scores, sums)) in (first..).zip(scores.chunks_exact_mut(V).zip(sums)) {
                let step = _mm512_set1_ps(step_of(words, place));
                for (score, sum) in scores.iter_mut().zip(sums) {
                    store(score, _mm512_fmadd_ps(joined(sum), step, load(score)));
                }
            }
        }
        for scores in scores.chunks_exact_mut(V) {
            for (score, step) in scores.iter_mut().zip(query_steps) {
                store(score, _mm512_mul_ps(load(score), load(step)));
            }
        }
    }
}

/// [`codes::round_weights`] of 16 queries a lane. Returns the steps.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn round_weights<const V: usize>(weights: &mut [Lane], steps: &[CodeQuad], digits: &mut [Lane]) -> [__m512; V] {
    let mut most = [_mm512_setzero_si512(); V];
    for (place, weights) in weights.chunks_exact_mut(V).enumerate() {
        let step = _mm512_set1_ps(step_of(steps, place));
        for (weight, most) in weights.iter_mut().zip(&mut most) {
            let seen = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(load(weight), _mm512_setzero_ps());
            let product = _mm512_maskz_mul_ps(seen, load(weight), step);
            *most = _mm512_max_epu32(*most, _mm512_castps_si512(product));
            store(weight, product);
        }
    }
    let inverse = most.map(|most| {
        let most = _mm512_castsi512_ps(most);
        let some = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(most, _mm512_set1_ps(LEAST));
        _mm512_maskz_div_ps(some, _mm512_set1_ps(codes::WEIGHT_STEPS), most)
    });
    let (high, low) = digits.split_at_mut(PLACE_QUADS * V);
    let digits = high.chunks_exact_mut(V).zip(low.chunks_exact_mut(V));
    for ((high, low), weights) in digits.zip(weights.chunks_exact(4 * V)) {
        for v in 0..V {
            let rounded = |place: usize| {
                let product = _mm512_mul_ps(load(&weights[place * V + v]), inverse[v]);
                let bits = _mm512_castps_si512(_mm512_add_ps(product, _mm512_set1_ps(ROUND_UNSIGNED)));
                _mm512_and_si512(bits, _mm512_set1_epi32(0xffff))
            };
            let both = |first: __m512i, second: __m512i| _mm512_or_si512(first, _mm512_slli_epi32::<16>(second));
            // Places 0 and 2, then 1 and 3: of each the low digit and then the high one.
            let (even, odd) = (both(rounded(0), rounded(2)), both(rounded(1), rounded(3)));
            let lows = _mm512_set1_epi32(0x00ff_00ff);
            let highs = _mm512_set1_epi32(0xff00_ff00_u32.cast_signed());
            let of_low =
                _mm512_or_si512(_mm512_and_si512(even, lows), _mm512_slli_epi32::<8>(_mm512_and_si512(odd, lows)));
            let of_high =
                _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi32::<8>(even), lows), _mm512_and_si512(odd, highs));
            store(&mut low[v], _mm512_castsi512_ps(of_low));
            store(&mut high[v], _mm512_castsi512_ps(of_high));
        }
    }
    most.map(|most| _mm512_mul_ps(_mm512_castsi512_ps(most), _mm512_set1_ps(codes::WEIGHT_STEP)))
}

/// Rescales the sums and adds the block's values, `(8, head_dim)` quads.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn add_values<const V: usize>(
    digits: &[Lane],
    values: &[CodeQuad],
    quads: Range<usize>,
    (rescale, steps): (&[__m512; V], &[__m512; V]),
    sums: &mut [Lane],
) {
    let dim = sums.len() / V;
    let (high, low) = digits.split_at(PLACE_QUADS * V);
    for first in (0..dim).step_by(TILE) {
        let mut tile = [[[_mm512_setzero_si512(); 2]; V]; TILE];
        for quad in quads.clone() {
            let (high, low) = (&high[quad * V..][..V], &low[quad * V..][..V]);
            for (tile, value) in tile.iter_mut().zip(&values[quad * dim + first..][..TILE]) {
                let value = broadcast(*value);
                for ((sum, high), low) in tile.iter_mut().zip(high).zip(low) {
                    sum[0] = _mm512_dpbusd_epi32(sum[0], bits(high), value);
                    sum[1] = _mm512_dpbusd_epi32(sum[1], bits(low), value);
                }
            }
        }
        for (sums, tile) in sums[first * V..].chunks_exact_mut(V).zip(tile) {
            for (v, (sum, products)) in sums.iter_mut().zip(tile).enumerate() {
                let so_far = _mm512_mul_ps(load(sum), rescale[v]);
                store(sum, _mm512_fmadd_ps(joined(products), steps[v], so_far));
            }
        }
    }
}
