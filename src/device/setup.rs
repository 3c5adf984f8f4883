//! The setup of a device thread, and the events it reports to its observer.

use crate::engine::{EngineConfig, StepReport};
use crate::formats::tokenizer::Tokenizer;
use crate::learner::{self, LearnerConfig};
use crate::transformer::Transformer;
use crate::transformer::full_weights::CriticWeights;
use crate::types::{CriticVersion, EngineLoad};
use std::sync::Arc;
use std::time::Duration;

/// Receives the thread's events as they happen. Runs on that thread, so it must be fast.
pub type Observer = Box<dyn Fn(Event) + Send>;

/// One event of the thread.
#[derive(Clone, Debug)]
pub enum Event {
    /// One engine step.
    Engine {
        /// Its report.
        report: Box<StepReport>,
        /// How long it took.
        duration: Duration,
        /// What the engines hold after it.
        load: EngineLoad,
    },
    /// A critic was put into service or loaded beside it, between two steps.
    Installed {
        /// How long the thread did nothing else.
        duration: Duration,
    },
    /// One micro-batch of a learner step.
    Learner {
        /// How long it took.
        duration: Duration,
        /// The critic that is trained, its gradient and the optimizer's moments, in bytes.
        bytes: usize,
    },
    /// A command was taken.
    Command {
        /// How long it waited.
        waited: Duration,
    },
}

/// Setup of a device thread.
pub struct Setup {
    /// Base weights, shared by all that run on them.
    pub model: Arc<Transformer>,
    /// Ids to text, for stop strings.
    pub tokenizer: Tokenizer,
    /// Limits of the engine.
    pub engine: EngineConfig,
    /// The judge's own model, if it has one.
    pub judge: Option<JudgeSetup>,
    /// The learner, if there is one.
    pub learner: Option<LearnerSetup>,
    /// The critic in service at the start.
    pub version: CriticVersion,
    /// Its weights; none for the base's.
    pub served: Option<CriticWeights>,
    /// Receives the thread's events.
    pub observer: Observer,
}

/// Setup of a judge with its own model: a second engine on the same thread.
pub struct JudgeSetup {
    /// Its weights.
    pub model: Arc<Transformer>,
    /// Its ids to text.
    pub tokenizer: Tokenizer,
    /// Limits of its engine.
    pub engine: EngineConfig,
}

/// Setup of a learner.
pub struct LearnerSetup {
    /// How it learns.
    pub config: LearnerConfig,
    /// The critic's sampling temperature.
    pub temperature: f32,
    /// Seed of a fresh adapter.
    pub seed: u64,
    /// The state to resume from.
    pub state: Option<learner::State>,
}
