//! Top-k, top-p and min-p filters over a row of weights.
//!
//! What they keep lies above one threshold: a weight, and an id among equal weights. The threshold is found without
//! sorting: a weight's bits order it, so a bisection over them takes 30 vectorised passes over the candidates. Most rows
//! have few candidates; in a flat row every weight is one.

use super::exp;
use super::sampling_config::SamplingConfig;

/// Weights below this are candidates only where those above it are not enough.
const CANDIDATE_MIN: f32 = 1.0 / 64.0;

/// The least likely id that stays: what weighs more stays too, and of its equals those of lower ids.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Threshold {
    pub(crate) weight: f32,
    pub(crate) id: u32,
}

impl Threshold {
    /// Whichever cuts more.
    fn tighter(self, other: Self) -> Self {
        let order = self.weight.total_cmp(&other.weight).then(other.id.cmp(&self.id));
        if order.is_lt() { other } else { self }
    }
}

/// Weights of one row, relative to the likeliest, and what it takes to cut them.
#[derive(Debug, Default)]
pub(crate) struct LogitFilter {
    pub(crate) weights: Vec<f32>,
    /// Those of at least [`CANDIDATE_MIN`].
    candidates: Vec<f32>,
}

impl LogitFilter {
    /// The threshold of what `config` leaves of the weights, whose sum is `total`. At least the likeliest stays.
    pub(crate) fn threshold(&mut self, config: &SamplingConfig, total: f64) -> Threshold {
        let mut threshold = Threshold { weight: config.min_p, id: u32::MAX };
        let top_k = (1..self.weights.len()).contains(&config.top_k);
        if top_k || config.top_p < 1.0 {
            self.candidates.clear();
            self.candidates.extend(self.weights.iter().filter(|&&weight| weight >= CANDIDATE_MIN));
        }
        let mut mass = total;
        if top_k {
            let k = config.top_k as f64;
            let (weight, above) = self.last(|above| above.count, k);
            let ties = k - above.count;
            threshold = threshold.tighter(self.threshold_at(weight, ties));
            mass = above.mass + ties * f64::from(weight);
        }
        if config.top_p < 1.0 {
            let enough = f64::from(config.top_p) * mass;
            let (weight, above) = self.last(|above| above.mass, enough);
            let ties = ((enough - above.mass) / f64::from(weight)).ceil().max(1.0);
            threshold = threshold.tighter(self.threshold_at(weight, ties));
        }
        threshold
    }

    /// The largest weight such that it and all above it come to `enough`, and what lies above it; 0 where rounding
    /// leaves less than `enough` in all.
    fn last(&self, measure: impl Fn(exp::Above) -> f64, enough: f64) -> (f32, exp::Above) {
        let few = measure(exp::above(&self.candidates, 0.0)) >= enough;
        let among = if few { &self.candidates } else { &self.weights };
        // Weights lie in [0, 1], where the order of their bits is theirs.
        let (mut low, mut high) = (0, 1.0f32.to_bits() + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let reaches = measure(exp::above(among, f32::from_bits(middle))) >= enough;
            *(if reaches { &mut low } else { &mut high }) = middle;
        }
        (f32::from_bits(low), exp::above(among, f32::from_bits(low + 1)))
    }

    /// The threshold behind the first `ties` of the ids that weigh `weight`.
    fn threshold_at(&self, weight: f32, ties: f64) -> Threshold {
        let equal = (0..).zip(&self.weights).filter(|(_, other)| **other == weight).map(|(id, _)| id);
        // A float is cast to the nearest integer that there is.
        let id = equal.take(ties as usize).last().unwrap_or(u32::MAX);
        Threshold { weight, id }
    }
}
