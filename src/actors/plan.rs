//! What the tree is raised from: whatever stays the same over all restarts of a process.
//!
//! Weights are loaded once and shared; a restart makes new actors and a new device thread over them.

use super::archive::Archive;
use super::judge::JudgeSource;
use super::news::News;
use super::replay::Pacing;
use super::rollout::RolloutConfig;
use super::scribe::Scribe;
use super::shelf::Shelf;
use super::supervisor::SupervisorConfig;
use super::{Failure, Stop, gauges};
use crate::device::{self, Device, JudgeSetup, LearnerSetup};
use crate::engine::{EngineConfig, sampler::SamplingConfig};
use crate::groups::Recorder;
use crate::learner::{self, LearnerConfig};
use crate::model::Loaded;
use crate::prompts::PromptStream;
use crate::remote::Client;
use crate::replay::{Replay, ReplayConfig};
use crate::roles::{critic::Critic, generator::Generator, refiner::Refiner};
use crate::telemetry::metrics::Role;
use std::sync::Arc;
use std::time::Duration;

/// A role's wording and how it samples.
pub struct Writer<R> {
    /// The wording.
    pub role: Arc<R>,
    /// How it samples.
    pub sampling: SamplingConfig,
}

/// Clients of the servers that stand in for local models.
#[derive(Default)]
pub struct Remotes {
    /// Answers and refines.
    pub generator: Option<Arc<Client>>,
    /// Judges.
    pub judge: Option<Arc<Client>>,
}

/// Whatever stays the same over all restarts.
pub struct Plan {
    /// Base weights, tokenizer and chat template.
    pub model: Loaded,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Prompts.
    pub prompts: Arc<PromptStream>,
    /// Limits of the engine.
    pub engine: EngineConfig,
    /// Answers.
    pub generator: Writer<Generator>,
    /// Criticises.
    pub critic: Writer<Critic>,
    /// Refines.
    pub refiner: Writer<Refiner>,
    /// Compares.
    pub judge: JudgeSource,
    /// How the judge samples, where it writes.
    pub judging: SamplingConfig,
    /// Whether the judge compares critiques with each other too.
    pub critique_preferences: bool,
    /// Servers that stand in for local models.
    pub remotes: Remotes,
    /// The judge's own model and the limits of its engine, where it has one.
    pub judge_model: Option<(Loaded, EngineConfig)>,
    /// Size and number of episodes.
    pub rollout: RolloutConfig,
    /// Limits of the buffer.
    pub replay: ReplayConfig,
    /// How the critic learns.
    pub learner: LearnerConfig,
    /// After so many learner steps in all, the run stops.
    pub learner_steps_max: Option<u64>,
    /// When to give up.
    pub supervisor: SupervisorConfig,
    /// How long what is under way may take to end.
    pub drain: Duration,
    /// Checkpoints.
    pub archive: Arc<Archive>,
    /// Where scored groups are kept, where they are.
    pub recorder: Option<Arc<Recorder>>,
    /// The wish to stop.
    pub stop: Stop,
    /// Who is told.
    pub news: News,
}

impl Plan {
    /// An empty shelf.
    pub fn shelf(&self) -> Shelf {
        Shelf::new(Replay::new(self.replay.clone(), self.learner.objective, self.fresh_max(), self.seed))
    }

    /// A saved shelf, taken up under this run's limits.
    pub fn resumed(&self, mut shelf: Shelf) -> Shelf {
        shelf.replay = shelf.replay.resumed(self.replay.clone(), self.learner.objective, self.fresh_max(), self.seed);
        shelf
    }

    /// Unlearned groups that may wait: as many as are learned in half of the age at which they are
    /// retired. The other half is for what is under way.
    fn fresh_max(&self) -> usize {
        let groups = self.learner.groups_per_step;
        let steps = (self.replay.age_versions_max.saturating_mul(self.learner.publish_every_steps) / 2).max(1);
        groups.saturating_mul(usize::try_from(steps).unwrap_or(usize::MAX)).min(self.replay.groups_max.max(groups))
    }

    /// How long an actor may take for an answer.
    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_secs(self.rollout.ask_deadline_seconds)
    }

    /// When episodes may begin.
    pub(crate) fn pacing(&self) -> Pacing {
        if self.learner.synchronous { Pacing::OneByOne } else { Pacing::ByAge }
    }

    /// A device thread whose learner goes on from `state`, with the critic of `shelf` in service.
    pub(crate) async fn device(&self, state: Option<learner::State>, shelf: &Shelf) -> Result<Device, Failure> {
        let learner = LearnerSetup {
            config: self.learner.clone(),
            temperature: self.critic.sampling.temperature,
            seed: self.seed,
            state,
        };
        let judge = self.judge_model.as_ref().map(|(model, engine)| JudgeSetup {
            model: model.transformer.clone(),
            tokenizer: model.tokenizer.clone(),
            engine: engine.clone(),
        });
        let setup = device::Setup {
            model: self.model.transformer.clone(),
            tokenizer: self.model.tokenizer.clone(),
            engine: self.engine.clone(),
            judge,
            learner: Some(learner),
            version: shelf.version,
            served: shelf.served.clone(),
            observer: gauges::observer(self.news.clone()),
        };
        Ok(Device::start(setup).await?)
    }

    /// What `role` writes with.
    pub(crate) fn scribe(&self, role: Role, device: &Device) -> Scribe {
        let sampling = match role {
            Role::Generator => &self.generator.sampling,
            Role::Critic => &self.critic.sampling,
            Role::Refiner => &self.refiner.sampling,
            Role::Judge => &self.judging,
        };
        let (model, device) = match (role, &self.judge_model) {
            (Role::Judge, Some((model, _))) => (model, device.of_judge()),
            _ => (&self.model, device.clone()),
        };
        let remote = match role {
            Role::Generator | Role::Refiner => &self.remotes.generator,
            Role::Judge => &self.remotes.judge,
            Role::Critic => &None,
        };
        Scribe {
            role,
            remote: remote.clone(),
            sampling: sampling.clone(),
            deadline: self.deadline(),
            device,
            template: model.template.clone(),
            tokenizer: model.tokenizer.clone(),
            news: self.news.clone(),
        }
    }
}
