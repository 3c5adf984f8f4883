//! The learner: turns critique groups into the next critic by DRO on the `score` pass.
//!
//! A step runs in micro-batches of bounded size, so that the owner of the device can generate tokens in between.
//! Log-ratios are computed on the sampled ids, at the sampling temperature. Invariant: a step takes effect only at its
//! end; an abandoned step changes nothing.

mod config;
pub mod dpco;
mod error;
mod full_weights;
mod initial;
mod micro_batch;
pub mod objective;
mod optimizer;
pub mod reference;
mod selection;
mod state;
mod step_loss;
mod streak;
mod trained;
pub mod value;

pub use crate::types::Objective;
pub use config::{LearnerConfig, Mode};
pub use error::Error;
pub use state::{HostTensor, Report, State};
pub use streak::FailureStreak;

use crate::formats::adapter::LoraConfig;
use crate::formats::spec::ModelSpec;
use crate::transformer::Transformer;
use crate::transformer::full_weights::CriticWeights;
use crate::transformer::score::{self, Arena, Packed, ScoreBatch};
use crate::types::{CriticVersion, CritiqueGroup};
use micro_batch::{MicroBatch, PassContext, PassKind, StepInProgress};
use objective::UtilityMoments;
use optimizer::Adam;
use reference::{Reference, References};
use std::collections::HashMap;
use std::sync::Arc;
use step_loss::StepLoss;
use trained::TrainableCritic;
use value::Value;

/// The learner: the trainable critic and the frozen base model.
pub struct Learner {
    model: Arc<Transformer>,
    config: LearnerConfig,
    temperature: f32,
    trained: TrainableCritic,
    /// Memory of the score pass.
    arena: Arena,
    step: u64,
    batch: u64,
    report: Option<Report>,
    /// The version published with exactly the current weights, and the step of its publication.
    published: Option<(CriticVersion, u64)>,
    /// The critic in service, as far as known.
    newest: CriticVersion,
    /// The reference since the last reset; `None`: the base model.
    reference: Option<Reference>,
    /// Reference log-probabilities of the groups in use.
    references: References,
    /// Moments of the utilities learned from.
    utilities: UtilityMoments,
    /// The value network, if the baseline is `value`.
    value: Option<Value>,
    in_progress: Option<StepInProgress>,
}

impl Learner {
    /// A learner that starts as the reference: from `learner.start_from`, else with a fresh adapter, `A` uniform in `+-1 / sqrt(inputs)`, `B` zero
    /// (arXiv 2106.09685), or with a copy of all weights. `temperature` is the critic's sampling temperature.
    ///
    /// # Errors
    /// If a trainable tensor gets no gradient in the self-test, or if all weights are trained and the model is not on the
    /// CPU.
    pub fn new(model: Arc<Transformer>, config: LearnerConfig, temperature: f32, seed: u64) -> Result<Self, Error> {
        let trained = TrainableCritic::first(&model, &config, seed)?;
        let mut learner = Self::with(model, config, temperature, trained, seed);
        if let (Some(_), TrainableCritic::Lora(lora)) = (learner.config.start(), &learner.trained) {
            // The loss is anchored to where training starts, not to the base model.
            learner.reference = Some(Reference::new(lora.adapter()));
        }
        learner.trained.self_test(&learner.model, &learner.config, temperature, seed)?;
        Ok(learner)
    }

    /// Checks that the weights that `config` starts from, if any, can be trained on a model of `spec`.
    ///
    /// # Errors
    /// If they cannot be read, or are not of the kind, rank or targets that are trained.
    pub fn check_start(config: &LearnerConfig, spec: &ModelSpec) -> Result<(), Error> {
        trained::load_start(config, spec).map(drop)
    }

    /// Memory of what is trained, its gradient and two moments, in bytes.
    pub fn bytes(&self) -> usize {
        4 * self.trained.floats() * size_of::<f32>()
    }

    /// Resumes from `state`, bit for bit. A value network that `state` does not contain starts fresh.
    ///
    /// # Errors
    /// If the state does not match this config.
    pub fn resume(
        model: Arc<Transformer>,
        config: LearnerConfig,
        temperature: f32,
        state: State,
    ) -> Result<Self, Error> {
        let mut tensors: HashMap<String, HostTensor> = state.optimizer.into_iter().collect();
        let reference = match &state.critic {
            CriticWeights::Adapter(adapter) => Reference::restore(adapter, &mut |name| tensors.remove(name))?,
            CriticWeights::Full(_) => None,
        };
        let trained = TrainableCritic::resumed(&model, &config, state.critic)?;
        let mut learner = Self::with(model, config, temperature, trained, 0);
        learner.trained.restore(&mut |name| tensors.remove(name))?;
        if learner.value.is_some() && Value::is_in(|name| tensors.contains_key(name)) {
            let (inputs, width) = (learner.model.spec().hidden, learner.config.value.width);
            learner.value = Some(Value::restore(inputs, width, &mut |name| tensors.remove(name))?);
        }
        learner.reference = reference;
        learner.references = References::restore(&tensors)?;
        learner.utilities = state.utilities;
        (learner.step, learner.batch, learner.report) = (state.step, state.batch, state.report);
        Ok(learner)
    }

