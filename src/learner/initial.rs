//! The adapter that training starts from.

use crate::formats::adapter::{Adapter, Factors, LoraConfig};
use crate::transformer::Transformer;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// A seeded adapter: `A` uniform in `+-1 / sqrt(inputs)` and `B` zero (arXiv 2106.09685), or random too if `random_b`.
pub(super) fn fresh_adapter(model: &Transformer, config: &LoraConfig, seed: u64, random_b: bool) -> Adapter {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = |count: usize, bound: f32| -> Vec<f32> {
        (0..count).map(|_| (rng.random::<f32>() * 2.0 - 1.0) * bound).collect()
    };
    let mut factors = BTreeMap::new();
    for layer in 0..model.spec().layers {
        let mut targets = config.targets.clone();
        targets.sort_unstable();
        for site in targets {
            let (inputs, outputs) = site.sizes(model.spec());
            let a = uniform(config.rank * inputs, 1.0 / (inputs as f32).sqrt());
            let b = if random_b { uniform(outputs * config.rank, 0.1) } else { vec![0.0; outputs * config.rank] };
            factors.insert((layer, site), Factors { a, b });
        }
    }
    Adapter::new(config.clone(), factors)
}
