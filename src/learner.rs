//! Turns critique groups into the next critic: DRO on the `score` pass.
//!
//! A step goes through its groups in pieces of bounded size, so that whoever owns the device can write
//! tokens in between. Log-ratios are taken on the very ids that were sampled, at the sampling
//! temperature. Nothing of a step shows before its end: an abandoned step leaves no trace.

mod config;
pub mod dpco;
mod full_weights;
mod micro_batch;
pub mod objective;
mod optimizer;
pub mod reference;
mod selection;
mod start;
mod state;
mod step_loss;
mod trained;
pub mod value;

pub use crate::types::Objective;
pub use config::{LearnerConfig, Mode};
pub use state::{HostTensor, Report, State};

use crate::formats::spec::Projection;
use crate::transformer::Transformer;
use crate::transformer::full_weights::CriticWeights;
use crate::transformer::score::Arena;
use crate::types::{CriticVersion, CritiqueGroup};
use micro_batch::UnderWay;
use objective::UtilityMoments;
use optimizer::Adam;
use reference::{Reference, References};
use std::collections::HashMap;
use std::sync::Arc;
use step_loss::StepLoss;
use trained::Trained;
use value::Value;

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
    /// A saved state lacks one of the learner's tensors, or holds it in another size.
    #[error("tensor {name} is missing from the saved learner or has another size")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A saved adapter does not have the factors that the config asks for.
    #[error("saved adapter: expected rank {rank} on {targets:?} in every layer; change the config back or start anew")]
    OtherAdapter {
        /// The rank asked for.
        rank: usize,
        /// The targets asked for.
        targets: Vec<Projection>,
    },
    /// A saved critic was trained in another mode.
    #[error("saved critic: expected one of learner.mode {mode}; change the config back or start anew")]
    OtherMode {
        /// The mode asked for.
        mode: Mode,
    },
    /// Saved weights are those of another model.
    #[error("saved critic: expected weights of the base's names and shapes; name the model that it began as")]
    OtherModel,
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
    /// The gradient is larger than allowed; nothing changed.
    #[error(
        "step {step}: expected a gradient norm of at most {most} (learner.gradient_norm_max), got {norm}; the step was not taken"
    )]
    Exploded {
        /// The step that was not taken.
        step: u64,
        /// The gradient's norm.
        norm: f32,
        /// The largest allowed.
        most: f64,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] crate::formats::Error),
}

/// The learner: what is trained, and the frozen model that it began as.
pub struct Learner {
    model: Arc<Transformer>,
    config: LearnerConfig,
    temperature: f32,
    trained: Trained,
    /// The score pass's memory.
    arena: Arena,
    step: u64,
    batch: u64,
    report: Option<Report>,
    /// The version that serves exactly the current weights, and the step of that publication.
    published: Option<(CriticVersion, u64)>,
    /// The critic in service, as far as known.
    newest: CriticVersion,
    /// What critiques are held against since the last reset; none: the base model.
    reference: Option<Reference>,
    /// What the reference says of the groups in use.
    references: References,
    /// Moments of the utilities learned from.
    utilities: UtilityMoments,
    /// The value network, where the baseline is one.
    value: Option<Value>,
    under_way: Option<UnderWay>,
}

impl Error {
    /// Whether a batch was refused and the learner stands as it stood before it.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::NotFinite { .. } | Self::Exploded { .. })
    }
}

impl Learner {
    /// A learner that starts as the reference: with a fresh adapter, `A` uniform in `+-1 / sqrt(inputs)`, `B` zero (arXiv
    /// 2106.09685), or with a copy of all weights. `temperature` is the critic's sampling temperature.
    ///
    /// # Errors
    /// Where a trainable tensor gets no gradient: the self-test of the graph runs here. Where all weights are to be trained
    /// and do not lie on the CPU.
    pub fn new(model: Arc<Transformer>, config: LearnerConfig, temperature: f32, seed: u64) -> Result<Self, Error> {
        let trained = Trained::fresh(&model, &config, seed)?;
        let mut learner = Self::with(model, config, temperature, trained, seed);
        learner.self_test(seed)?;
        Ok(learner)
    }

