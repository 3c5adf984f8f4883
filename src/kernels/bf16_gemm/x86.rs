//! Rounding to pairs of bf16, and tiles of bf16 dot products (AVX-512 BF16).

use crate::kernels::bf16_dots::{add_dots, interleaved, round};
use crate::kernels::isa::{Isa, has_bf16_dots};
use crate::kernels::layout::{Bf16Pair, Lane, NO_SUM, PANEL, floats, floats_mut};
use crate::kernels::transpose16::transpose16;
use std::arch::x86_64::*;

/// Rows and panels of the largest tile: its sums take 24 of 32 registers.
pub(super) const ROWS: usize = 8;
pub(super) const PANELS: usize = 3;

/// Pairs of rows, `stride` pairs apart, `depth` of each.
#[derive(Clone, Copy)]
pub(super) struct TileRows<'a> {
    pub(super) pairs: &'a [u32],
    pub(super) stride: usize,
    pub(super) depth: usize,
}

/// Lines of `count` panels, `stride` lines apart.
#[derive(Clone, Copy)]
pub(super) struct TilePanels<'a> {
    pub(super) lines: &'a [Bf16Pair],
    pub(super) stride: usize,
    pub(super) count: usize,
}

/// Adds the product of `height` rows and some panels: the sums of a panel are `apart` lanes after the previous one's.
///
/// # Panics
/// Where an operand does not hold a tile, or the processor lacks the instructions.
pub(super) fn tile(height: usize, a: TileRows<'_>, b: TilePanels<'_>, (sums, apart): (&mut [Lane], usize)) {
    let fits = (1..=ROWS).contains(&height) && (1..=PANELS).contains(&b.count) && a.depth > 0;
    let holds = (height - 1) * a.stride + a.depth <= a.pairs.len();
    let holds = holds && (b.count - 1) * b.stride + a.depth <= b.lines.len();
    let holds = holds && (b.count - 1) * apart + height <= sums.len();
    assert!(fits && holds && has_bf16_dots(), "a tile of {height} rows and {} panels", b.count);
    macro_rules! by_size {
        ($($h:literal)+) => {
            match (height, b.count) {
                $(
                    // SAFETY: the processor has the instructions, and the operands hold the tile, as just checked.
                    ($h, 1) => unsafe { add_tile::<$h, 1>(a, b, (sums, apart)) },
                    // SAFETY: as above.
                    ($h, 2) => unsafe { add_tile::<$h, 2>(a, b, (sums, apart)) },
                    // SAFETY: as above.
                    ($h, _) => unsafe { add_tile::<$h, 3>(a, b, (sums, apart)) },
                )+
                _ => unreachable!("the height was just checked"),
            }
        };
    }
    by_size!(1 2 3 4 5 6 7 8);
}

/// Sums of `H` rows and `P` panels.
struct Registers<const H: usize, const P: usize>([[__m512; H]; P]);

/// [`tile`] of `H` rows and `P` panels.
///
/// # Safety
/// The processor must have AVX-512 BF16, and the operands must hold the tile.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn add_tile<const H: usize, const P: usize>(
    TileRows { pairs, stride, depth }: TileRows<'_>,
    b: TilePanels<'_>,
    (sums, apart): (&mut [Lane], usize),
) {
    let mut registers = Registers([[_mm512_setzero_ps(); H]; P]);
    let (pairs, lines) = (pairs.as_ptr(), b.lines.as_ptr());
    // SAFETY: the caller's promise: every row, line and sum below is within its operand; lines and lanes are 64 bytes that
    // are aligned to 64, of plain numbers.
    unsafe {
        for (panel, registers) in registers.0.iter_mut().enumerate() {
            for (row, register) in registers.iter_mut().enumerate() {
                *register = _mm512_load_ps(sums.get_unchecked(panel * apart + row).0.as_ptr());
            }
        }
        for pair in 0..depth {
            let mut weights = [_mm512_setzero_si512(); P];
            for (panel, weights) in weights.iter_mut().enumerate() {
                *weights = _mm512_load_si512(lines.add(panel * b.stride + pair).cast());
            }
            for row in 0..H {
                let factor = _mm512_set1_epi32(pairs.add(row * stride + pair).read().cast_signed());
                for (panel, weights) in weights.iter().enumerate() {
                    registers.0[panel][row] = add_dots(registers.0[panel][row], factor, *weights);
                }
            }
        }
        for (panel, registers) in registers.0.iter().enumerate() {
            for (row, register) in registers.iter().enumerate() {
                _mm512_store_ps(sums.get_unchecked_mut(panel * apart + row).0.as_mut_ptr(), *register);
            }
        }
    }
}

