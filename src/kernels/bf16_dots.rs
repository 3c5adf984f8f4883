//! Registers of bf16 pairs: rounding, and dot products with sums in f32 (AVX-512 BF16).

use super::layout::PANEL;
use std::arch::x86_64::*;

/// `sum` and the products of 16 pairs with 16 others.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
pub(super) fn add_dots(sum: __m512, one: __m512i, other: __m512i) -> __m512 {
    // SAFETY: all are 64 bytes of plain numbers.
    unsafe {
        let as_pairs = |words: __m512i| std::mem::transmute::<__m512i, __m512bh>(words);
        _mm512_dpbf16_ps(sum, as_pairs(one), as_pairs(other))
    }
}

/// Rounds 32 floats, those of `low` in the lower half of the register.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
pub(super) fn round(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Pairs of what [`round`] has in its halves: the lower half's number is in the lower half of each pair.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn interleaved(halves: __m512i) -> __m512i {
    let order: [u16; 2 * PANEL] = std::array::from_fn(|half| (half / 2 + half % 2 * PANEL) as u16);
    // SAFETY: the order is 64 bytes.
    let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
    _mm512_permutexvar_epi16(order, halves)
}
