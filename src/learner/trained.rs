//! What is trained: a LoRA adapter on the frozen base, or a full copy of the weights.
//!
//! Both take a step in the same way: score, accumulate gradients, then update or discard. Knows no group and no loss.

use super::config::{LearnerConfig, Mode};
use super::error::Error;
use super::full_weights::Full;
use super::initial::fresh_adapter;
use super::optimizer::{self, Parameter};
use super::state::HostTensor;
use crate::formats::adapter::{Adapter, Factors, LoraConfig};
use crate::formats::spec::{ModelSpec, Projection};
use crate::transformer::Transformer;
use crate::transformer::full_weights::CriticWeights;
use crate::transformer::score::{
    self, ActivationPolicy, AdapterGradients, Arena, Packed, ScoreAdapter, ScoreBatch, Scored,
};
use rayon::prelude::*;
use std::collections::BTreeSet;

/// What is trained.
pub(super) enum TrainableCritic {
    /// An adapter's factors.
    Lora(Box<Lora>),
    /// Every weight.
    Full(Box<Full>),
}

/// Trainable factors over a frozen model.
pub(super) struct Lora {
    config: LoraConfig,
    /// `A` and `B` of each place, alternating.
    pub(super) parameters: Vec<Parameter>,
    pub(super) places: Vec<(usize, Projection)>,
    /// The factors in the layout of the score pass; built on first use.
    branches: Option<ScoreAdapter>,
    /// Whether the factors have changed since `branches` was built.
    stale: bool,
    /// The gradients of the last batch; the next batch overwrites them.
    gradients: AdapterGradients,
}

impl TrainableCritic {
    /// The critic that training begins with: the weights that the config names, or a fresh one.
    pub(super) fn first(model: &Transformer, config: &LearnerConfig, seed: u64) -> Result<Self, Error> {
        match load_start(config, model.spec())? {
            Some(start) => Self::resumed(model, config, start),
            None => Self::fresh(model, config, seed),
        }
    }

    /// A critic equivalent to the base `model`: an adapter that adds nothing, or a copy of the weights.
    pub(super) fn fresh(model: &Transformer, config: &LearnerConfig, seed: u64) -> Result<Self, Error> {
        Ok(match config.mode {
            Mode::Lora => Self::Lora(Box::new(Lora::new(model, &fresh_adapter(model, &config.lora, seed, false)))),
            Mode::Full => Self::Full(Box::new(Full::of(model)?)),
        })
    }

    /// Continues training `critic`.
    pub(super) fn resumed(model: &Transformer, config: &LearnerConfig, critic: CriticWeights) -> Result<Self, Error> {
        match (config.mode, critic) {
            (Mode::Lora, CriticWeights::Adapter(adapter)) if !adapter.ends.is_empty() => Err(Error::Ends),
            (Mode::Lora, CriticWeights::Adapter(adapter)) => {
                let expected = fresh_adapter(model, &config.lora, 0, false);
                // An adapter from elsewhere may leave out some layers, which then are not trained either.
                let fits = |(place, own): (&(usize, Projection), &Factors)| {
                    expected.factors.get(place).is_some_and(|f| (f.a.len(), f.b.len()) == (own.a.len(), own.b.len()))
                };
                if !is_alike(&adapter.config, &config.lora) || !adapter.factors.iter().all(fits) {
                    return Err(Error::OtherAdapter { rank: config.lora.rank, targets: config.lora.targets.clone() });
                }
                let adapter = Adapter::new(config.lora.clone(), adapter.factors.clone());
                Ok(Self::Lora(Box::new(Lora::new(model, &adapter))))
            }
            (Mode::Full, CriticWeights::Full(whole)) => Ok(Self::Full(Box::new(Full::resumed(model, whole)?))),
            (mode, _) => Err(Error::OtherMode { mode }),
        }
    }

    /// Floats that are trained.
    pub(super) fn floats(&self) -> usize {
        match self {
            Self::Lora(lora) => lora.parameters.iter().map(|parameter| parameter.values.len()).sum(),
            Self::Full(full) => full.floats(),
        }
    }