    fn with(
        model: Arc<Transformer>,
        config: LearnerConfig,
        temperature: f32,
        trained: TrainableCritic,
        seed: u64,
    ) -> Self {
        let value = config.has_value().then(|| Value::new(model.spec().hidden, config.value.width, seed));
        let arena = Arena::new(config.micro_batch_tokens);
        Self {
            model,
            config,
            temperature,
            trained,
            arena,
            step: 0,
            batch: 0,
            report: None,
            published: None,
            newest: CriticVersion::BASE,
            reference: None,
            references: References::default(),
            utilities: UtilityMoments::default(),
            value,
            in_progress: None,
        }
    }

    /// Steps taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Whether a step is in progress.
    pub fn is_busy(&self) -> bool {
        self.in_progress.is_some()
    }

    /// Begins the step on `groups`, named `batch`. If the batch was already applied, returns its report at once.
    pub fn begin(&mut self, batch: u64, groups: Vec<Arc<CritiqueGroup>>) -> Option<Report> {
        if batch == self.batch && self.report.is_some() {
            return self.report.clone();
        }
        self.abandon();
        let loss = StepLoss::new(&self.config, self.step + 1, groups, self.utilities);
        let (references, with_hidden) = (&self.references, self.value.is_some());
        let knows = |group: &CritiqueGroup| references.knows(group.episode.0, group.critiques.len(), with_hidden);
        self.in_progress = Some(StepInProgress::new(batch, loss, &self.config, knows));
        None
    }

    /// Drops the step in progress; nothing has changed.
    pub fn abandon(&mut self) {
        self.in_progress = None;
        self.trained.discard();
        self.value.iter_mut().for_each(Value::discard);
    }

    /// Takes the whole step on `groups` named `batch`: [`Learner::begin`], then [`Learner::advance`] until the report.
    ///
    /// # Errors
    /// As [`Learner::advance`].
    pub fn step_on(&mut self, batch: u64, groups: Vec<Arc<CritiqueGroup>>) -> Result<Report, Error> {
        self.step_on_with(batch, groups, || ())
    }

    /// As [`Learner::step_on`]; calls `after_micro_batch` after each micro-batch.
    ///
    /// # Errors
    /// As [`Learner::advance`].
    pub fn step_on_with(
        &mut self,
        batch: u64,
        groups: Vec<Arc<CritiqueGroup>>,
        mut after_micro_batch: impl FnMut(),
    ) -> Result<Report, Error> {
        let mut report = self.begin(batch, groups);
        loop {
            if let Some(report) = report {
                return Ok(report);
            }
            report = self.advance()?;
            after_micro_batch();
        }
    }

    /// Runs the next micro-batch of the step in progress; the report comes with the last.
    ///
    /// # Errors
    /// If the model fails, or if loss or gradient is not finite. The step is then not taken.
    pub fn advance(&mut self) -> Result<Option<Report>, Error> {
        let Some(mut in_progress) = self.in_progress.take() else { return Ok(None) };
        let done = match in_progress.micro_batches.pop_front() {
            Some(micro_batch) => self.run(&micro_batch, &mut in_progress),
            None => Ok(()),
        };
        if let Err(error) = done {
            self.abandon();
            return Err(error);
        }
        if in_progress.micro_batches.is_empty() {
            return self.finish(in_progress).map(Some);
        }
        self.in_progress = Some(in_progress);
        Ok(None)
    }

    /// Runs one micro-batch.
    fn run(&mut self, micro_batch: &MicroBatch, in_progress: &mut StepInProgress) -> Result<(), Error> {
        let groups = in_progress.loss.groups.clone();
        let packed: Vec<Packed<'_>> =
            micro_batch.slices.iter().map(|slice| slice.packed(&groups[slice.group])).collect();
        let Self { model, config, trained, reference, references, value, arena, .. } = self;
        let batch = ScoreBatch { packed: &packed, temperature: self.temperature };
        let current = match micro_batch.kind {
            PassKind::Reference => reference.is_none().then_some(CriticVersion::BASE),
            PassKind::Ratios => None,
            PassKind::Gradient => self.published.filter(|&(_, step)| step == self.step).map(|(version, _)| version),
        };
        let mut context = PassContext { micro_batch, packed: &packed, current, config, references, value, in_progress };
        let scored = match micro_batch.kind {
            PassKind::Reference => {
                let branches = reference.as_mut().map(|reference| reference.branches(model)).transpose()?;
                score::score_in(model, batch, branches, arena)?
            }
            PassKind::Ratios => trained.score(model, batch, arena)?,
            PassKind::Gradient => {
                return trained.learn(model, batch, config.activation_policy(), arena, |scored| {
                    context.record(scored);
                    context.log_prob_weights()
                });
            }
        };
        context.record(&scored);
        Ok(())
    }

