//! Tiles of floats for AVX2 and AVX-512: f32 weights, and bf16 weights widened in registers.

use super::Sums;
use super::bf16::Pair;
use super::full::Lane;
use super::strided::Strided;
use std::arch::x86_64::*;

/// Cache lines between the one in use and the one asked for from memory.
pub(super) const AHEAD: usize = 24;

/// Asks for a line some way past `line`. A hint: it may name an address past the panel, and never faults.
#[inline(always)]
pub(super) fn prefetch<T>(line: &T) {
    // SAFETY: a prefetch reads nothing that a program could see, whatever the address; SSE is always there.
    unsafe { _mm_prefetch::<_MM_HINT_T0>((&raw const *line).wrapping_add(AHEAD).cast()) }
}

/// Asks for the lines of `values`.
pub(crate) fn prefetch_all<T>(values: &[T]) {
    for line in values.chunks(64 / size_of::<T>().clamp(1, 64)) {
        // SAFETY: a prefetch reads nothing that a program could see; SSE is always there.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
    }
}

/// Writes sums held as two registers a row.
#[target_feature(enable = "avx2,fma")]
fn store_avx2<const H: usize>(low: &[__m256; H], high: &[__m256; H], sums: &mut Sums) {
    for row in 0..H {
        // SAFETY: each row of `sums` holds 16 floats.
        unsafe {
            _mm256_storeu_ps(sums[row].as_mut_ptr(), low[row]);
            _mm256_storeu_ps(sums[row].as_mut_ptr().add(8), high[row]);
        }
    }
}

/// Writes sums held as one register a row.
#[target_feature(enable = "avx512f")]
fn store_avx512<const H: usize>(rows: &[__m512; H], sums: &mut Sums) {
    for (row, sum) in rows.iter().enumerate() {
        // SAFETY: each row of `sums` holds 16 floats.
        unsafe { _mm512_storeu_ps(sums[row].as_mut_ptr(), *sum) }
    }
}

/// `H` rows (1 to 6) times one panel.
///
/// # Safety
/// The processor must have AVX2 and FMA, and `a` must hold `H` rows of `lanes.len()` floats.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn tile_avx2<const H: usize>(a: Strided<'_>, lanes: &[Lane], sums: &mut Sums) {
    let mut low = [_mm256_setzero_ps(); H];
    let mut high = [_mm256_setzero_ps(); H];
    for (k, lane) in lanes.iter().enumerate() {
        prefetch(lane);
        // SAFETY: a lane is 16 floats aligned to 64 bytes; `k` is less than their number, and `a` holds `H` rows as deep.
        unsafe {
            let first = _mm256_load_ps(lane.0.as_ptr());
            let second = _mm256_load_ps(lane.0.as_ptr().add(8));
            for row in 0..H {
                let factor = _mm256_set1_ps(*a.values.get_unchecked(row * a.row + k * a.step));
                low[row] = _mm256_fmadd_ps(factor, first, low[row]);
                high[row] = _mm256_fmadd_ps(factor, second, high[row]);
            }
        }
    }
    store_avx2(&low, &high, sums);
}

/// `H` rows (1 to 14) times one panel.
///
/// # Safety
/// The processor must have AVX-512F, and `a` must hold `H` rows of `lanes.len()` floats.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn tile_avx512<const H: usize>(a: Strided<'_>, lanes: &[Lane], sums: &mut Sums) {
    let mut rows = [_mm512_setzero_ps(); H];
    for (k, lane) in lanes.iter().enumerate() {
        prefetch(lane);
        // SAFETY: a lane is 16 floats aligned to 64 bytes; `k` is less than their number, and `a` holds `H` rows as deep.
        unsafe {
            let weights = _mm512_load_ps(lane.0.as_ptr());
            for (row, sum) in rows.iter_mut().enumerate() {
                let factor = _mm512_set1_ps(*a.values.get_unchecked(row * a.row + k * a.step));
                *sum = _mm512_fmadd_ps(factor, weights, *sum);
            }
        }
    }
    store_avx512(&rows, sums);
}

/// `H` rows (1 to 5) of `depth` inputs times one panel of bf16.
///
/// # Safety
/// The processor must have AVX2 and FMA, `a` must hold `H` rows of `depth` floats, and `pairs` one pair for
/// every two of them, the last one's odd half unused where `depth` is odd.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn tile_bf16_avx2<const H: usize>(a: &[f32], depth: usize, pairs: &[Pair], sums: &mut Sums) {
    let odd_bits = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    let mut low = [_mm256_setzero_ps(); H];
    let mut high = [_mm256_setzero_ps(); H];
    for (pair, words) in pairs.iter().enumerate() {
        prefetch(words);
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
pub(super) unsafe fn tile_bf16_avx512<const H: usize>(a: &[f32], depth: usize, pairs: &[Pair], sums: &mut Sums) {
    let odd_bits = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let mut rows = [_mm512_setzero_ps(); H];
    for (pair, words) in pairs.iter().enumerate() {
        prefetch(words);
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
