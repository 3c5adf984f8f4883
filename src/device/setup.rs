//! What a device thread starts from, and what it tells its observer.

use crate::engine::{EngineConfig, StepReport};
use crate::formats::tokenizer::Tokenizer;
use crate::learner::{self, LearnerConfig};
use crate::transformer::Transformer;
use crate::transformer::full_weights::CriticWeights;
use crate::types::CriticVersion;
use std::sync::Arc;
use std::time::Duration;

/// What the thread did, told as it happens; called on that thread, so it must be quick.
pub type Observer = Box<dyn Fn(Event) + Send>;

/// One thing the thread did.
#[derive(Clone, Debug)]
pub enum Event {
    /// One engine step.
    Engine {
        /// What it did.
        report: StepReport,
        /// How long it took.
        duration: Duration,
        /// Sequences that decode or prefill.
        running: usize,
        /// Sequences that wait.
        waiting: usize,
        /// Share of the KV blocks in use.
        kv_usage: f64,
    },
    /// One piece of a learner step.
    Learner {
        /// How long it took.
        duration: Duration,
    },
    /// A command was taken.
    Command {
        /// How long it waited.
        waited: Duration,
    },
}

/// What a device thread starts from.
pub struct Setup {
    /// Base weights, shared by all that run on them.
    pub model: Arc<Transformer>,
    /// Ids to text, for stop strings.
    pub tokenizer: Tokenizer,
    /// Limits of the engine.
    pub engine: EngineConfig,
    /// The judge's own model, where it has one.
    pub judge: Option<JudgeSetup>,
    /// The learner, where there is one.
    pub learner: Option<LearnerSetup>,
    /// The critic in service at the start.
    pub version: CriticVersion,
    /// Its weights; none for the base's.
    pub served: Option<CriticWeights>,
    /// Is told what the thread does.
    pub observer: Observer,
}

/// What a judge with a model of its own starts from: a second engine on the same thread.
pub struct JudgeSetup {
    /// Its weights.
    pub model: Arc<Transformer>,
    /// Its ids to text.
    pub tokenizer: Tokenizer,
    /// Limits of its engine.
    pub engine: EngineConfig,
}

/// What a learner starts from.
pub struct LearnerSetup {
    /// How it learns.
    pub config: LearnerConfig,
    /// The critic's sampling temperature.
    pub temperature: f32,
    /// Seed of a fresh adapter.
    pub seed: u64,
    /// The state to go on from.
    pub state: Option<learner::State>,
}
