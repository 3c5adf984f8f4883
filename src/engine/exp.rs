//! Vectorised `exp` and sums over rows of logits, so that sampling takes a small part of a step.
//!
//! Knows numbers only. Invariant: the results depend neither on the batch nor on the width of the vector registers,
//! because every sum has a fixed order and the same multiply-adds are fused on every machine.

use crate::kernels::ops::{exp, vectorised};

/// Logits that share one partial sum.
pub(crate) const CHUNK: usize = 256;

/// Independent running sums in a chunk, which the compiler maps to vector registers.
const LANES: usize = 16;

/// The weight of one logit: `exp((logit - max) / temperature)`.
#[inline(always)]
pub(crate) fn weight(logit: f32, max: f32, inverse_temperature: f32) -> f32 {
    exp((logit - max) * inverse_temperature)
}

/// The largest logit, ignoring NaN; `-inf` for an empty row.
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
        // Two loops, because the compiler vectorises each of them but not one combined loop.
        for (weight, &logit) in weights.iter_mut().zip(chunk) {
            *weight = self::weight(logit, max, inverse_temperature);
        }
        sums.push(sum(&weights[..chunk.len()]));
    }
}

/// Like `sums_body`, and also writes the weight of each logit to `weights`.
#[inline(always)]
fn weights_body(logits: &[f32], max: f32, inverse_temperature: f32, weights: &mut Vec<f32>, sums: &mut Vec<f64>) {
    weights.resize(logits.len(), 0.0);
    for (weights, chunk) in weights.chunks_mut(CHUNK).zip(logits.chunks(CHUNK)) {
        for (weight, &logit) in weights.iter_mut().zip(chunk) {
            *weight = self::weight(logit, max, inverse_temperature);
        }
        sums.push(sum(weights));
    }
}

/// Appends, for each [`CHUNK`] of `weights`, the sum of those that are above `floor`, or equal to it and
/// among the first `ties` of the row.
#[inline(always)]
fn sums_above_body(weights: &[f32], floor: f32, ties: usize, sums: &mut Vec<f64>) {
    let mut kept = [0.0f32; CHUNK];
    for (index, chunk) in weights.chunks(CHUNK).enumerate() {
        let ties = ties.saturating_sub(index * CHUNK).min(CHUNK) as u32;
        for (place, (kept, &weight)) in kept.iter_mut().zip(chunk).enumerate() {
            let stays = weight > floor || (weight == floor && (place as u32) < ties);
            *kept = if stays { weight } else { 0.0 };
        }
        sums.push(sum(&kept[..chunk.len()]));
    }
}

/// Sum and number of the weights at or above a floor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Above {
    pub(crate) mass: f64,
    pub(crate) count: f64,
}

/// Mass and number of the weights of at least `floor`.
#[inline(always)]
fn above_body(weights: &[f32], floor: f32) -> Above {
    let mut above = Above { mass: 0.0, count: 0.0 };
    for chunk in weights.chunks(CHUNK) {
        // Within a lane of a chunk, f32 suffices for 16 numbers of at most 1.
        let (mut masses, mut counts) = ([0.0f32; LANES], [0.0f32; LANES]);
        let (groups, rest) = chunk.as_chunks::<LANES>();
        for group in groups {
            for lane in 0..LANES {
                let stays = group[lane] >= floor;
                masses[lane] += if stays { group[lane] } else { 0.0 };
                counts[lane] += if stays { 1.0 } else { 0.0 };
            }
        }
        for (lane, &weight) in rest.iter().enumerate().filter(|(_, weight)| **weight >= floor) {
            masses[lane] += weight;
            counts[lane] += 1.0;
        }
        above.mass += masses.iter().map(|&mass| f64::from(mass)).sum::<f64>();
        above.count += counts.iter().map(|&count| f64::from(count)).sum::<f64>();
    }
    above
}

/// The sum of at most a chunk of weights, in an order that depends only on their number.
#[inline(always)]
fn sum(weights: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (groups, rest) = weights.as_chunks::<LANES>();
    for group in groups {
        lanes = std::array::from_fn(|lane| lanes[lane] + f64::from(group[lane]));
    }
    for (lane, &weight) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(weight);
    }
    lanes.iter().sum()
}

vectorised!(
    /// The largest logit, ignoring NaN; `-inf` for an empty row.
    max, max_body, (logits: &[f32]) -> f32
);
vectorised!(
    /// Appends the sum of weights of each [`CHUNK`] of `logits` to `sums`. NaN or an infinite `max` makes a
    /// sum NaN.
    sums, sums_body, (logits: &[f32], max: f32, inverse_temperature: f32, sums: &mut Vec<f64>)
);
vectorised!(
    /// Like [`sums`], and also writes the weight of each logit to `weights`.
    weights, weights_body,
    (logits: &[f32], max: f32, inverse_temperature: f32, weights: &mut Vec<f32>, sums: &mut Vec<f64>)
);
vectorised!(
    /// Appends, for each [`CHUNK`] of `weights`, the sum of those that are above `floor`, or equal to it and
    /// among the first `ties` of the row.
    sums_above, sums_above_body, (weights: &[f32], floor: f32, ties: usize, sums: &mut Vec<f64>)
);

vectorised!(
    /// Mass and number of the weights of at least `floor`.
    above, above_body, (weights: &[f32], floor: f32) -> Above
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
        let (mut row, mut sums) = (Vec::new(), Vec::new());
        weights(&logits, largest, 0.7, &mut row, &mut sums);
        assert_eq!(sums, wide);
        for ties in [0, 300, 5000, usize::MAX] {
            let floor = row[7];
            let (mut wide, mut plain) = (Vec::new(), Vec::new());
            sums_above(&row, floor, ties, &mut wide);
            sums_above_body(&row, floor, ties, &mut plain);
            assert_eq!(wide, plain);
            let stays = |(i, w): (usize, &f32)| (*w > floor || (*w == floor && i < ties)).then_some(f64::from(*w));
            let real: f64 = row.iter().enumerate().filter_map(stays).sum();
            assert!((wide.iter().sum::<f64>() / real - 1.0).abs() < 1e-12);
        }
        for floor in [0.0, row[7], 1.0, 1.5] {
            let stays: Vec<f64> = row.iter().filter(|&&w| w >= floor).map(|&w| f64::from(w)).collect();
            let (got, mass) = (above(&row, floor), stays.iter().sum::<f64>());
            assert_eq!((got, got.count), (above_body(&row, floor), stays.len() as f64));
            assert!((got.mass - mass).abs() <= 1e-6 * mass);
        }
    }
}
