//! Blocks of GGUF's quantised types as codes: `w = step * code + floor`, with a step and a floor for each 32 weights.
//!
//! The layouts are those of llama.cpp's `ggml-common.h`.

use crate::kernels::CodedBlock;
use crate::kernels::ops::vectorised;
use candle_core::quantized::GgmlDType;
use half::f16;

/// Blocks of 32 weights in one of the K types' blocks.
const IN_K: usize = 8;

/// The largest code of the type; none if it has not one step for each 32 weights.
pub(super) fn largest_code(dtype: GgmlDType) -> Option<u8> {
    match dtype {
        GgmlDType::Q4_0 | GgmlDType::Q4_1 | GgmlDType::Q4K => Some(15),
        GgmlDType::Q5_0 | GgmlDType::Q5_1 | GgmlDType::Q5K => Some(31),
        GgmlDType::Q8_0 => Some(255),
        _ => None,
    }
}

/// Reads `bytes`, whole blocks of a type with codes, to `out`.
pub(super) fn read(dtype: GgmlDType, bytes: &[u8], out: &mut [CodedBlock]) {
    match dtype {
        GgmlDType::Q4_0 => q4_0(bytes, out),
        GgmlDType::Q4_1 => q4_1(bytes, out),
        GgmlDType::Q5_0 => q5_0(bytes, out),
        GgmlDType::Q5_1 => q5_1(bytes, out),
        GgmlDType::Q8_0 => q8_0(bytes, out),
        GgmlDType::Q4K => q4_k(bytes, out),
        GgmlDType::Q5K => q5_k(bytes, out),
        other => unreachable!("{other:?} has no codes"),
    }
}

/// The f16 at `at`.
#[inline(always)]
fn scale(block: &[u8], at: usize) -> f32 {
    f16::from_bits(u16::from_le_bytes([block[at], block[at + 1]])).to_f32()
}

/// The low halves of 16 bytes, then the high ones.
#[inline(always)]
fn nibbles(bytes: &[u8], codes: &mut [u8; 32]) {
    for (at, byte) in bytes[..16].iter().enumerate() {
        (codes[at], codes[at + 16]) = (byte & 15, byte >> 4);
    }
}

/// As [`nibbles`], with the fifth bit of each code from `bits`.
#[inline(always)]
fn five_bits(bits: &[u8], bytes: &[u8], codes: &mut [u8; 32]) {
    nibbles(bytes, codes);
    for (codes, bits) in codes.as_chunks_mut::<8>().0.iter_mut().zip(bits) {
        for (code, mask) in codes.iter_mut().zip([1, 2, 4, 8, 16, 32, 64, 128u8]) {
            *code |= if bits & mask == 0 { 0 } else { 16 };
        }
    }
}

#[inline(always)]
fn q4_0_body(bytes: &[u8], out: &mut [CodedBlock]) {
    for (block, out) in bytes.as_chunks::<18>().0.iter().zip(out) {
        out.step = scale(block, 0);
        out.floor = -8.0 * out.step;
        nibbles(&block[2..], &mut out.codes);
    }
}
vectorised!(q4_0, q4_0_body, (bytes: &[u8], out: &mut [CodedBlock]));

#[inline(always)]
fn q4_1_body(bytes: &[u8], out: &mut [CodedBlock]) {
    for (block, out) in bytes.as_chunks::<20>().0.iter().zip(out) {
        (out.step, out.floor) = (scale(block, 0), scale(block, 2));
        nibbles(&block[4..], &mut out.codes);
    }
}
vectorised!(q4_1, q4_1_body, (bytes: &[u8], out: &mut [CodedBlock]));

#[inline(always)]
fn q5_0_body(bytes: &[u8], out: &mut [CodedBlock]) {
    for (block, out) in bytes.as_chunks::<22>().0.iter().zip(out) {
        out.step = scale(block, 0);
        out.floor = -16.0 * out.step;
        five_bits(&block[2..6], &block[6..], &mut out.codes);
    }
}
vectorised!(q5_0, q5_0_body, (bytes: &[u8], out: &mut [CodedBlock]));

#[inline(always)]
fn q5_1_body(bytes: &[u8], out: &mut [CodedBlock]) {
    for (block, out) in bytes.as_chunks::<24>().0.iter().zip(out) {
        (out.step, out.floor) = (scale(block, 0), scale(block, 2));
        five_bits(&block[4..8], &block[8..], &mut out.codes);
    }
}
vectorised!(q5_1, q5_1_body, (bytes: &[u8], out: &mut [CodedBlock]));

