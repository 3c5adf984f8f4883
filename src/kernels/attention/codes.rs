//! Keys and values in 8 bits: codes from -127 to 127, and steps for them.
//!
//! `number = step * code`. A key has a step for every 32 dimensions, since single dimensions of keys can be far larger than the
//! others; a value has one for its head. Queries and weights are rounded to 16 bits and products of integers are exact,
//! so results do not depend on the order of their sums.
//!
//! A block's keys are `(head_dim / 4, 32)` quads of codes, then `(head_dim / 32, 16)` pairs of steps; its values are
//! `(8, head_dim)` quads, then 16 pairs of steps. Steps are bf16, place `p` and place `p + 16` in one word.

use super::element::KvElement;
use super::layout::BLOCK_TOKENS;

/// Four codes, a byte each: dimensions of a key, or places of a value. A key's are biased by 128.
pub(super) type CodeQuad = [u8; 4];

/// Quads of a key that share a step.
pub(super) const GROUP_QUADS: usize = 8;
/// Dimensions of a key that share a step.
const GROUP: usize = 4 * GROUP_QUADS;
/// Words of a block's steps.
const STEP_WORDS: usize = BLOCK_TOKENS / 2;
/// What is added to the codes of keys.
const BIAS: i32 = 128;

/// Steps to each side of zero of a rounded query: two digits to the base of 256, from -127 to 127.
const QUERY_STEPS: f32 = 32639.0;
/// Steps of a rounded weight: two digits from 0 to 255.
pub(super) const WEIGHT_STEPS: f32 = 65535.0;
/// The step of weights of which the largest is 1.
pub(super) const WEIGHT_STEP: f32 = 1.0 / WEIGHT_STEPS;
/// Numbers below this count as 0, so that one over a step is finite.
pub(super) const LEAST: f32 = 1e-30;
/// Added to a number below 2^22, it leaves the nearest integer in the lower bits of the sum, ties to even.
const ROUND: f32 = 12_582_912.0;
/// [`ROUND`] for numbers that are not negative.
pub(super) const ROUND_UNSIGNED: f32 = 8_388_608.0;

/// Quads of a key.
pub(super) fn quads(dim: usize) -> usize {
    dim.div_ceil(4)
}

/// Steps of a key.
pub(super) fn groups(dim: usize) -> usize {
    dim.div_ceil(GROUP)
}

/// The steps of one place each, from the words of a block.
#[inline(always)]
pub(super) fn steps(words: &[CodeQuad]) -> [f32; BLOCK_TOKENS] {
    let mut steps = [0.0; BLOCK_TOKENS];
    let (first, second) = steps.split_at_mut(STEP_WORDS);
    for ((first, second), word) in first.iter_mut().zip(second).zip(words) {
        let word = u32::from_le_bytes(*word);
        (*first, *second) = (f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000));
    }
    steps
}

/// The step of a place, from the words of a block.
#[inline(always)]
pub(super) fn step_of(words: &[CodeQuad], place: usize) -> f32 {
    let [a, b, c, d] = words[place % STEP_WORDS];
    f32::from_bits(if place < STEP_WORDS { u32::from_le_bytes([0, 0, a, b]) } else { u32::from_le_bytes([0, 0, c, d]) })
}

/// The largest absolute value; infinite or not a number where one is.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    f32::from_bits(values.iter().fold(0, |most, value| most.max(value.to_bits() & 0x7fff_ffff)))
}

/// The nearest integer, ties to even; any where `value` is not a number or beyond 2^22.
#[inline(always)]
fn nearest(value: f32) -> i32 {
    (value + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).cast_signed()
}

/// Writes the step of `values` to the place `place` of `words`, and returns one over it. The step is rounded up, so that no code
/// is beyond 127; where a value is not finite, it is not a number, and so is each product with it.
#[inline(always)]
fn put_step(words: &mut [CodeQuad], place: usize, values: &[f32]) -> f32 {
    let largest = largest(values);
    let step = match largest {
        _ if !largest.is_finite() => f32::NAN,
        _ if largest < LEAST => 0.0,
        _ => f32::from_bits(((largest / 127.0).to_bits() + 0xffff) & 0xffff_0000),
    };
    let half = place / STEP_WORDS * 2;
    words[place % STEP_WORDS][half..half + 2].copy_from_slice(&step.to_bits().to_le_bytes()[2..]);
    let inverse = 1.0 / step;
    if inverse.is_finite() { inverse } else { 0.0 }
}

impl KvElement for CodeQuad {
    fn keys_len(dim: usize) -> usize {
        quads(dim) * BLOCK_TOKENS + groups(dim) * STEP_WORDS
    }

    fn values_len(dim: usize) -> usize {
        BLOCK_TOKENS / 4 * dim + STEP_WORDS
    }

    #[inline(always)]
    fn rounded(value: f32) -> f32 {
        value
    }

    fn put_key(keys: &mut [Self], place: usize, key: &[f32]) {
        let (codes, steps) = keys.split_at_mut(quads(key.len()) * BLOCK_TOKENS);
        let groups = key.chunks(GROUP).zip(codes.chunks_mut(GROUP_QUADS * BLOCK_TOKENS));
        for ((key, codes), steps) in groups.zip(steps.chunks_exact_mut(STEP_WORDS)) {
            let inverse = put_step(steps, place, key);
            for (to, key) in codes[place..].iter_mut().step_by(BLOCK_TOKENS).zip(key.chunks(4)) {
                // Dimensions past the last one count for nothing: a query has zeros there.
                for (to, key) in to.iter_mut().zip(key) {
                    *to = (nearest(key * inverse) + BIAS) as u8;
                }
            }
        }
    }

