//! The frequencies of rotary positions (arXiv 2104.09864) and how model families scale them.
//!
//! A head has a pair for each frequency; pair `i` rotates by `position * frequencies[i]`. Where there are fewer pairs than half
//! its width, the rest of the head stays as it is. Frequencies are computed in f32, as the reference implementations do. Knows
//! no position and no tensor.

use serde::{Deserialize, Serialize};

/// The frequencies of a head's pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rotary {
    /// Radians a position, up to `(head_dim / 2)`.
    pub frequencies: Vec<f32>,
    /// What cosines and sines are multiplied by.
    #[serde(default = "one")]
    pub magnitude: f32,
}

fn one() -> f32 {
    1.0
}

/// How YaRN stretches a context (arXiv 2309.00071): as [`Llama3Scaling`], with bounds in turns, and sharper scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YarnScaling {
    /// What slow pairs are slowed by.
    pub factor: f32,
    /// Turns in the original context above which a pair is fast.
    pub beta_fast: f64,
    /// Turns in the original context below which a pair is slow.
    pub beta_slow: f64,
    /// The context before it was stretched, in tokens.
    pub original_context_tokens: f64,
    /// Whether the bounds are rounded outwards to whole pairs.
    pub truncate: bool,
    /// What cosines and sines are multiplied by.
    pub magnitude: f32,
}

/// How Llama 3.1 stretches its context: pairs that turn slowly are slowed by `factor`, fast ones are left as they
/// are, those between are interpolated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// What slow pairs are slowed by.
    pub factor: f32,
    /// Turns in the original context below which a pair is slow.
    pub low_frequency_factor: f32,
    /// Turns in the original context above which a pair is fast.
    pub high_frequency_factor: f32,
    /// The context before it was stretched, in tokens.
    pub original_context_tokens: f32,
}

impl Rotary {
    /// `base^(-2 i / head_dim)`.
    pub fn new(base: f32, head_dim: usize) -> Self {
        let frequency = |i| 1.0 / base.powf((2 * i) as f32 / head_dim as f32);
        Self { frequencies: (0..head_dim / 2).map(frequency).collect(), magnitude: 1.0 }
    }

    /// Every pair slowed by `factor` (position interpolation: arXiv 2306.15595).
    pub fn slowed(mut self, factor: f32) -> Self {
        self.frequencies.iter_mut().for_each(|frequency| *frequency /= factor);
        self
    }

    /// Each pair slowed by a factor of its own, as GGUF files hold them; `factors` are `(head_dim / 2)`.
    pub fn slowed_each(mut self, factors: &[f32]) -> Self {
        self.frequencies.iter_mut().zip(factors).for_each(|(frequency, factor)| *frequency /= factor);
        self
    }

    /// Whether every pair turns alike, up to the rounding of the formulas that describe it.
    pub(crate) fn is_nearly(&self, other: &Self) -> bool {
        let pairs = self.frequencies.iter().zip(&other.frequencies);
        let alike = (self.magnitude / other.magnitude - 1.0).abs() < 1e-5;
        alike
            && self.frequencies.len() == other.frequencies.len()
            && pairs.into_iter().all(|(a, b)| (a / b - 1.0).abs() < 1e-5)
    }

    /// YaRN's scaling of positions with base `base`.
    pub fn yarn(mut self, base: f32, scaling: YarnScaling) -> Self {
        let YarnScaling { factor, original_context_tokens, .. } = scaling;
        let width = 2.0 * self.frequencies.len() as f64;
        // The pair that makes so many turns in the original context.
        let pair = |turns: f64| {
            width * (original_context_tokens / (turns * std::f64::consts::TAU)).ln() / (2.0 * f64::from(base).ln())
        };
        let (mut low, mut high) = (pair(scaling.beta_fast), pair(scaling.beta_slow));
        if scaling.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(width - 1.0));
        if low == high {
            high += 0.001;
        }
        let (low, high) = (low as f32, high as f32);
        for (index, frequency) in self.frequencies.iter_mut().enumerate() {
            let slow = ((index as f32 - low) / (high - low)).clamp(0.0, 1.0);
            *frequency = *frequency / factor * slow + *frequency * (1.0 - slow);
        }
        self.magnitude = scaling.magnitude;
        self
    }

    /// Llama 3.1's scaling.
    pub fn llama3(mut self, scaling: Llama3Scaling) -> Self {
        let Llama3Scaling { factor, low_frequency_factor: low, high_frequency_factor: high, .. } = scaling;
        for frequency in &mut self.frequencies {
            let wavelength = std::f32::consts::TAU / *frequency;
            let turns = scaling.original_context_tokens / wavelength;
            if turns < low {
                *frequency /= factor;
            } else if turns <= high {
                let smooth = (turns - low) / (high - low);
                *frequency = (1.0 - smooth) * *frequency / factor + smooth * *frequency;
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_pairs_keep_their_pace_and_slow_ones_are_slowed() {
        let plain = Rotary::new(500.0, 16);
        let scaling = Llama3Scaling {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context_tokens: 64.0,
        };
        let scaled = plain.clone().llama3(scaling);
        let ratios: Vec<f32> = plain.frequencies.iter().zip(&scaled.frequencies).map(|(p, s)| p / s).collect();
        assert!(ratios[0] == 1.0 && ratios[1] == 1.0, "{ratios:?}");
        assert!(ratios.is_sorted() && ratios[2..].iter().any(|&ratio| ratio > 1.1 && ratio < 7.9), "{ratios:?}");
        assert_eq!(ratios[7], 8.0);
        // What a GGUF file holds of it.
        let each = plain.slowed_each(&ratios).frequencies;
        assert!(each.iter().zip(&scaled.frequencies).all(|(a, b)| (a / b - 1.0).abs() < 1e-6));
    }
}
