//! Tiles of the 8-bit product for AVX2 and AVX-512 VNNI.
//!
//! Weight codes are the unsigned operand and at most 127, activation codes the signed one: two products sum to at most
//! 2 * 127 * 127 < 2^15, so AVX2's pairwise 16-bit sums never saturate. With nibbles a whole block's sums are at most
//! 16 * 15 * 127 < 2^15, and are widened once for all eight groups.

use super::layout::{BLOCK_INPUTS, Int8Panel, RowBlock, Scales};
use crate::kernels::layout::Lane;
use crate::kernels::prefetch::{PREFETCH_LINES, prefetch_ahead};
use std::arch::x86_64::*;

/// Groups of four inputs in a block.
const GROUPS: usize = 8;

/// Prefetches the scales of a block as far ahead as [`prefetch_ahead`] does its codes.
#[inline(always)]
pub(super) fn prefetch_scales(scales: &Scales) {
    const BLOCKS: usize = PREFETCH_LINES / (GROUPS / 2);
    // SAFETY: a prefetch has no visible effect, whatever the address; SSE is always there.
    unsafe { _mm_prefetch::<_MM_HINT_T0>((&raw const *scales).wrapping_add(BLOCKS).cast()) }
}

/// Four codes of one row's activations as a word.
#[inline(always)]
pub(super) fn word(a: &RowBlock, group: usize) -> i32 {
    let codes = &a.codes;
    i32::from_le_bytes([4 * group, 4 * group + 1, 4 * group + 2, 4 * group + 3].map(|i| codes[i] as u8))
}

/// `H` rows (1 to 14) times one panel.
///
/// # Safety
/// The processor must have AVX-512F and AVX-512 VNNI; `a` must hold `H` rows of as many blocks as the panel has
/// scales, and the panel 4 lines of codes a block if `NIBBLES`, else 8.
#[target_feature(enable = "avx512f,avx512vnni,f16c,fma,avx2")]
pub(super) unsafe fn tile_vnni<const H: usize, const NIBBLES: bool>(
    a: &[RowBlock],
    panel: Int8Panel<'_>,
    sums: &mut [Lane],
) {
    let depth = panel.scales.len();
    let low_bits = _mm512_set1_epi32(0x0f0f_0f0f);
    let mut rows = [_mm512_setzero_ps(); H];
    let lines = if NIBBLES { GROUPS / 2 } else { GROUPS };
    for (block, scales) in panel.scales.iter().enumerate() {
        prefetch_scales(scales);
        let mut integers = [_mm512_setzero_si512(); H];
        for line in 0..lines {
            // SAFETY: the panel has `lines` lines of 64 bytes, aligned to 64, for each block.
            let codes = unsafe { panel.codes.get_unchecked(block * lines + line) };
            prefetch_ahead(codes);
            // SAFETY: as above.
            let codes = unsafe { _mm512_load_si512(codes.0.as_ptr().cast()) };
            let halves = if NIBBLES {
                [_mm512_and_si512(codes, low_bits), _mm512_and_si512(_mm512_srli_epi32::<4>(codes), low_bits)]
            } else {
                [codes, codes]
            };
            for (half, codes) in halves.into_iter().enumerate().take(if NIBBLES { 2 } else { 1 }) {
                let group = if NIBBLES { 2 * line + half } else { line };
                for (row, integer) in integers.iter_mut().enumerate() {
                    // SAFETY: `a` holds `H` rows of `depth` blocks.
                    let a = unsafe { a.get_unchecked(row * depth + block) };
                    *integer = _mm512_dpbusd_epi32(*integer, codes, _mm512_set1_epi32(word(a, group)));
                }
            }
        }
        // SAFETY: both hold 16 words of 16 bits.
        let (step, floor) = unsafe {
            let load = |words: &[u16; 16]| _mm256_loadu_si256(words.as_ptr().cast());
            let Scales { step, floor } = scales;
            (_mm512_cvtph_ps(load(step)), _mm512_cvtph_ps(load(floor)))
        };
        for row in 0..H {
            // SAFETY: `a` holds `H` rows of `depth` blocks.
            let a = unsafe { a.get_unchecked(row * depth + block) };
            let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(integers[row]), step);
            let product = _mm512_fmadd_ps(floor, _mm512_set1_ps(a.sum), scaled);
            rows[row] = _mm512_fmadd_ps(_mm512_set1_ps(a.step), product, rows[row]);
        }
    }
    for (row, sum) in rows.iter().enumerate() {
        // SAFETY: each row of `sums` is 16 floats aligned to 64 bytes.
        unsafe { _mm512_store_ps(sums[row].0.as_mut_ptr(), _mm512_mul_ps(*sum, _mm512_set1_ps(panel.unit))) }
    }
}

/// `H` rows (1 to 6) times one panel, its first eight outputs and then the others.
///
/// # Safety
/// The processor must have AVX2, FMA and F16C; `a` must hold `H` rows of as many blocks as the panel has
/// scales, and the panel 4 lines of codes a block if `NIBBLES`, else 8.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn tile_avx2<const H: usize, const NIBBLES: bool>(
    a: &[RowBlock],
    panel: Int8Panel<'_>,
    sums: &mut [Lane],
) {
    for half in 0..2 {
        // SAFETY: the caller's promise.
        unsafe { half_tile_avx2::<H, NIBBLES>(a, panel, half, sums) }
    }
}