    fn put_value(values: &mut [Self], place: usize, value: &[f32]) {
        let (codes, steps) = values.split_at_mut(BLOCK_TOKENS / 4 * value.len());
        let inverse = put_step(steps, place, value);
        for (to, value) in codes[place / 4 * value.len()..].iter_mut().zip(value) {
            to[place % 4] = nearest(value * inverse) as u8;
        }
    }
}

/// Words of a query that was rounded by [`round_query`].
pub(super) fn query_len(dim: usize) -> usize {
    2 * quads(dim) + groups(dim) + 1
}

/// A rounded query: `(2, head_dim / 4)` quads of digits, the high ones first; then for each 32 dimensions what takes the bias of
/// the keys' codes from a sum of products; then the bits of the query's step.
#[derive(Clone, Copy)]
pub(super) struct RoundedQuery<'a> {
    pub(super) high: &'a [i32],
    pub(super) low: &'a [i32],
    pub(super) corrections: &'a [i32],
    pub(super) step: f32,
}

impl<'a> RoundedQuery<'a> {
    /// The query in `words`, of `quads` quads.
    #[inline(always)]
    pub(super) fn new(words: &'a [i32], quads: usize) -> Self {
        let (high, rest) = words.split_at(quads);
        let (low, rest) = rest.split_at(quads);
        let (corrections, step) = rest.split_at(rest.len() - 1);
        Self { high, low, corrections, step: f32::from_bits(step[0].cast_unsigned()) }
    }

    /// The four dimensions of a quad.
    #[inline(always)]
    pub(super) fn quad(&self, quad: usize) -> [i32; 4] {
        let [high, low] = [self.high, self.low].map(|digits| digits[quad].to_le_bytes());
        std::array::from_fn(|i| i32::from(high[i].cast_signed()) * 256 + i32::from(low[i].cast_signed()))
    }
}

/// Quads of a query that has `words` words.
#[inline(always)]
pub(super) fn quads_of(words: usize) -> usize {
    // Eight quads have a correction, and fewer too.
    let whole = (words - 1) / (2 * GROUP_QUADS + 1);
    let rest = (words - 1) % (2 * GROUP_QUADS + 1);
    whole * GROUP_QUADS + rest / 2
}

/// Rounds a query to 16 bits, into `words` of [`query_len`].
#[inline(always)]
pub(super) fn round_query(query: &[f32], words: &mut [i32]) {
    let largest = largest(query);
    let inverse = if largest < LEAST { 0.0 } else { QUERY_STEPS / largest };
    let quads = quads(query.len());
    let (digits, rest) = words.split_at_mut(2 * quads);
    let (corrections, step) = rest.split_at_mut(rest.len() - 1);
    let (high, low) = digits.split_at_mut(quads);
    for ((group, query), correction) in query.chunks(GROUP).enumerate().zip(corrections) {
        let mut sum = 0i32;
        for (quad, query) in (group * GROUP_QUADS..).zip(query.chunks(4)) {
            let (mut highs, mut lows) = ([0; 4], [0; 4]);
            for (i, value) in query.iter().enumerate() {
                let value = nearest(value * inverse);
                let low = i32::from(value as i8);
                sum = sum.wrapping_add(value);
                (highs[i], lows[i]) = ((value.wrapping_sub(low) >> 8) as u8, low as u8);
            }
            (high[quad], low[quad]) = (i32::from_le_bytes(highs), i32::from_le_bytes(lows));
        }
        *correction = sum.wrapping_mul(-BIAS);
    }
    step[0] = (largest * (1.0 / QUERY_STEPS)).to_bits().cast_signed();
}

/// Weights times the steps of their values, rounded to 16 bits, and the step of the result. They are relative to the largest of
/// their block.
#[inline(always)]
pub(super) fn round_weights(weights: &[f32; BLOCK_TOKENS], steps: &[f32; BLOCK_TOKENS]) -> ([i32; BLOCK_TOKENS], f32) {
    let (mut products, mut most) = ([0.0f32; BLOCK_TOKENS], [0u32; 16]);
    for (products, (weights, steps)) in products
        .as_chunks_mut::<16>()
        .0
        .iter_mut()
        .zip(weights.as_chunks::<16>().0.iter().zip(steps.as_chunks::<16>().0))
    {
        for (((product, weight), step), most) in products.iter_mut().zip(weights).zip(steps).zip(&mut most) {
            // Behind a place that is not seen there may be any step.
            *product = if *weight == 0.0 { 0.0 } else { weight * step };
            // The order of numbers that are not negative is that of their bits, and behind them is what is no number.
            *most = product.to_bits().max(*most);
        }
    }
    let most = f32::from_bits(most.into_iter().fold(0, u32::max));
    let inverse = if most < LEAST { 0.0 } else { WEIGHT_STEPS / most };
    (
        products.map(|product| ((product * inverse + ROUND_UNSIGNED).to_bits() & 0xffff).cast_signed()),
        most * WEIGHT_STEP,
    )
}