#[inline(always)]
fn q8_0_body(bytes: &[u8], out: &mut [CodedBlock]) {
    for (block, out) in bytes.as_chunks::<34>().0.iter().zip(out) {
        out.step = scale(block, 0);
        out.floor = -128.0 * out.step;
        // A signed byte plus 128.
        for (code, byte) in out.codes.iter_mut().zip(&block[2..]) {
            *code = byte ^ 0x80;
        }
    }
}
vectorised!(q8_0, q8_0_body, (bytes: &[u8], out: &mut [CodedBlock]));

/// Sets step and floor of the blocks of a K block, which begins with two scales and twelve bytes of six-bit factors.
#[inline(always)]
fn k_scales(block: &[u8], out: &mut [CodedBlock]) {
    let (d, d_min, factors) = (scale(block, 0), scale(block, 2), &block[4..16]);
    for (index, out) in out.iter_mut().enumerate() {
        let (step, floor) = match index {
            0..4 => (factors[index] & 63, factors[index + 4] & 63),
            _ => (
                factors[index + 4] & 15 | factors[index - 4] >> 6 << 4,
                factors[index + 4] >> 4 | factors[index] >> 6 << 4,
            ),
        };
        (out.step, out.floor) = (d * f32::from(step), -d_min * f32::from(floor));
    }
}

/// Sets the codes of pairs of blocks: the low halves of 32 bytes, then the high ones.
#[inline(always)]
fn k_nibbles(bytes: &[u8], out: &mut [CodedBlock]) {
    for (bytes, pair) in bytes.chunks_exact(32).zip(out.chunks_exact_mut(2)) {
        for (at, byte) in bytes.iter().enumerate() {
            (pair[0].codes[at], pair[1].codes[at]) = (byte & 15, byte >> 4);
        }
    }
}

#[inline(always)]
fn q4_k_body(bytes: &[u8], out: &mut [CodedBlock]) {
    for (block, out) in bytes.as_chunks::<144>().0.iter().zip(out.chunks_exact_mut(IN_K)) {
        k_scales(block, out);
        k_nibbles(&block[16..], out);
    }
}
vectorised!(q4_k, q4_k_body, (bytes: &[u8], out: &mut [CodedBlock]));

#[inline(always)]
fn q5_k_body(bytes: &[u8], out: &mut [CodedBlock]) {
    for (block, out) in bytes.as_chunks::<176>().0.iter().zip(out.chunks_exact_mut(IN_K)) {
        k_scales(block, out);
        k_nibbles(&block[48..], out);
        for (index, out) in out.iter_mut().enumerate() {
            for (code, bits) in out.codes.iter_mut().zip(&block[16..48]) {
                *code |= (bits >> index & 1) << 4;
            }
        }
    }
}
vectorised!(q5_k, q5_k_body, (bytes: &[u8], out: &mut [CodedBlock]));

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::QTensor;
    use candle_core::{Device, Tensor};

    #[test]
    fn codes_are_the_values_that_candle_gives() {
        use GgmlDType::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q8_0};
        // Some blocks lean to one side, so that steps of both signs and floors of all sizes come about.
        let values: Vec<f32> = (0..2048).map(|i| (i as f32 * 0.7).sin() + (i / 96 % 5) as f32 - 2.0).collect();
        let tensor = Tensor::from_vec(values, (2, 1024), &Device::Cpu).unwrap();
        for dtype in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K] {
            let quantised = QTensor::quantize(&tensor, dtype).unwrap();
            let expected = quantised.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let mut blocks = vec![CodedBlock::ZERO; 64];
            read(dtype, &quantised.data().unwrap(), &mut blocks);
            let most = blocks.iter().flat_map(|block| block.codes).max().unwrap();
            assert!(most <= largest_code(dtype).unwrap(), "{dtype:?}: {most}");
            for (block, expected) in blocks.iter().zip(expected.chunks_exact(32)) {
                for (code, expected) in block.codes.iter().zip(expected) {
                    let got = block.step * f32::from(*code) + block.floor;
                    assert!((got - expected).abs() <= 1e-5 * expected.abs().max(block.floor.abs()), "{dtype:?}");
                }
            }
        }
    }
}
