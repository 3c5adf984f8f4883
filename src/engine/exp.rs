//! `exp` over rows of logits, fast enough that sampling stays small beside a step.
//!
//! Knows numbers only. Every sum has a fixed order and nothing is fused, so that the result depends
//! neither on the batch nor on the width of the machine's registers.

use crate::model::ops::{exp, vectorised};

/// Logits that share one partial sum.
pub(crate) const CHUNK: usize = 256;

/// Independent running sums inside a chunk: what the compiler turns into wide registers.
const LANES: usize = 16;

/// The weight of one logit: `exp((logit - max) / temperature)`.
#[inline(always)]
pub(crate) fn weight(logit: f32, max: f32, inverse_temperature: f32) -> f32 {
    exp((logit - max) * inverse_temperature)
}

/// The largest logit, NaN left aside; `-inf` of none.
#[inline(always)]
fn max_body(logits: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (groups, rest) = logits.as_chunks::<LANES>();
    for group in groups {
        lanes = std::array::from_fn(|lane| larger(lanes[lane], group[lane]));
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

/// Appends the sum of weights of each [`CHUNK`] of `logits` to `sums`.
#[inline(always)]
fn sums_body(logits: &[f32], max: f32, inverse_temperature: f32, sums: &mut Vec<f64>) {
    let mut weights = [0.0f32; CHUNK];
    for chunk in logits.chunks(CHUNK) {
        // Two plain loops, each of which becomes vector code; as one they do not.
        for (weight, &logit) in weights.iter_mut().zip(chunk) {
            *weight = self::weight(logit, max, inverse_temperature);
        }
        weights[chunk.len()..].fill(0.0);
        let mut lanes = [0.0f64; LANES];
        for group in weights.as_chunks::<LANES>().0 {
            lanes = std::array::from_fn(|lane| lanes[lane] + f64::from(group[lane]));
        }
        sums.push(lanes.iter().sum());
    }
}

vectorised!(
    /// The largest logit, NaN left aside; `-inf` of none.
    max, max_body, (logits: &[f32]) -> f32
);
vectorised!(
    /// Appends the sum of weights of each [`CHUNK`] of `logits` to `sums`. NaN or an infinite `max` makes a
    /// sum NaN.
    sums, sums_body, (logits: &[f32], max: f32, inverse_temperature: f32, sums: &mut Vec<f64>)
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_of_the_registers_changes_no_bit() {
        let logits: Vec<f32> = (0..10_007u32).map(|i| (i.wrapping_mul(2_654_435_761) % 4001) as f32 / 100.0).collect();
        let largest = max(&logits);
        assert_eq!(largest, max_body(&logits));
        let (mut wide, mut plain) = (Vec::new(), Vec::new());
        sums(&logits, largest, 0.7, &mut wide);
        sums_body(&logits, largest, 0.7, &mut plain);
        assert_eq!(wide, plain);
        let real: f64 = logits.iter().map(|&l| (f64::from(l - largest) * f64::from(0.7f32)).exp()).sum();
        assert!((wide.iter().sum::<f64>() / real - 1.0).abs() < 1e-6);
    }
}