    /// A learner that goes on from `state`, bit for bit. A value network that the state does not know begins anew.
    ///
    /// # Errors
    /// Where the state does not belong to this config.
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
        let trained = Trained::resumed(&model, &config, state.critic)?;
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

    fn with(model: Arc<Transformer>, config: LearnerConfig, temperature: f32, trained: Trained, seed: u64) -> Self {
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
        let lesson = StepLoss::new(&self.config, self.step + 1, groups, self.utilities);
        let (references, with_hidden) = (&self.references, self.value.is_some());
        let knows = |group: &CritiqueGroup| references.knows(group.episode.0, group.critiques.len(), with_hidden);
        self.under_way = Some(UnderWay::new(batch, lesson, &self.config, knows));
        None
    }

    /// Forgets the step under way; nothing has changed.
    pub fn abandon(&mut self) {
        self.under_way = None;
        self.trained.forget();
        self.value.iter_mut().for_each(Value::forget);
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
        let UnderWay { batch, lesson, differences, .. } = under_way;
        let (step, tally) = (self.step + 1, lesson.tally);
        let norm = self.trained.gradient_norm();
        let losses = [("loss", tally.loss as f32), ("value loss", tally.value_loss as f32)];
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
        if let Trained::Lora(lora) = &self.trained
            && self.config.resets().falls_after(step)
        {
            self.reference = Some(Reference::new(lora.adapter()));
        }
        let report = self.report(step, norm, &lesson, &differences);
        (self.step, self.batch, self.report) = (step, batch, Some(report.clone()));
        self.utilities = lesson.moments;
        self.references.forget_old();
        Ok(report)
    }

    fn update_value(&mut self, step: u64) {
        let rate = self.config.value.learning_rate * optimizer::warmth(&self.config, step);
        let adam = Adam::of(&self.config, rate);
        self.value.iter_mut().for_each(|value| value.update(adam));
    }

    fn report(&self, step: u64, gradient_norm: f32, lesson: &StepLoss, differences: &[f32]) -> Report {
        let (tally, config) = (lesson.tally, &self.config);
        let rco = config.objective == Objective::Rco;
        let difference = differences.iter().sum::<f32>() / differences.len().max(1) as f32;
        Report {
            step,
            loss: tally.loss as f32,
            gradient_norm,
            off_policy: lesson.diagnostics(self.newest),
            weighted_utility: lesson.utility() as f32,
            beta: lesson.beta as f32,
            baseline: rco.then_some(tally.baseline as f32),
            utility_deviation: config.utility_zscore.then(|| lesson.moments.deviation() as f32),
            value_loss: config.has_value().then_some(tally.value_loss as f32),
            preference_accuracy: (!rco).then_some(tally.accuracy as f32),
            preference_margin: (!rco).then_some(tally.margin as f32),
            truncated: tally.truncated,
            masked: lesson.masked(),
            reference_resets: config.resets().index(self.step),
            sampler_difference: (!differences.is_empty()).then_some(difference),
            tokens: lesson.tokens(),
            learning_rate: optimizer::learning_rate(config, step),
        }
    }

    /// Notes that `version` is in service, whatever the current weights are.
    pub fn serves(&mut self, version: CriticVersion) {
        self.newest = version;
    }

    /// Notes that `version` serves the current weights.
    pub fn published(&mut self, version: CriticVersion) {
        (self.published, self.newest) = (Some((version, self.step)), version);
    }

    /// An immutable copy of the current weights.
    pub fn critic(&self) -> CriticWeights {
        self.trained.critic()
    }

    /// How many numbers are trained.
    pub fn parameters(&self) -> usize {
        self.trained.parameters()
    }

    /// Name of the last batch applied, 0 before the first.
    pub fn batch(&self) -> u64 {
        self.batch
    }

    /// All that [`Learner::resume`] needs. A step under way is not in it.
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
