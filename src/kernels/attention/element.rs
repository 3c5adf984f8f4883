//! What a KV cache stores: f32, or pairs of bf16. 8-bit codes are [`super::codes`].

use super::layout::BLOCK_TOKENS;
use crate::kernels::PanelBuffer;
use crate::kernels::ops::vectorised;
use bytemuck::Pod;

/// An element of the KV cache. `head_dim` is even.
pub(super) trait KvElement: Pod + Send + Sync {
    /// Elements of one block's keys.
    fn keys_len(dim: usize) -> usize;
    /// Elements of one block's values.
    fn values_len(dim: usize) -> usize;
    /// A query's or a weight's value as it is multiplied, unless a product rounds it itself.
    fn rounded(value: f32) -> f32;
    /// Writes a key to the place `place` of its block.
    fn put_key(keys: &mut [Self], place: usize, key: &[f32]);
    /// Writes a value to the place `place` of its block.
    fn put_value(values: &mut [Self], place: usize, value: &[f32]);
}

/// An element of one number, or of several that are summed one after the other.
///
/// A block's keys are `(head_dim / TOGETHER, 32)`, so that 32 scores of a query are one vector loop; its values are
/// `(32 / TOGETHER, head_dim)`.
pub(super) trait FloatElement: KvElement {
    /// Dimensions of a key, or places of a value, in one element.
    const TOGETHER: usize;
    /// The value `part` of the element.
    fn widen(self, part: usize) -> f32;
    /// Widens rows of `columns` elements into panels of 16 columns.
    fn widen_all(values: &[Self], columns: usize, to: &mut PanelBuffer);
}

impl FloatElement for f32 {
    const TOGETHER: usize = 1;

    #[inline(always)]
    fn widen(self, _part: usize) -> f32 {
        self
    }

    fn widen_all(values: &[Self], columns: usize, to: &mut PanelBuffer) {
        to.fill(values, columns, 1, Self::widen);
    }
}

impl KvElement for f32 {
    fn keys_len(dim: usize) -> usize {
        BLOCK_TOKENS * dim
    }

    fn values_len(dim: usize) -> usize {
        BLOCK_TOKENS * dim
    }

    #[inline(always)]
    fn rounded(value: f32) -> f32 {
        value
    }

    fn put_key(keys: &mut [Self], place: usize, key: &[f32]) {
        keys[place..].iter_mut().step_by(BLOCK_TOKENS).zip(key).for_each(|(to, from)| *to = *from);
    }

    fn put_value(values: &mut [Self], place: usize, value: &[f32]) {
        values[place * value.len()..][..value.len()].copy_from_slice(value);
    }
}

/// Two bf16: the first in the upper half of the word, which bf16 dot products add before the lower one.
pub(super) type Bf16Pair = u32;

/// `value` rounded to bf16, ties to even, as the upper half of a word; subnormal numbers are 0, as they are to bf16 dot
/// products.
#[inline(always)]
fn bf16_bits(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    let finite = if bits & 0x7f80_0000 == 0 { 0 } else { rounded };
    if value.is_nan() { 0x7fc0_0000 } else { finite }
}

/// The upper halves of two words.
#[inline(always)]
fn joined(first: u32, second: u32) -> Bf16Pair {
    first & 0xffff_0000 | second >> 16
}

/// A pair of two values that are rounded to bf16 already.
#[inline(always)]
pub(super) fn pair_of_rounded(first: f32, second: f32) -> Bf16Pair {
    joined(first.to_bits(), second.to_bits())
}

impl FloatElement for Bf16Pair {
    const TOGETHER: usize = 2;

    #[inline(always)]
    fn widen(self, part: usize) -> f32 {
        f32::from_bits(if part == 0 { self & 0xffff_0000 } else { self << 16 })
    }

    fn widen_all(values: &[Self], columns: usize, to: &mut PanelBuffer) {
        widen_bf16(values, columns, to);
    }
}

impl KvElement for Bf16Pair {
    fn keys_len(dim: usize) -> usize {
        BLOCK_TOKENS / Self::TOGETHER * dim
    }

    fn values_len(dim: usize) -> usize {
        BLOCK_TOKENS / Self::TOGETHER * dim
    }

    #[inline(always)]
    fn rounded(value: f32) -> f32 {
        f32::from_bits(bf16_bits(value))
    }

    fn put_key(keys: &mut [Self], place: usize, key: &[f32]) {
        for (to, pair) in keys[place..].iter_mut().step_by(BLOCK_TOKENS).zip(key.as_chunks::<2>().0) {
            *to = joined(bf16_bits(pair[0]), bf16_bits(pair[1]));
        }
    }

    fn put_value(values: &mut [Self], place: usize, value: &[f32]) {
        for (to, value) in values[place / 2 * value.len()..].iter_mut().zip(value) {
            // A place is written after those before it: the one behind it becomes 0, or what was there before, not a
            // number maybe, would count with its weight of 0.
            let bits = bf16_bits(*value);
            *to = if place.is_multiple_of(2) { bits } else { joined(*to, bits) };
        }
    }
}

#[inline(always)]
fn widen_rows(values: &[Bf16Pair], columns: usize, to: &mut PanelBuffer) {
    to.fill(values, columns, 2, Bf16Pair::widen);
}
vectorised!(widen_bf16, widen_rows, (values: &[Bf16Pair], columns: usize, to: &mut PanelBuffer));
