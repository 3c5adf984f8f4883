//! Attention of a few queries over 8-bit keys and values by 8-bit dot products (AVX-512 VNNI): lanes are keys, then
//! dimensions.

use super::codes::{CodeQuad, GROUP_QUADS, LEAST, ROUND_UNSIGNED, RoundedQuery, WEIGHT_STEP, WEIGHT_STEPS, quads_of};
use super::layout::BLOCK_TOKENS;
use super::online::{BlockProducts, BlockWeights, Queries, attend_rows};
use super::online_codes::pack;
use super::softmax::SoftmaxState;
use super::softmax_wide;
use crate::kernels::isa::has_int8_dots;
use crate::kernels::layout::PANEL;
use std::arch::x86_64::*;
use std::borrow::Cow;
use std::ops::Range;

/// Whether this processor has 8-bit dot products, and a head of `dim` dimensions is made of their tiles.
pub(super) fn applies(dim: usize) -> bool {
    dim.is_multiple_of(2 * PANEL) && has_int8_dots()
}

/// Attention of `queries`; `out` becomes `(rows, group, head_dim)`.
///
/// # Panics
/// Where [`applies`] does not.
pub(super) fn attend(queries: Queries<'_>, keys: &[CodeQuad], values: &[CodeQuad], out: &mut [f32]) {
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn with_dots(queries: Queries<'_>, keys: &[CodeQuad], values: &[CodeQuad], out: &mut [f32]) {
        attend_rows::<Dots>(queries, keys, values, out);
    }
    assert!(applies(queries.heads.head_dim), "heads of {} dimensions", queries.heads.head_dim);
    // SAFETY: the processor has the instructions, as just checked.
    unsafe { with_dots(queries, keys, values, out) }
}

/// Products by 8-bit dot products. Private, and used in [`attend`] alone, which has looked for the instructions.
struct Dots;

impl BlockProducts for Dots {
    type Element = CodeQuad;
    type Word = i32;

    #[inline(always)]
    fn pack(q: &[f32], dim: usize) -> Cow<'_, [i32]> {
        pack(q, dim)
    }

    #[inline(always)]
    fn scores<const Q: usize>(q: &[i32], keys: &[CodeQuad]) -> [[f32; BLOCK_TOKENS]; Q] {
        // SAFETY: the processor has the instructions.
        unsafe { scores(q, keys) }
    }

    #[inline(always)]
    fn weigh<const Q: usize>(
        scores: &mut [[f32; BLOCK_TOKENS]; Q],
        seen: &[Range<usize>; Q],
        states: &mut [SoftmaxState],
    ) -> [f32; Q] {
        // SAFETY: the processor has the instructions.
        unsafe { softmax_wide::update(scores, seen, states) }
    }

    #[inline(always)]
    fn add_values<const Q: usize>(weights: &BlockWeights<Q>, values: &[CodeQuad], out: &mut [f32]) {
        // SAFETY: the processor has the instructions.
        unsafe {
            // Of 32 registers, sums take two for each query and vector.
            if Q <= 3 && (out.len() / Q).is_multiple_of(4 * PANEL) {
                add_values::<Q, 4>(weights, values, out);
            } else {
                add_values::<Q, 2>(weights, values, out);
            }
        }
    }
}

/// 16 quads from `from` on.
#[target_feature(enable = "avx512f")]
#[inline]
fn load(quads: &[CodeQuad], from: usize) -> __m512i {
    let quads = &quads[from..from + PANEL];
    // SAFETY: they are 64 bytes.
    unsafe { _mm512_loadu_si512(quads.as_ptr().cast()) }
}

/// The sums of products with two digits: `256 * high + low`, as floats.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn joined([high, low]: [__m512i; 2]) -> __m512 {
    _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32::<8>(high), low))
}

/// The steps of a block's first 16 places and of the others.
#[target_feature(enable = "avx512f")]
#[inline]
fn steps(words: &[CodeQuad]) -> [__m512; BLOCK_TOKENS / PANEL] {
    let words = load(words, 0);
    let second = _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
    [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)), _mm512_castsi512_ps(second)]
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn scores<const Q: usize>(q: &[i32], keys: &[CodeQuad]) -> [[f32; BLOCK_TOKENS]; Q] {
    const V: usize = BLOCK_TOKENS / PANEL;
    let words = q.len() / Q;
    let quads = quads_of(words);
    let (codes, key_steps) = keys.split_at(quads * BLOCK_TOKENS);
    let mut totals = [[_mm512_setzero_ps(); V]; Q];
    for (group, group_steps) in key_steps.chunks_exact(PANEL).enumerate() {
        let mut sums = [[[_mm512_setzero_si512(); 2]; V]; Q];
        for (sums, q) in sums.iter_mut().zip(q.chunks_exact(words)) {
            let correction = _mm512_set1_epi32(RoundedQuery::new(q, quads).corrections[group]);
            sums.iter_mut().for_each(|sum| sum[1] = correction);
        }
        for quad in group * GROUP_QUADS..quads.min((group + 1) * GROUP_QUADS) {
            let keys = [load(codes, quad * BLOCK_TOKENS), load(codes, quad * BLOCK_TOKENS + PANEL)];
            for (sums, q) in sums.iter_mut().zip(q.chunks_exact(words)) {
                let (high, low) = (_mm512_set1_epi32(q[quad]), _mm512_set1_epi32(q[quads + quad]));
                for (sum, keys) in sums.iter_mut().zip(keys) {
                    sum[0] = _mm512_dpbusd_epi32(sum[0], keys, high);
                    sum[1] = _mm512_dpbusd_epi32(sum[1], keys, low);
                }
            }
        }
        let steps = steps(group_steps);
        for (totals, sums) in totals.iter_mut().zip(sums) {
            for ((total, sum), step) in totals.iter_mut().zip(sums).zip(steps) {
                *total = _mm512_fmadd_ps(joined(sum), step, *total);
            }
        }
    }
    let mut scores = [[0.0; BLOCK_TOKENS]; Q];
    for ((scores, totals), q) in scores.iter_mut().zip(totals).zip(q.chunks_exact(words)) {
        let step = _mm512_set1_ps(RoundedQuery::new(q, quads).step);
        for (scores, total) in scores.as_chunks_mut::<PANEL>().0.iter_mut().zip(totals) {
            // SAFETY: they are 16 floats.
            unsafe { _mm512_storeu_ps(scores.as_mut_ptr(), _mm512_mul_ps(total, step)) }
        }
    }
    scores
}

