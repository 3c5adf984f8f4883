//! The online softmax of a few queries by AVX-512: the operations of [`super::softmax`], in its order.

use super::layout::BLOCK_TOKENS;
use super::softmax::SoftmaxState;
use crate::kernels::layout::PANEL;
use crate::kernels::ops::exp;
use std::arch::x86_64::*;
use std::ops::Range;

/// [`crate::kernels::ops::exp`] of 16 numbers that are at most 0, or not a number: the same bits.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn exp_of_negative(x: __m512) -> __m512 {
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

/// Updates the states of `Q` queries by their scores of a block, of which each sees some places, and turns the scores into
/// weights. Returns the factors on the outputs so far.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
pub(super) fn update<const Q: usize>(
    scores: &mut [[f32; BLOCK_TOKENS]; Q],
    seen: &[Range<usize>; Q],
    states: &mut [SoftmaxState],
) -> [f32; Q] {
    assert!(states.len() == Q && Q <= PANEL, "a state a query");
    let least = _mm512_set1_ps(f32::NEG_INFINITY);
    let mut shown = [[least; 2]; Q];
    let (mut maxima, mut changes) = ([f32::NEG_INFINITY; Q], [0.0; PANEL]);
    for (query, shown) in shown.iter_mut().enumerate() {
        let [before, through] = [seen[query].start, seen[query].end].map(|place| (1u64 << place) - 1);
        let places = through & !before;
        let mut max = _mm512_set1_ps(states[query].max);
        for (half, scores) in scores[query].as_chunks::<PANEL>().0.iter().enumerate() {
            let places = (places >> (half * PANEL)) as u16;
            // SAFETY: they are 16 floats.
            shown[half] = unsafe { _mm512_mask_loadu_ps(least, places, scores.as_ptr()) };
            // If either is not a number, the result is the second one.
            max = _mm512_max_ps(shown[half], max);
        }
        maxima[query] = _mm512_reduce_max_ps(max);
        // Where every place so far is masked, all weights are 0.
        let shift = if maxima[query] == f32::NEG_INFINITY { 0.0 } else { maxima[query] };
        changes[query] = states[query].max - shift;
        let shift = _mm512_set1_ps(shift);
        for half in &mut *shown {
            *half = exp_of_negative(_mm512_sub_ps(*half, shift));
        }
    }
    // SAFETY: they are 16 floats.
    unsafe { _mm512_storeu_ps(changes.as_mut_ptr(), exp_of_negative(_mm512_loadu_ps(changes.as_ptr()))) }
    let mut rescale = [1.0; Q];
    for (query, [first, second]) in shown.into_iter().enumerate() {
        let state = &mut states[query];
        if maxima[query] != state.max {
            rescale[query] = changes[query];
        }
        let low = |half: __m512| _mm512_castps512_ps256(half);
        let high = |half: __m512| _mm512_extractf32x8_ps::<1>(half);
        let mut sums = _mm256_add_ps(_mm256_add_ps(low(first), high(first)), low(second));
        sums = _mm256_add_ps(sums, high(second));
        let sums = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
        let sums = _mm_add_ps(sums, _mm_movehl_ps(sums, sums));
        let sum = _mm_cvtss_f32(_mm_add_ss(sums, _mm_movehdup_ps(sums)));
        *state = SoftmaxState { max: maxima[query], sum: state.sum.mul_add(rescale[query], sum) };
        for (to, half) in scores[query].as_chunks_mut::<PANEL>().0.iter_mut().zip([first, second]) {
            // SAFETY: they are 16 floats.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), half) }
        }
    }
    rescale
}