/// Outputs `8 half .. 8 half + 8` of [`tile_avx2`].
///
/// # Safety
/// As [`tile_avx2`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn half_tile_avx2<const H: usize, const NIBBLES: bool>(
    a: &[RowBlock],
    panel: Int8Panel<'_>,
    half: usize,
    sums: &mut [Lane],
) {
    let depth = panel.scales.len();
    let (low_bits, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    let mut rows = [_mm256_setzero_ps(); H];
    let lines = if NIBBLES { GROUPS / 2 } else { GROUPS };
    for (block, scales) in panel.scales.iter().enumerate() {
        prefetch_scales(scales);
        // With nibbles these are 16-bit sums until the block ends.
        let mut integers = [_mm256_setzero_si256(); H];
        for line in 0..lines {
            // SAFETY: the panel has `lines` lines of 64 bytes, aligned to 64, for each block.
            let codes = unsafe { panel.codes.get_unchecked(block * lines + line) };
            prefetch_ahead(codes);
            // SAFETY: as above; each half is 32 bytes.
            let codes = unsafe { _mm256_load_si256(codes.0.as_ptr().add(32 * half).cast()) };
            let halves = if NIBBLES {
                [_mm256_and_si256(codes, low_bits), _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low_bits)]
            } else {
                [codes, codes]
            };
            for (part, codes) in halves.into_iter().enumerate().take(if NIBBLES { 2 } else { 1 }) {
                let group = if NIBBLES { 2 * line + part } else { line };
                for (row, integer) in integers.iter_mut().enumerate() {
                    // SAFETY: `a` holds `H` rows of `depth` blocks.
                    let a = unsafe { a.get_unchecked(row * depth + block) };
                    let pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi32(word(a, group)));
                    *integer = if NIBBLES {
                        _mm256_add_epi16(*integer, pairs)
                    } else {
                        _mm256_add_epi32(*integer, _mm256_madd_epi16(pairs, ones))
                    };
                }
            }
        }
        // SAFETY: both hold 16 words of 16 bits, half of them from `8 half` on.
        let (step, floor) = unsafe {
            let load = |words: &[u16; 16]| _mm_loadu_si128(words.as_ptr().add(8 * half).cast());
            let Scales { step, floor } = scales;
            (_mm256_cvtph_ps(load(step)), _mm256_cvtph_ps(load(floor)))
        };
        for row in 0..H {
            // SAFETY: `a` holds `H` rows of `depth` blocks.
            let a = unsafe { a.get_unchecked(row * depth + block) };
            let integer = if NIBBLES { _mm256_madd_epi16(integers[row], ones) } else { integers[row] };
            let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(integer), step);
            let product = _mm256_fmadd_ps(floor, _mm256_set1_ps(a.sum), scaled);
            rows[row] = _mm256_fmadd_ps(_mm256_set1_ps(a.step), product, rows[row]);
        }
    }
    for (row, sum) in rows.iter().enumerate() {
        // SAFETY: each row of `sums` is 16 floats aligned to 64 bytes, eight of them from `8 half` on.
        unsafe {
            let sum = _mm256_mul_ps(*sum, _mm256_set1_ps(panel.unit));
            _mm256_store_ps(sums[row].0.as_mut_ptr().add(8 * half), sum);
        }
    }
}

/// Quantises a block of which the first `count` values count.
///
/// # Safety
/// The processor must have AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn quantise_avx2(x: &[f32; BLOCK_INPUTS], count: usize, block: &mut RowBlock) {
    let inverse = block.set_step(largest(x));
    let sum = round(x, inverse, &mut block.codes);
    block.set_sum(count, sum);
}

/// The largest absolute value of a block, compared as bits: what is not a number is larger than any.
#[target_feature(enable = "avx2")]
#[inline]
fn largest(x: &[f32; BLOCK_INPUTS]) -> f32 {
    let mut most = _mm256_setzero_si256();
    for part in x.as_chunks::<8>().0 {
        // SAFETY: `part` is eight floats.
        let part = unsafe { _mm256_loadu_si256(part.as_ptr().cast()) };
        most = _mm256_max_epi32(most, _mm256_and_si256(part, _mm256_set1_epi32(i32::MAX)));
    }
    let four = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256::<1>(most));
    let two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
    let one = _mm_max_epi32(two, _mm_shuffle_epi32::<1>(two));
    f32::from_bits(_mm_cvtsi128_si32(one).cast_unsigned())
}

/// Rounds a block to steps of one over `inverse`, ties to even. Returns the sum of the codes.
#[target_feature(enable = "avx2")]
#[inline]
fn round(x: &[f32; BLOCK_INPUTS], inverse: f32, codes: &mut [i8; BLOCK_INPUTS]) -> i32 {
    let inverse = _mm256_set1_ps(inverse);
    let (least, most) = (_mm256_set1_ps(-127.0), _mm256_set1_ps(127.0));
    let words = |index: usize| {
        // SAFETY: `index` is less than four, and the block has four times eight floats.
        let x = unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * index)) };
        let steps = _mm256_mul_ps(x, inverse);
        _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(steps, least), most))
    };
    // Packing works within halves: the eight words of codes are in the order 0 4 1 5 2 6 3 7.
    let halves = [_mm256_packs_epi32(words(0), words(1)), _mm256_packs_epi32(words(2), words(3))];
    let bytes = _mm256_packs_epi16(halves[0], halves[1]);
    let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    // SAFETY: there are 32 codes.
    unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), bytes) }
    // Sums of eight bytes each; a byte is its code plus 128.
    let above = _mm256_xor_si256(bytes, _mm256_set1_epi8(i8::MIN));
    let eights = _mm256_sad_epu8(above, _mm256_setzero_si256());
    let pair = _mm_add_epi64(_mm256_castsi256_si128(eights), _mm256_extracti128_si256::<1>(eights));
    _mm_cvtsi128_si32(_mm_add_epi64(pair, _mm_unpackhi_epi64(pair, pair))) - 128 * BLOCK_INPUTS as i32
}