    /// Checks that every trainable tensor receives a gradient.
    ///
    /// # Errors
    /// If a tensor receives no gradient, or the device fails.
    pub(super) fn self_test(
        &mut self,
        model: &Transformer,
        config: &LearnerConfig,
        temperature: f32,
        seed: u64,
    ) -> Result<(), Error> {
        let vocab = model.spec().vocab as u32;
        let ids: Vec<u32> = (0..12u32).map(|i| (i * 7919 + 13) % vocab).collect();
        let packed = [Packed { prefix: &ids[..6], texts: vec![&ids[6..9], &ids[9..]] }];
        let policy = config.activation_policy();
        match self {
            Self::Full(full) => full.self_test(&packed, temperature, policy),
            Self::Lora(lora) => {
                // `B` starts at zero, so `A` would get no gradient. The check uses random factors instead.
                let adapter = fresh_adapter(model, &config.lora, seed, true);
                let branches = ScoreAdapter::new(model, &adapter)?;
                let batch = ScoreBatch { packed: &packed, temperature };
                let recorded = score::record(model, batch, &branches, policy)?;
                lora.has_gradients(&recorded.backward(&[1.0; 6])?)
            }
        }
    }

    /// Log-probabilities under the current weights; `model` is the base.
    pub(super) fn score(
        &mut self,
        model: &Transformer,
        batch: ScoreBatch<'_>,
        arena: &mut Arena,
    ) -> Result<Scored, crate::transformer::Error> {
        match self {
            Self::Lora(lora) => score::score_in(model, batch, Some(lora.branches(model)?), arena),
            Self::Full(full) => full.score(batch, arena),
        }
    }

    /// Scores the batch and accumulates the gradient of `sum_t w_t log_prob_t`, where `loss_weights` returns the `w_t`.
    pub(super) fn learn(
        &mut self,
        model: &Transformer,
        batch: ScoreBatch<'_>,
        policy: ActivationPolicy,
        arena: &mut Arena,
        loss_weights: impl FnOnce(&Scored) -> Vec<f32>,
    ) -> Result<(), Error> {
        match self {
            Self::Full(full) => full.learn(batch, policy, arena, loss_weights),
            Self::Lora(lora) => {
                let mut gradients = std::mem::take(&mut lora.gradients);
                let recorded = score::record_in(model, batch, lora.branches(model)?, policy, arena)?;
                let weights = loss_weights(&recorded.scored);
                recorded.backward_in(&weights, &mut gradients, arena)?;
                lora.gradients = gradients;
                lora.places.par_iter().zip(lora.parameters.par_chunks_exact_mut(2)).try_for_each(|(place, pair)| {
                    let [a, b] = pair else { unreachable!("chunks of two") };
                    let found = lora.gradients.factors.get(place);
                    let found = found.filter(|found| !found.a.is_empty() && !found.b.is_empty());
                    let found = found.ok_or_else(|| Error::NoGradient { name: a.name.clone() })?;
                    a.gather(&found.a);
                    b.gather(&found.b);
                    Ok(())
                })
            }
        }
    }

    /// Discards the accumulated gradient.
    pub(super) fn discard(&mut self) {
        match self {
            Self::Lora(lora) => lora.parameters.iter_mut().for_each(Parameter::discard),
            Self::Full(full) => full.discard(),
        }
    }

    /// Norm of the accumulated gradient.
    pub(super) fn gradient_norm(&self) -> f32 {
        match self {
            Self::Lora(lora) => optimizer::gradient_norm(&lora.parameters),
            Self::Full(full) => full.gradient_norm(),
        }
    }

    /// Takes one AdamW step on the accumulated gradient, whose norm is `norm`, and clears it.
    pub(super) fn update(&mut self, config: &LearnerConfig, step: u64, norm: f32) {
        match self {
            Self::Lora(lora) => {
                optimizer::update(&mut lora.parameters, config, step, norm);
                lora.stale = true;
            }
            Self::Full(full) => full.update(config, step, norm),
        }
    }

    /// An immutable copy of the current weights.
    pub(super) fn critic(&self) -> CriticWeights {
        match self {
            Self::Lora(lora) => lora.adapter().into(),
            Self::Full(full) => full.copied().into(),
        }
    }

    /// The optimizer's moments, by name.
    pub(super) fn moments(&self) -> Vec<(String, HostTensor)> {
        match self {
            Self::Lora(lora) => lora.parameters.iter().flat_map(Parameter::moments).collect(),
            Self::Full(full) => full.moments(),
        }
    }

    /// Restores saved moments; `take` removes and returns one by its name.
    pub(super) fn restore(&mut self, take: &mut impl FnMut(&str) -> Option<HostTensor>) -> Result<(), Error> {
        match self {
            Self::Lora(lora) => lora.parameters.iter_mut().try_for_each(|parameter| parameter.restore(take)),
            Self::Full(full) => full.restore(take),
        }
    }

