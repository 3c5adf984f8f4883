//! Where an adapter begins, and the test that all that is trained can learn.

use super::trained::{Lora, Trained};
use super::{Error, Learner};
use crate::formats::adapter::{Adapter, Factors, LoraConfig};
use crate::transformer::Transformer;
use crate::transformer::{score, score::Packed, score::ScoreAdapter, score::ScoreBatch};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

impl Learner {
    /// Fails loudly where any trainable tensor is cut off from the loss.
    pub(super) fn self_test(&mut self, seed: u64) -> Result<(), Error> {
        let vocab = self.model.spec().vocab as u32;
        let ids: Vec<u32> = (0..12u32).map(|i| (i * 7919 + 13) % vocab).collect();
        let packed = [Packed { prefix: &ids[..6], texts: vec![&ids[6..9], &ids[9..]] }];
        let policy = self.config.activation_policy();
        match &mut self.trained {
            Trained::Full(full) => full.self_test(&packed, self.temperature, policy),
            Trained::Lora(lora) => {
                // `B` is zero at the start, which hides `A`: so the test runs on factors of its own.
                let adapter = fresh_adapter(&self.model, &self.config.lora, seed, true);
                let branches = ScoreAdapter::new(&self.model, &adapter)?;
                let batch = ScoreBatch { packed: &packed, temperature: self.temperature };
                let recorded = score::record(&self.model, batch, &branches, policy)?;
                lora.has_gradients(&recorded.backward(&[1.0; 6])?)
            }
        }
    }
}

impl Lora {
    fn has_gradients(&self, gradients: &score::AdapterGradients) -> Result<(), Error> {
        for (index, parameter) in self.parameters.iter().enumerate() {
            let found = gradients.factors.get(&self.places[index / 2]);
            let gradient = found.map(|pair| if index % 2 == 0 { &pair.a } else { &pair.b });
            let largest = gradient.map_or(0.0, |g| g.iter().fold(0.0f32, |top, x| top.max(x.abs())));
            if largest == 0.0 || gradient.is_some_and(|g| g.iter().any(|x| !x.is_finite())) {
                return Err(Error::NoGradient { name: parameter.name.clone() });
            }
        }
        Ok(())
    }
}

/// A seeded adapter; with `full`, `B` is random too.
pub(super) fn fresh_adapter(model: &Transformer, config: &LoraConfig, seed: u64, full: bool) -> Adapter {
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
            let b = if full { uniform(outputs * config.rank, 0.1) } else { vec![0.0; outputs * config.rank] };
            factors.insert((layer, site), Factors { a, b });
        }
    }
    Adapter { config: config.clone(), factors }
}
