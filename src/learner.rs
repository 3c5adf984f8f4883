//! Turns critique groups into the next adapter: DRO on the `score` pass.
//!
//! A step goes through its groups in pieces of bounded size, so that whoever owns the device can write
//! tokens in between. Log-ratios are taken on the very ids that were sampled, at the sampling
//! temperature. Nothing of a step shows before its end: an abandoned step leaves no trace.

pub mod dpco;
pub mod objective;
mod optimizer;
mod pieces;
pub mod reference;
mod start;
mod state;
pub mod value;

pub use state::{HostTensor, Report, State};

use crate::episode::{CriticVersion, CritiqueGroup};
use crate::model::lora::{Adapter, Factors, LoraConfig, Site};
use crate::model::score::{Branches, Keep, Space};
use crate::model::transformer::Transformer;
use objective::Baseline;
use optimizer::Parameter;
use pieces::UnderWay;
use serde::{Deserialize, Serialize};
use start::fresh_adapter;
use std::collections::HashMap;
use std::sync::Arc;

/// How the critic learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnerConfig {
    /// Baseline of the DRO loss.
    pub baseline: Baseline,
    /// Strength of the KL anchor to the base model.
    pub beta: f32,
    /// Peak learning rate, reached after the warm-up.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises linearly.
    pub warmup_steps: u64,
    /// Decay of AdamW's first moment.
    pub adam_beta1: f64,
    /// Decay of AdamW's second moment.
    pub adam_beta2: f64,
    /// AdamW's epsilon.
    pub adam_epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest norm of a step's gradient.
    pub clip_norm: f64,
    /// Groups of one step.
    pub groups_per_step: usize,
    /// Tokens of one uninterrupted piece of learning: groups share a piece up to as many.
    pub micro_batch_tokens: usize,
    /// Keep each layer's input alone and compute the rest again for the gradient: a fraction of the memory for a
    /// third more time.
    #[serde(default)]
    pub checkpoint_layers: bool,
    /// Steps between two publications.
    pub publish_every_steps: u64,
    /// Share of the device's time while there are tokens to write, in `(0, 1]`.
    pub device_share: f64,
    /// Learn each group before the next episode starts.
    pub synchronous: bool,
    /// Deadline of one step, in seconds.
    pub step_deadline_seconds: u64,
    /// The adapter.
    pub lora: LoraConfig,
}

impl LearnerConfig {
    /// What a pass keeps for its gradient.
    pub fn keep(&self) -> Keep {
        if self.checkpoint_layers { Keep::Inputs } else { Keep::Layers }
    }
}

/// Why there was no step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The step was given up before its end; nothing changed.
    #[error("the learner step was abandoned")]
    Abandoned,
    /// A trainable tensor got no gradient.
    #[error("trainable tensor {name} received no gradient")]
    NoGradient {
        /// Its name.
        name: String,
    },
    /// A saved state lacks one of the optimizer's moments, or holds it in another size.
    #[error("optimizer moment {name} is missing from the saved state or has another size")]
    MissingMoment {
        /// Its name.
        name: String,
    },
    /// A saved adapter does not have the factors that the config asks for.
    #[error("saved adapter: expected rank {rank} on {targets:?} in every layer; change the config back or start anew")]
    OtherAdapter {
        /// The rank asked for.
        rank: usize,
        /// The targets asked for.
        targets: Vec<Site>,
    },
    /// Loss or gradient is not finite; nothing changed.
    #[error("step {step}: {what} is {value}; the step was not taken")]
    NotFinite {
        /// The step that was not taken.
        step: u64,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// Its value.
        value: f32,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] crate::model::Error),
}

/// Reference log-ratios' other half is the same for every use of a group: so many groups are remembered.
const REFERENCES_MAX: usize = 1024;

/// The learner: trainable factors over a frozen model.
pub struct Learner {
    model: Arc<Transformer>,
    config: LearnerConfig,
    temperature: f32,
    /// `A` and `B` of each place, one after the other.
    parameters: Vec<Parameter>,
    places: Vec<(usize, Site)>,
    /// The current factors as the score pass reads them; none since they changed.
    branches: Option<Branches>,
    /// The score pass's memory.
    space: Space,
    step: u64,
    batch: u64,
    report: Option<Report>,
    /// The version that serves exactly the current weights, and the step of that publication.
    published: Option<(CriticVersion, u64)>,
    /// Per-token log-probabilities of the reference, by episode.
    references: HashMap<u64, Vec<Vec<f32>>>,
    under_way: Option<UnderWay>,
}

impl Learner {
    /// A learner of a fresh adapter: `A` uniform in `+-1 / sqrt(inputs)`, `B` zero (arXiv 2106.09685), so that it
    /// starts as the reference. `temperature` is the critic's sampling temperature.
    ///
    /// # Errors
    /// Where a trainable tensor gets no gradient: the self-test of the graph runs here.
    pub fn new(model: Arc<Transformer>, config: LearnerConfig, temperature: f32, seed: u64) -> Result<Self, Error> {
        let adapter = fresh_adapter(&model, &config.lora, seed, false);
        let learner = Self::with_adapter(model, config, temperature, &adapter);
        learner.self_test(seed)?;
        Ok(learner)
    }