    fn finish(&mut self, in_progress: StepInProgress) -> Result<Report, Error> {
        let StepInProgress { batch, loss, mismatches, .. } = in_progress;
        let (step, sums) = (self.step + 1, loss.sums);
        let norm = self.trained.gradient_norm();
        let losses = [("loss", sums.loss as f32), ("value loss", sums.value_loss as f32)];
        for (what, value) in losses.into_iter().chain([("gradient norm", norm)]) {
            if !value.is_finite() {
                self.abandon();
                return Err(Error::NotFinite { step, what, value });
            }
        }
        let most = self.config.gradient_norm_max;
        if most > 0.0 && f64::from(norm) > most {
            self.abandon();
            return Err(Error::Exploded { step, norm, most });
        }
        self.trained.update(&self.config, step, norm);
        self.update_value(step);
        if let TrainableCritic::Lora(lora) = &self.trained
            && self.config.resets().falls_after(step)
        {
            self.reference = Some(Reference::new(lora.adapter()));
        }
        let report = self.report(step, norm, &loss, &mismatches);
        (self.step, self.batch, self.report) = (step, batch, Some(report.clone()));
        self.utilities = loss.moments;
        self.references.forget_old();
        Ok(report)
    }

    fn update_value(&mut self, step: u64) {
        let rate = self.config.value.learning_rate * optimizer::warmth(&self.config, step);
        let adam = Adam::of(&self.config, rate);
        self.value.iter_mut().for_each(|value| value.update(adam));
    }

    fn report(&self, step: u64, gradient_norm: f32, loss: &StepLoss, mismatches: &[f32]) -> Report {
        let (sums, config) = (loss.sums, &self.config);
        let rco = config.objective == Objective::Rco;
        let difference = mismatches.iter().sum::<f32>() / mismatches.len().max(1) as f32;
        Report {
            step,
            loss: sums.loss as f32,
            gradient_norm,
            off_policy: loss.diagnostics(self.newest),
            weighted_utility: loss.utility() as f32,
            beta: loss.beta as f32,
            baseline: rco.then_some(sums.baseline as f32),
            utility_deviation: config.utility_zscore.then(|| loss.moments.deviation() as f32),
            value_loss: config.has_value().then_some(sums.value_loss as f32),
            preference_accuracy: (!rco).then_some(sums.accuracy as f32),
            preference_margin: (!rco).then_some(sums.margin as f32),
            truncated: sums.truncated,
            masked: loss.masked(),
            reference_resets: config.resets().index(self.step),
            train_inference_mismatch: (!mismatches.is_empty()).then_some(difference),
            tokens: loss.tokens(),
            learning_rate: optimizer::learning_rate(config, step),
        }
    }

    /// Goes on from `critic` (the base if there is none), with the optimizer's moments at zero. A step in progress is dropped.
    ///
    /// # Errors
    /// If it is not of the kind, shape or scale that is trained; nothing has changed then.
    pub fn adopt(&mut self, critic: Option<CriticWeights>) -> Result<(), Error> {
        let trained = match critic {
            None => TrainableCritic::fresh(&self.model, &self.config, self.step)?,
            Some(critic) => {
                let scale = critic.adapter().map(|adapter| adapter.config.scale());
                if scale.is_some_and(|scale| scale != self.config.lora.scale()) {
                    let LoraConfig { rank, targets, .. } = self.config.lora.clone();
                    return Err(Error::OtherAdapter { rank, targets });
                }
                TrainableCritic::resumed(&self.model, &self.config, critic)?
            }
        };
        self.abandon();
        (self.trained, self.published) = (trained, None);
        Ok(())
    }

    /// Takes learning rate and beta from `config`. A step in progress keeps its beta.
    pub fn configure(&mut self, config: &LearnerConfig) {
        (self.config.learning_rate, self.config.beta) = (config.learning_rate, config.beta);
    }

    /// Sets the version in service, whatever the current weights are.
    pub fn serves(&mut self, version: CriticVersion) {
        self.newest = version;
    }

    /// Sets `version` as the one published with exactly the current weights.
    pub fn published(&mut self, version: CriticVersion) {
        (self.published, self.newest) = (Some((version, self.step)), version);
    }

    /// An immutable copy of the current weights.
    pub fn critic(&self) -> CriticWeights {
        self.trained.critic()
    }

    /// Number of trainable parameters.
    pub fn parameters(&self) -> usize {
        self.trained.parameters()
    }

    /// Name of the last batch applied, 0 before the first.
    pub fn batch(&self) -> u64 {
        self.batch
    }

    /// All that [`Learner::resume`] needs. A step in progress is not in it.
    pub fn state(&self) -> State {
        let mut optimizer = self.trained.moments();
        optimizer.extend(self.value.iter().flat_map(Value::tensors));
        if self.config.resets().every_steps > 0 || self.reference.is_some() {
            optimizer.extend(self.reference.iter().flat_map(Reference::tensors));
            optimizer.extend(self.references.tensors());
        }
        State {
            step: self.step,
            batch: self.batch,
            report: self.report.clone(),
            critic: self.critic(),
            optimizer,
            utilities: self.utilities,
        }
    }
}