/// Weights as 8-bit dot products read them.
struct WeightDigits {
    /// Quads of places, the high digits first.
    digits: [[i32; BLOCK_TOKENS / 4]; 2],
    step: f32,
}

impl WeightDigits {
    const NONE: Self = Self { digits: [[0; BLOCK_TOKENS / 4]; 2], step: 0.0 };

    /// The operations of [`super::codes::round_weights`].
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn set(&mut self, weights: &[f32; BLOCK_TOKENS], steps: [__m512; BLOCK_TOKENS / PANEL]) {
        let mut products = steps;
        let mut most = _mm512_setzero_si512();
        for (product, weights) in products.iter_mut().zip(weights.as_chunks::<PANEL>().0) {
            // SAFETY: they are 16 floats.
            let weights = unsafe { _mm512_loadu_ps(weights.as_ptr()) };
            let seen = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(weights, _mm512_setzero_ps());
            *product = _mm512_maskz_mul_ps(seen, weights, *product);
            most = _mm512_max_epu32(most, _mm512_castps_si512(*product));
        }
        let most = f32::from_bits(_mm512_reduce_max_epu32(most));
        let inverse = _mm512_set1_ps(if most < LEAST { 0.0 } else { WEIGHT_STEPS / most });
        self.step = most * WEIGHT_STEP;
        let [high, low] = &mut self.digits;
        let halves = high.as_chunks_mut::<4>().0.iter_mut().zip(low.as_chunks_mut::<4>().0);
        for (product, (high, low)) in products.into_iter().zip(halves) {
            let rounded = _mm512_add_ps(_mm512_mul_ps(product, inverse), _mm512_set1_ps(ROUND_UNSIGNED));
            let rounded = _mm512_castps_si512(rounded);
            // SAFETY: four quads are 16 bytes.
            unsafe {
                _mm_storeu_si128(high.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_srli_epi32::<8>(rounded)));
                _mm_storeu_si128(low.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(rounded));
            }
        }
    }
}

/// `V` vectors of dimensions at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn add_values<const Q: usize, const V: usize>(weights: &BlockWeights<Q>, values: &[CodeQuad], out: &mut [f32]) {
    let dim = out.len() / Q;
    let steps = steps(&values[BLOCK_TOKENS / 4 * dim..]);
    let mut rounded = [const { WeightDigits::NONE }; Q];
    for (rounded, weights) in rounded.iter_mut().zip(&weights.weights) {
        rounded.set(weights, steps);
    }
    let quads = weights.places.start / 4..weights.places.end.div_ceil(4);
    for first in (0..dim).step_by(V * PANEL) {
        let mut sums = [[[_mm512_setzero_si512(); 2]; V]; Q];
        for quad in quads.clone() {
            let mut values_here = [_mm512_setzero_si512(); V];
            for (v, to) in values_here.iter_mut().enumerate() {
                *to = load(values, quad * dim + first + v * PANEL);
            }
            for (sums, rounded) in sums.iter_mut().zip(&rounded) {
                let high = _mm512_set1_epi32(rounded.digits[0][quad]);
                let low = _mm512_set1_epi32(rounded.digits[1][quad]);
                for (sum, values) in sums.iter_mut().zip(values_here) {
                    sum[0] = _mm512_dpbusd_epi32(sum[0], high, values);
                    sum[1] = _mm512_dpbusd_epi32(sum[1], low, values);
                }
            }
        }
        for (query, (sums, out)) in sums.into_iter().zip(out.chunks_exact_mut(dim)).enumerate() {
            let rescale = _mm512_set1_ps(weights.rescale[query]);
            let step = _mm512_set1_ps(rounded[query].step);
            for (sum, out) in sums.into_iter().zip(out[first..].as_chunks_mut::<PANEL>().0) {
                // SAFETY: they are 16 floats.
                unsafe {
                    let so_far = _mm512_mul_ps(_mm512_loadu_ps(out.as_ptr()), rescale);
                    _mm512_storeu_ps(out.as_mut_ptr(), _mm512_fmadd_ps(joined(sum), step, so_far));
                }
            }
        }
    }
}