/// Rounds a row to pairs; an odd last value is paired with 0.
///
/// # Panics
/// Where there are not as many pairs, or the processor lacks the instructions.
pub(super) fn round_row(row: &[f32], pairs: &mut [u32]) {
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn rounded(row: &[f32], pairs: &mut [u32]) {
        let ((whole, rest), wholes) = (row.as_chunks::<{ 2 * PANEL }>(), row.len() / (2 * PANEL));
        let (to, to_rest) = pairs.split_at_mut(wholes * PANEL);
        whole.iter().zip(to.as_chunks_mut().0).for_each(|(from, to)| round_32(from, to));
        if !rest.is_empty() {
            let (mut last, mut last_pairs) = ([0.0; 2 * PANEL], [0; PANEL]);
            last[..rest.len()].copy_from_slice(rest);
            round_32(&last, &mut last_pairs);
            to_rest.copy_from_slice(&last_pairs[..to_rest.len()]);
        }
    }
    #[target_feature(enable = "avx512f,avx512bf16")]
    #[inline]
    fn round_32(from: &[f32; 2 * PANEL], to: &mut [u32; PANEL]) {
        // SAFETY: 32 floats are read, 16 words written.
        unsafe {
            let halves = [_mm512_loadu_ps(from.as_ptr()), _mm512_loadu_ps(from.as_ptr().add(PANEL))];
            _mm512_storeu_si512(to.as_mut_ptr().cast(), round(halves[0], halves[1]));
        }
    }
    assert!(pairs.len() == row.len().div_ceil(2) && has_bf16_dots(), "{} pairs of {}", pairs.len(), row.len());
    // SAFETY: the processor has the instructions, as just checked.
    unsafe { rounded(row, pairs) }
}

/// Rounds a panel of weights, one lane an input, to pairs of inputs; an odd last one is paired with 0.
///
/// # Panics
/// Where there are not as many pairs, or the processor lacks the instructions.
pub(super) fn pair_inputs(lanes: &[Lane], pairs: &mut [Bf16Pair]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn paired(lanes: &[Lane], pairs: &mut [Bf16Pair]) {
        for (lanes, to) in lanes.chunks(2).zip(pairs) {
            let odd = lanes.get(1).unwrap_or(&NO_SUM);
            // SAFETY: lanes and pairs are 64 bytes that are aligned to 64.
            unsafe {
                let both = round(_mm512_load_ps(lanes[0].0.as_ptr()), _mm512_load_ps(odd.0.as_ptr()));
                _mm512_store_si512(to.0.as_mut_ptr().cast(), interleaved(both));
            }
        }
    }
    assert!(pairs.len() == lanes.len().div_ceil(2) && has_bf16_dots(), "{} pairs of {}", pairs.len(), lanes.len());
    // SAFETY: the processor has the instructions, as just checked.
    unsafe { paired(lanes, pairs) }
}

/// Rounds up to 16 inputs of one or two panels, lanes of 16 outputs, to 16 pairs of outputs, one lane a pair. What is missing
/// is 0.
///
/// # Panics
/// Where there are more than 16 inputs, or the processor lacks the instructions.
pub(super) fn pair_outputs(first: &[Lane], second: Option<&[Lane]>, pairs: &mut [Bf16Pair; PANEL]) {
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn rounded(first: &Lane, second: &Lane, to: &mut Lane) {
        // SAFETY: lanes are 64 bytes that are aligned to 64.
        unsafe {
            let both = round(_mm512_load_ps(first.0.as_ptr()), _mm512_load_ps(second.0.as_ptr()));
            _mm512_store_si512(to.0.as_mut_ptr().cast(), both);
        }
    }
    assert!(first.len() <= PANEL && has_bf16_dots(), "{} inputs", first.len());
    // Bits of pairs, moved as floats are.
    let (mut square, mut transposed) = ([NO_SUM; PANEL], [NO_SUM; PANEL]);
    for (input, (first, to)) in first.iter().zip(&mut square).enumerate() {
        let second = second.map_or(&NO_SUM, |lanes| &lanes[input]);
        // SAFETY: the processor has the instructions, as just checked.
        unsafe { rounded(first, second, to) }
    }
    transpose16(Isa::detect(), (floats(&square), PANEL), (floats_mut(&mut transposed), PANEL));
    for (pairs, lane) in pairs.iter_mut().zip(&transposed) {
        pairs.0 = lane.0.map(f32::to_bits);
    }
}
