//! Tiles of the 8-bit product for AVX2 whose lanes are rows.
//!
//! The codes of eight rows are neighbours in memory, so the multiplication reads them itself; a word of weights is
//! broadcast once for all rows of the tile. With outputs as lanes, a word of each row would be broadcast for every
//! eight outputs: as many broadcasts as multiplications. Sums are the same operations in the same order, so both
//! layouts give the same bits.

use super::layout::{BLOCK_INPUTS, Int8Panel, Row8, Scales};
use super::x86::prefetch_scales;
use crate::kernels::layout::{Lane, Line, NO_SUM, PANEL};
use crate::kernels::prefetch::prefetch_ahead;
use std::arch::asm;
use std::arch::x86_64::*;

/// Groups of four inputs in a block.
const GROUPS: usize = BLOCK_INPUTS / 4;

/// A block's weights, widened for broadcasting.
struct BroadcastBlock {
    /// For each group of four inputs, four codes of each output.
    codes: [Line<[u8; 64]>; GROUPS],
    step: Lane,
    floor: Lane,
}

impl BroadcastBlock {
    /// Widens nibbles to bytes.
    ///
    /// # Safety
    /// The processor must have AVX2, and there must be 4 lines of nibbles.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn widen(&mut self, nibbles: &[Line<[u8; 64]>]) {
        let low_bits = _mm256_set1_epi8(15);
        for (line, pair) in nibbles.iter().zip(self.codes.as_chunks_mut::<2>().0) {
            prefetch_ahead(line);
            for half in [0, 32] {
                // SAFETY: a line is 64 bytes aligned to 64.
                unsafe {
                    let codes = _mm256_load_si256(line.0.as_ptr().add(half).cast());
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low_bits);
                    _mm256_store_si256(pair[0].0.as_mut_ptr().add(half).cast(), _mm256_and_si256(codes, low_bits));
                    _mm256_store_si256(pair[1].0.as_mut_ptr().add(half).cast(), high);
                }
            }
        }
    }

    /// Widens steps and floors to floats.
    ///
    /// # Safety
    /// The processor must have AVX2 and F16C.
    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    unsafe fn scale(&mut self, scales: &Scales) {
        for half in [0, 8] {
            // SAFETY: both hold 16 words of 16 bits and become 16 floats aligned to 64 bytes.
            unsafe {
                let load = |words: &[u16; PANEL]| _mm_loadu_si128(words.as_ptr().add(half).cast());
                _mm256_store_ps(self.step.0.as_mut_ptr().add(half), _mm256_cvtph_ps(load(&scales.step)));
                _mm256_store_ps(self.floor.0.as_mut_ptr().add(half), _mm256_cvtph_ps(load(&scales.floor)));
            }
        }
    }
}

/// The same address, opaque to the compiler. Otherwise it would read the rows once for all outputs of a panel, spill
/// them to the stack for lack of registers, and read them from there.
#[expect(clippy::pointers_in_nomem_asm_block, reason = "there is no instruction, so nothing is read")]
#[inline(always)]
fn opaque<T>(mut address: *const T) -> *const T {
    // SAFETY: there is no instruction.
    unsafe { asm!("/* {0} */", inout(reg) address, options(nomem, nostack, preserves_flags)) }
    address
}

/// Forces a sum into a register. Otherwise the compiler would add products in pairs, and keep more of them than there
/// are registers.
#[target_feature(enable = "avx2")]
#[inline]
fn keep_in_register(sum: &mut __m256i) {
    // SAFETY: there is no instruction.
    unsafe { asm!("/* {0} */", inout(ymm_reg) * sum, options(nomem, nostack, preserves_flags)) }
}