    /// A learner that goes on from `state`, bit for bit.
    ///
    /// # Errors
    /// Where the state does not belong to this config.
    pub fn resume(
        model: Arc<Transformer>,
        config: LearnerConfig,
        temperature: f32,
        state: State,
    ) -> Result<Self, Error> {
        let expected = fresh_adapter(&model, &config.lora, 0, false);
        let sizes = |adapter: &Adapter| -> Vec<_> {
            adapter.factors.iter().map(|(place, f)| (*place, f.a.len(), f.b.len())).collect()
        };
        if state.adapter.config.rank != config.lora.rank || sizes(&state.adapter) != sizes(&expected) {
            return Err(Error::OtherAdapter { rank: config.lora.rank, targets: config.lora.targets.clone() });
        }
        let mut learner = Self::with_adapter(model, config, temperature, &state.adapter);
        let mut moments: HashMap<String, HostTensor> = state.optimizer.into_iter().collect();
        for parameter in &mut learner.parameters {
            parameter.restore(&mut |name| moments.remove(name))?;
        }
        (learner.step, learner.batch, learner.report) = (state.step, state.batch, state.report);
        Ok(learner)
    }

    fn with_adapter(model: Arc<Transformer>, config: LearnerConfig, temperature: f32, adapter: &Adapter) -> Self {
        let mut parameters = vec![];
        for (&(layer, site), pair) in &adapter.factors {
            let (inputs, outputs) = site.sizes(model.spec());
            let rank = adapter.config.rank;
            let mut add = |name: &str, shape: [usize; 2], values: &[f32]| {
                parameters.push(Parameter::new(format!("layers.{layer}.{site}.{name}"), shape, values.to_vec()));
            };
            add("lora_A", [rank, inputs], &pair.a);
            add("lora_B", [outputs, rank], &pair.b);
        }
        Self {
            model,
            config,
            temperature,
            parameters,
            places: adapter.factors.keys().copied().collect(),
            branches: None,
            space: Space::default(),
            step: 0,
            batch: 0,
            report: None,
            published: None,
            references: HashMap::new(),
            under_way: None,
        }
    }

    /// Steps taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Whether a step is under way.
    pub fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// Begins the step on `groups` that is named `batch`. The report of a batch already applied comes back at once.
    pub fn begin(&mut self, batch: u64, groups: Vec<Arc<CritiqueGroup>>) -> Option<Report> {
        if batch == self.batch && self.report.is_some() {
            return self.report.clone();
        }
        self.abandon();
        let references = &self.references;
        let knows = |group: &CritiqueGroup| references.contains_key(&group.episode.0);
        self.under_way = Some(UnderWay::new(batch, groups, self.config.micro_batch_tokens, knows));
        None
    }

    /// Forgets the step under way; nothing has changed.
    pub fn abandon(&mut self) {
        self.under_way = None;
        self.parameters.iter_mut().for_each(Parameter::forget);
    }

    /// Does one piece of the step under way; the report comes with the last.
    ///
    /// # Errors
    /// Where the model fails or the loss or the gradient is not finite: then the step is not taken.
    pub fn advance(&mut self) -> Result<Option<Report>, Error> {
        let Some(mut under_way) = self.under_way.take() else { return Ok(None) };
        let done = match under_way.pieces.pop_front() {
            Some(piece) => self.run(&piece, &mut under_way),
            None => Ok(()),
        };
        if let Err(error) = done {
            self.abandon();
            return Err(error);
        }
        if under_way.pieces.is_empty() {
            return self.finish(under_way).map(Some);
        }
        self.under_way = Some(under_way);
        Ok(None)
    }

    fn finish(&mut self, under_way: UnderWay) -> Result<Report, Error> {
        let step = self.step + 1;
        let norm = optimizer::gradient_norm(&self.parameters);
        for (what, value) in [("loss", under_way.loss as f32), ("gradient norm", norm)] {
            if !value.is_finite() {
                self.abandon();
                return Err(Error::NotFinite { step, what, value });
            }
        }
        optimizer::update(&mut self.parameters, &self.config, step, norm);
        self.branches = None;
        let ratios: Vec<f32> = under_way.ratios.concat();
        let mean = |values: &mut dyn Iterator<Item = f32>, count: usize| values.sum::<f32>() / count.max(1) as f32;
        let differences = &under_way.differences;
        let report = Report {
            step,
            loss: under_way.loss as f32,
            gradient_norm: norm,
            log_ratio_mean: mean(&mut ratios.iter().copied(), ratios.len()),
            log_ratio_second_moment: mean(&mut ratios.iter().map(|r| r * r), ratios.len()),
            sampler_difference: (!differences.is_empty())
                .then(|| mean(&mut differences.iter().copied(), differences.len())),
            tokens: under_way.groups.iter().flat_map(|g| &g.critiques).map(|c| c.written.ids.len()).sum(),
            learning_rate: optimizer::learning_rate(&self.config, step),
        };
        (self.step, self.batch, self.report) = (step, under_way.batch, Some(report.clone()));
        self.forget_old_references();
        Ok(report)
    }

    fn forget_old_references(&mut self) {
        if self.references.len() > REFERENCES_MAX {
            let mut episodes: Vec<u64> = self.references.keys().copied().collect();
            episodes.sort_unstable();
            for episode in &episodes[..episodes.len() - REFERENCES_MAX / 2] {
                self.references.remove(episode);
            }
        }
    }

    /// Notes that `version` serves the current weights.
    pub fn published(&mut self, version: CriticVersion) {
        self.published = Some((version, self.step));
    }

    /// An immutable copy of the current weights.
    pub fn adapter(&self) -> Adapter {
        let pairs = self.places.iter().zip(self.parameters.chunks_exact(2));
        let factors =
            pairs.map(|(&place, pair)| (place, Factors { a: pair[0].values.clone(), b: pair[1].values.clone() }));
        Adapter { config: self.config.lora.clone(), factors: factors.collect() }
    }

    /// All that [`Learner::resume`] needs. A step under way is not in it.
    pub fn state(&self) -> State {
        State {
            step: self.step,
            batch: self.batch,
            report: self.report.clone(),
            adapter: self.adapter(),
            optimizer: self.parameters.iter().flat_map(Parameter::moments).collect(),
        }
    }
}
