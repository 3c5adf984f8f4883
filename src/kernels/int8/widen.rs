//! Quantised weights in f32: what a pass multiplies that keeps its activations.

use super::layout::{BLOCK_INPUTS, Int8Panel, WeightCodes};
use crate::kernels::layout::{Lane, PANEL};
use crate::kernels::ops::vectorised;
use half::f16;
use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};

/// The values of 16 steps or floors.
fn widened(bits: &[u16; PANEL]) -> [f32; PANEL] {
    let mut values = [0.0; PANEL];
    bits.as_slice().reinterpret_cast::<f16>().convert_to_f32_slice(&mut values);
    values
}

/// The inputs of one line that are `SHIFT` bits into its bytes, four inputs of each output: values as
/// [`super::Int8Matrix::row`] gives them, to the last bit.
#[inline(always)]
fn widen_line<const SHIFT: u32, const MASK: u32>(
    line: &WeightCodes,
    [step, floor]: [&[f32; PANEL]; 2],
    unit: f32,
    lanes: &mut [Lane],
) {
    let words: [u32; PANEL] = std::array::from_fn(|output| {
        let bytes = 4 * output;
        u32::from_le_bytes([line.0[bytes], line.0[bytes + 1], line.0[bytes + 2], line.0[bytes + 3]])
    });
    for (input, lane) in (0u32..).zip(lanes) {
        // Codes are less than 256: signed numbers convert in one instruction.
        let codes = words.map(|word| ((word >> (8 * input + SHIFT)) & MASK).cast_signed() as f32);
        lane.0 = std::array::from_fn(|output| (step[output] * codes[output] + floor[output]) * unit);
    }
}

#[inline(always)]
fn widen_blocks(panel: Int8Panel<'_>, lanes: &mut [Lane]) {
    let lines = panel.lines();
    let blocks = panel.scales.iter().zip(panel.codes.chunks_exact(lines));
    for ((scales, codes), lanes) in blocks.zip(lanes.chunks_mut(BLOCK_INPUTS)) {
        let (step, floor) = (widened(&scales.step), widened(&scales.floor));
        let scales = [&step, &floor];
        if lines == 4 {
            // The first four of a line's eight inputs are in the low halves of its bytes.
            for (line, lanes) in codes.iter().zip(lanes.chunks_mut(8)) {
                let (low, high) = lanes.split_at_mut(4.min(lanes.len()));
                widen_line::<0, 15>(line, scales, panel.unit, low);
                widen_line::<4, 15>(line, scales, panel.unit, high);
            }
        } else {
            for (line, lanes) in codes.iter().zip(lanes.chunks_mut(4)) {
                widen_line::<0, 255>(line, scales, panel.unit, lanes);
            }
        }
    }
}
vectorised!(panel, widen_blocks, (panel: Int8Panel<'_>, lanes: &mut [Lane]));