/// `C` groups of eight rows (1 to 4) times one panel: lane `8 (c % 2) + r` of `squares[c / 2][o]` becomes output `o` of
/// row `r` of group `c`.
///
/// # Safety
/// The processor must have AVX2, FMA and F16C; `a` must hold `C` groups of as many blocks as the panel has scales, and
/// the panel 4 lines of codes a block if `NIBBLES`, else 8.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn tile_avx2<const C: usize, const NIBBLES: bool>(
    a: &[Row8],
    panel: Int8Panel<'_>,
    squares: &mut [[Lane; PANEL]; 2],
) {
    let ones = _mm256_set1_epi16(1);
    let depth = panel.scales.len();
    *squares = [[NO_SUM; PANEL]; 2];
    let sums: *mut f32 = squares.as_mut_ptr().cast();
    let mut weights = BroadcastBlock { codes: [Line([0; 64]); GROUPS], step: NO_SUM, floor: NO_SUM };
    for (block, scales) in panel.scales.iter().enumerate() {
        prefetch_scales(scales);
        // SAFETY: the processor has the instructions, and the panel as many lines for each block.
        let codes = unsafe {
            weights.scale(scales);
            if NIBBLES {
                weights.widen(panel.codes.get_unchecked(block * GROUPS / 2..(block + 1) * GROUPS / 2));
                &weights.codes[..]
            } else {
                let lines = panel.codes.get_unchecked(block * GROUPS..(block + 1) * GROUPS);
                lines.iter().for_each(prefetch_ahead);
                lines
            }
        };
        for output in 0..PANEL {
            let first = opaque(a.as_ptr().wrapping_add(block));
            // SAFETY: it is the address of this block in the first of `C` groups of `depth` blocks.
            let a: [&Row8; C] = std::array::from_fn(|row8| unsafe { &*first.add(row8 * depth) });
            // With nibbles these are 16-bit sums until the block ends.
            let mut integers = [_mm256_setzero_si256(); C];
            for group in 0..GROUPS {
                // SAFETY: there are 8 lines of 16 words; four codes of eight rows are 32 bytes aligned to 32.
                unsafe {
                    let word = codes.get_unchecked(group).0.as_ptr().cast::<i32>().add(output).read();
                    for (integer, a) in integers.iter_mut().zip(a) {
                        let a = _mm256_load_si256(a.codes[group].as_ptr().cast());
                        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(word), a);
                        *integer = if NIBBLES {
                            _mm256_add_epi16(*integer, pairs)
                        } else {
                            _mm256_add_epi32(*integer, _mm256_madd_epi16(pairs, ones))
                        };
                    }
                    for integer in &mut integers {
                        keep_in_register(integer);
                    }
                }
            }
            let [step, floor] = [&weights.step, &weights.floor].map(|lane| _mm256_set1_ps(lane.0[output]));
            for (row8, (integer, a)) in integers.into_iter().zip(a).enumerate() {
                let integer = if NIBBLES { _mm256_madd_epi16(integer, ones) } else { integer };
                // SAFETY: steps and sums are 8 floats aligned to 32 bytes each; so is half a lane of sums,
                // of which there are 16 for every two groups.
                unsafe {
                    let sums = sums.add((row8 / 2 * PANEL + output) * PANEL + row8 % 2 * 8);
                    let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(integer), step);
                    let product = _mm256_fmadd_ps(floor, _mm256_load_ps(a.sum.as_ptr()), scaled);
                    let so_far = _mm256_load_ps(sums);
                    _mm256_store_ps(sums, _mm256_fmadd_ps(_mm256_load_ps(a.step.as_ptr()), product, so_far));
                }
            }
        }
    }
    multiply(squares, panel.unit);
}

/// Multiplies all sums by `factor`.
#[target_feature(enable = "avx2")]
#[inline]
fn multiply(squares: &mut [[Lane; PANEL]; 2], factor: f32) {
    let factor = _mm256_set1_ps(factor);
    for lane in squares.as_flattened_mut() {
        for half in [0, 8] {
            // SAFETY: a lane is 16 floats aligned to 64 bytes.
            unsafe {
                let sums = lane.0.as_mut_ptr().add(half);
                _mm256_store_ps(sums, _mm256_mul_ps(_mm256_load_ps(sums), factor));
            }
        }
    }
}