    /// Number of trainable parameters.
    pub(super) fn parameters(&self) -> usize {
        match self {
            Self::Lora(lora) => lora.parameters.iter().map(|parameter| parameter.values.len()).sum(),
            Self::Full(full) => full.parameters(),
        }
    }
}

/// The weights that `config` starts from, checked against it; none if it starts as the base model. An adapter has the
/// config's scale.
///
/// # Errors
/// If they cannot be read, or are not of the kind, rank or targets that are trained.
pub(super) fn load_start(config: &LearnerConfig, spec: &ModelSpec) -> Result<Option<CriticWeights>, Error> {
    let Some(folder) = config.start() else { return Ok(None) };
    let start = CriticWeights::load(folder, spec).map_err(|error| Error::Start(Box::new(error)))?;
    let adapter = match (&start, config.mode) {
        (CriticWeights::Adapter(adapter), Mode::Lora) => adapter,
        (CriticWeights::Full(_), Mode::Full) => return Ok(Some(start)),
        (CriticWeights::Adapter(_), mode) => return Err(Error::OtherStartMode { mode, got: "an adapter" }),
        (CriticWeights::Full(_), mode) => return Err(Error::OtherStartMode { mode, got: "all weights of a model" }),
    };
    if !adapter.ends.is_empty() {
        return Err(Error::Ends);
    }
    if !is_alike(&adapter.config, &config.lora) {
        let LoraConfig { rank, targets, .. } = config.lora.clone();
        let (got_rank, got_targets) = (adapter.config.rank, adapter.config.targets.clone());
        return Err(Error::OtherStart { rank, targets, got_rank, got_targets });
    }
    let mut scaled = Adapter::clone(adapter);
    let ratio = adapter.config.scale() / config.lora.scale();
    if ratio != 1.0 {
        scaled.factors.values_mut().for_each(|factors| factors.b.iter_mut().for_each(|b| *b *= ratio));
    }
    scaled.config = config.lora.clone();
    Ok(Some(scaled.into()))
}

/// Whether rank and targets are the same.
fn is_alike(one: &LoraConfig, two: &LoraConfig) -> bool {
    let sorted = |config: &LoraConfig| config.targets.iter().copied().collect::<BTreeSet<_>>();
    one.rank == two.rank && sorted(one) == sorted(two)
}

impl Lora {
    /// Fails if a factor's gradient is zero everywhere or not finite.
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

    fn new(model: &Transformer, adapter: &Adapter) -> Self {
        let mut parameters = vec![];
        for (&(layer, projection), pair) in &adapter.factors {
            let (inputs, outputs) = projection.sizes(model.spec());
            let rank = adapter.config.rank;
            let mut add = |name: &str, shape: [usize; 2], values: &[f32]| {
                parameters.push(Parameter::new(format!("layers.{layer}.{projection}.{name}"), shape, values.to_vec()));
            };
            add("lora_A", [rank, inputs], &pair.a);
            add("lora_B", [outputs, rank], &pair.b);
        }
        let places = adapter.factors.keys().copied().collect();
        Self {
            config: adapter.config.clone(),
            parameters,
            places,
            branches: None,
            stale: false,
            gradients: AdapterGradients::default(),
        }
    }

    /// The current factors as an adapter.
    pub(super) fn adapter(&self) -> Adapter {
        let pairs = self.places.iter().zip(self.parameters.chunks_exact(2));
        let factors =
            pairs.map(|(&place, pair)| (place, Factors { a: pair[0].values.clone(), b: pair[1].values.clone() }));
        Adapter::new(self.config.clone(), factors.collect())
    }

    fn branches(&mut self, model: &Transformer) -> Result<&ScoreAdapter, crate::transformer::Error> {
        let branches = self.branches.take();
        let (places, parameters, scale) = (&self.places, &self.parameters, self.config.scale());
        let factors = |layer, projection| {
            let index = 2 * places.binary_search(&(layer, projection)).expect("a place of the adapter");
            (parameters[index].values.as_slice(), parameters[index + 1].values.as_slice())
        };
        let refilled =
            |mut branches: ScoreAdapter| (!self.stale || branches.refill(scale, factors)).then_some(branches);
        let branches = branches.and_then(refilled).map_or_else(|| ScoreAdapter::new(model, &self.adapter()), Ok)?;
        self.stale = false;
        Ok(self.branches.insert(branches))
    }
}
