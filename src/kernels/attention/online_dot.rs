//! Attention of a few queries by bf16 dot products (AVX-512 BF16): lanes are keys, then dimensions.

use super::element::{Bf16Pair, FloatElement, pair_of_rounded};
use super::layout::BLOCK_TOKENS;
use super::online::{BlockProducts, BlockWeights, Queries, attend_rows};
use super::softmax::SoftmaxState;
use super::softmax_wide;
use crate::kernels::bf16_dots::add_dots;
use crate::kernels::layout::PANEL;
use std::arch::x86_64::*;
use std::borrow::Cow;
use std::ops::Range;

/// Attention of `queries`, rounded to bf16; `out` becomes `(rows, group, head_dim)`.
///
/// # Panics
/// Where [`super::joint_dot::applies`] does not.
pub(super) fn attend(queries: Queries<'_>, keys: &[Bf16Pair], values: &[Bf16Pair], out: &mut [f32]) {
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn with_dots(queries: Queries<'_>, keys: &[Bf16Pair], values: &[Bf16Pair], out: &mut [f32]) {
        attend_rows::<Dots>(queries, keys, values, out);
    }
    assert!(super::joint_dot::applies(queries.heads.head_dim), "heads of {} dimensions", queries.heads.head_dim);
    // SAFETY: the processor has the instructions, as just checked.
    unsafe { with_dots(queries, keys, values, out) }
}

/// Products by bf16 dot products. Private, and used in [`attend`] alone, which has looked for the instructions.
struct Dots;

impl BlockProducts for Dots {
    type Element = Bf16Pair;
    type Word = f32;

    /// Pairs of dimensions.
    #[inline(always)]
    fn pack(q: &[f32], _dim: usize) -> Cow<'_, [f32]> {
        Cow::Owned(q.as_chunks::<2>().0.iter().map(|pair| f32::from_bits(pair_of_rounded(pair[0], pair[1]))).collect())
    }

    #[inline(always)]
    fn scores<const Q: usize>(q: &[f32], keys: &[Bf16Pair]) -> [[f32; BLOCK_TOKENS]; Q] {
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
    fn add_values<const Q: usize>(weights: &BlockWeights<Q>, values: &[Bf16Pair], out: &mut [f32]) {
        // SAFETY: the processor has the instructions.
        unsafe {
            if (out.len() / Q).is_multiple_of(4 * PANEL) {
                add_values::<Q, 4>(weights, values, out);
            } else {
                add_values::<Q, 2>(weights, values, out);
            }
        }
    }
}

/// The pair in all lanes.
#[target_feature(enable = "avx512f")]
#[inline]
fn broadcast(pair: Bf16Pair) -> __m512i {
    _mm512_set1_epi32(pair.cast_signed())
}

/// 16 pairs from `from` on.
#[target_feature(enable = "avx512f")]
#[inline]
fn load(pairs: &[Bf16Pair], from: usize) -> __m512i {
    let pairs = &pairs[from..from + PANEL];
    // SAFETY: they are 64 bytes.
    unsafe { _mm512_loadu_si512(pairs.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn scores<const Q: usize>(q: &[f32], keys: &[Bf16Pair]) -> [[f32; BLOCK_TOKENS]; Q] {
    let width = q.len() / Q;
    let mut sums = [[_mm512_setzero_ps(); BLOCK_TOKENS / PANEL]; Q];
    for (pair, keys) in keys.chunks_exact(BLOCK_TOKENS).enumerate() {
        let keys = [load(keys, 0), load(keys, PANEL)];
        for (query, sums) in sums.iter_mut().enumerate() {
            let q = broadcast(q[query * width + pair].to_bits());
            sums.iter_mut().zip(keys).for_each(|(sum, keys)| *sum = add_dots(*sum, keys, q));
        }
    }
    let mut scores = [[0.0; BLOCK_TOKENS]; Q];
    for (scores, sums) in scores.iter_mut().zip(sums) {
        for (scores, sum) in scores.as_chunks_mut::<PANEL>().0.iter_mut().zip(sums) {
            // SAFETY: they are 16 floats.
            unsafe { _mm512_storeu_ps(scores.as_mut_ptr(), sum) }
        }
    }
    scores
}

/// `V` vectors of dimensions at a time.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn add_values<const Q: usize, const V: usize>(weights: &BlockWeights<Q>, values: &[Bf16Pair], out: &mut [f32]) {
    let BlockWeights { weights, places, rescale } = weights;
    let dim = out.len() / Q;
    let together = Bf16Pair::TOGETHER;
    let pairs = weights.each_ref().map(|weights| weights.as_chunks::<2>().0);
    for first in (0..dim).step_by(V * PANEL) {
        let mut sums = [[_mm512_setzero_ps(); V]; Q];
        for ((sums, out), rescale) in sums.iter_mut().zip(out.chunks_exact(dim)).zip(rescale) {
            for (sum, out) in sums.iter_mut().zip(out[first..].as_chunks::<PANEL>().0) {
                // SAFETY: they are 16 floats.
                *sum = _mm512_mul_ps(unsafe { _mm512_loadu_ps(out.as_ptr()) }, _mm512_set1_ps(*rescale));
            }
        }
        for place in places.start / together..places.end.div_ceil(together) {
            let values: [__m512i; V] = std::array::from_fn(|v| load(values, place * dim + first + v * PANEL));
            for (sums, pairs) in sums.iter_mut().zip(pairs) {
                let [first, second] = pairs[place];
                let weight = broadcast(pair_of_rounded(first, second));
                sums.iter_mut().zip(values).for_each(|(sum, values)| *sum = add_dots(*sum, values, weight));
            }
        }
        for (sums, out) in sums.iter().zip(out.chunks_exact_mut(dim)) {
            for (sum, out) in sums.iter().zip(out[first..].as_chunks_mut::<PANEL>().0) {
                // SAFETY: they are 16 floats.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sum) }
            }
        }
    }
}
