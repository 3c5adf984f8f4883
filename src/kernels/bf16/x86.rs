//! Tiles of bf16 weights, widened in registers, for AVX2 and AVX-512.

use crate::kernels::layout::{Bf16Pair, Sums};
use crate::kernels::prefetch::prefetch_ahead;
use crate::kernels::tile::x86::{store_avx2, store_avx512};
use std::arch::x86_64::*;

/// `H` rows (1 to 5) of `depth` inputs times one panel of bf16.
///
/// # Safety
/// The processor must have AVX2 and FMA, `a` must hold `H` rows of `depth` floats, and `pairs` one pair for
/// every two of them, the last one's odd half unused where `depth` is odd.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn tile_bf16_avx2<const H: usize>(a: &[f32], depth: usize, pairs: &[Bf16Pair], sums: &mut Sums) {
    let odd_bits = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    let mut low = [_mm256_setzero_ps(); H];
    let mut high = [_mm256_setzero_ps(); H];
    for (pair, words) in pairs.iter().enumerate() {
        prefetch_ahead(words);
        // SAFETY: a pair is 16 words aligned to 64 bytes; every `k` below is less than `depth`.
        unsafe {
            let first = _mm256_load_si256(words.0.as_ptr().cast());
            let second = _mm256_load_si256(words.0.as_ptr().add(8).cast());
            let even =
                [_mm256_slli_epi32::<16>(first), _mm256_slli_epi32::<16>(second)].map(|w| _mm256_castsi256_ps(w));
            for row in 0..H {
                let factor = _mm256_set1_ps(*a.get_unchecked(row * depth + 2 * pair));
                low[row] = _mm256_fmadd_ps(factor, even[0], low[row]);
                high[row] = _mm256_fmadd_ps(factor, even[1], high[row]);
            }
            if 2 * pair + 1 == depth {
                break;
            }
            let odd =
                [_mm256_and_si256(first, odd_bits), _mm256_and_si256(second, odd_bits)].map(|w| _mm256_castsi256_ps(w));
            for row in 0..H {
                let factor = _mm256_set1_ps(*a.get_unchecked(row * depth + 2 * pair + 1));
                low[row] = _mm256_fmadd_ps(factor, odd[0], low[row]);
                high[row] = _mm256_fmadd_ps(factor, odd[1], high[row]);
            }
        }
    }
    store_avx2(&low, &high, sums);
}

/// `H` rows (1 to 14) of `depth` inputs times one panel of bf16.
///
/// # Safety
/// The processor must have AVX-512F, `a` must hold `H` rows of `depth` floats, and `pairs` one pair for
/// every two of them, the last one's odd half unused where `depth` is odd.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn tile_bf16_avx512<const H: usize>(a: &[f32], depth: usize, pairs: &[Bf16Pair], sums: &mut Sums) {
    let odd_bits = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let mut rows = [_mm512_setzero_ps(); H];
    for (pair, words) in pairs.iter().enumerate() {
        prefetch_ahead(words);
        // SAFETY: a pair is 16 words aligned to 64 bytes; every `k` below is less than `depth`.
        unsafe {
            let words = _mm512_load_si512(words.0.as_ptr().cast());
            let even = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words));
            for (row, sum) in rows.iter_mut().enumerate() {
                let factor = _mm512_set1_ps(*a.get_unchecked(row * depth + 2 * pair));
                *sum = _mm512_fmadd_ps(factor, even, *sum);
            }
            if 2 * pair + 1 == depth {
                break;
            }
            let odd = _mm512_castsi512_ps(_mm512_and_si512(words, odd_bits));
            for (row, sum) in rows.iter_mut().enumerate() {
                let factor = _mm512_set1_ps(*a.get_unchecked(row * depth + 2 * pair + 1));
                *sum = _mm512_fmadd_ps(factor, odd, *sum);
            }
        }
    }
    store_avx512(&rows, sums);
}
