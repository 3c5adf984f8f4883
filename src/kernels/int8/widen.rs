//! Quantised weights in f32: what a pass multiplies that keeps its activations.

use super::layout::{BLOCK_INPUTS, Int8Panel, WeightCodes};
use crate::kernels::layout::{Lane, NO_SUM, PANEL};
use crate::kernels::ops::vectorised;
use half::f16;
use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};

/// Steps and floors of a block's 16 outputs, and what both are multiplied by.
struct BlockScales {
    step: [f32; PANEL],
    floor: [f32; PANEL],
    unit: f32,
}

/// The values of 16 steps or floors.
fn widened(bits: &[u16; PANEL]) -> [f32; PANEL] {
    let mut values = [0.0; PANEL];
    bits.as_slice().reinterpret_cast::<f16>().convert_to_f32_slice(&mut values);
    values
}

/// One input's values as [`super::Int8Matrix::row`] gives them, to the last bit: codes are `shift` bits into the words.
#[inline(always)]
fn lane(words: &[u32; PANEL], scales: &BlockScales, shift: u32, mask: u32) -> Lane {
    let mut lane = NO_SUM;
    for (output, value) in lane.0.iter_mut().enumerate() {
        // A code is less than 256: signed numbers convert in one instruction.
        let code = ((words[output] >> shift) & mask).cast_signed() as f32;
        *value = (scales.step[output] * code + scales.floor[output]) * scales.unit;
    }
    lane
}

/// The four inputs of a word's bytes. Written out: as a loop over inputs it is compiled to scattered stores.
#[inline(always)]
fn four(words: &[u32; PANEL], scales: &BlockScales, shift: u32, mask: u32, lanes: &mut [Lane]) {
    let four = [
        lane(words, scales, shift, mask),
        lane(words, scales, 8 + shift, mask),
        lane(words, scales, 16 + shift, mask),
        lane(words, scales, 24 + shift, mask),
    ];
    match lanes.first_chunk_mut() {
        Some(lanes) => *lanes = four,
        None => lanes.copy_from_slice(&four[..lanes.len()]),
    }
}

#[inline(always)]
fn words(line: &WeightCodes) -> [u32; PANEL] {
    let mut words = [0; PANEL];
    words.iter_mut().zip(line.0.as_chunks::<4>().0).for_each(|(word, bytes)| *word = u32::from_le_bytes(*bytes));
    words
}

#[inline(always)]
fn widen_blocks(panel: Int8Panel<'_>, lanes: &mut [Lane]) {
    let lines = panel.lines();
    let blocks = panel.scales.iter().zip(panel.codes.chunks_exact(lines));
    for ((scales, codes), lanes) in blocks.zip(lanes.chunks_mut(BLOCK_INPUTS)) {
        let (step, floor) = (widened(&scales.step), widened(&scales.floor));
        let scales = BlockScales { step, floor, unit: panel.unit };
        if lines == 4 {
            // The first four of a line's eight inputs are in the low halves of its bytes.
            for (line, lanes) in codes.iter().zip(lanes.chunks_mut(8)) {
                let (words, (low, high)) = (words(line), lanes.split_at_mut(4.min(lanes.len())));
                four(&words, &scales, 0, 15, low);
                four(&words, &scales, 4, 15, high);
            }
        } else {
            codes.iter().zip(lanes.chunks_mut(4)).for_each(|(line, lanes)| four(&words(line), &scales, 0, 255, lanes));
        }
    }
}
vectorised!(panel, widen_blocks, (panel: Int8Panel<'_>, lanes: &mut [Lane]));
