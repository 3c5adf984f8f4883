//! What the tree is raised from: whatever stays the same over all restarts of a process.
//!
//! Weights are loaded once and shared; a restart makes new actors and a new device thread over them.

use super::failure::Failure;
use super::replay::Pacing;
use super::rollout::RolloutConfig;
use super::stop::Stop;
use super::supervisor::SupervisorConfig;
use crate::device::{Device, LearnerSetup};
use crate::episode::models::Models;
use crate::episode::online_eval::OnlineEval;
use crate::groups::GroupRecorder;
use crate::learner::{self, LearnerConfig};
use crate::prompts::PromptStream;
use crate::replay::{Replay, ReplayConfig};
use crate::run::checkpoints::CheckpointStore;
use crate::run::events::EventBus;
use crate::run::state::RunState;
use std::sync::Arc;
use std::time::Duration;

/// Whatever stays the same over all restarts.
pub struct RunContext {
    /// Everyone who is asked.
    pub models: Arc<Models>,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Prompts.
    pub prompts: Arc<PromptStream>,
    /// Whether the judge compares critiques with each other too.
    pub critique_preferences: bool,
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
    pub checkpoints: Arc<CheckpointStore>,
    /// Where scored groups are kept, where they are.
    pub recorder: Option<Arc<GroupRecorder>>,
    /// The exam of the critic in service, where there is one.
    pub served: Option<Arc<OnlineEval>>,
    /// The wish to stop.
    pub stop: Stop,
    /// Who is told.
    pub events: EventBus,
}

impl RunContext {
    /// An empty shelf.
    pub fn run_state(&self) -> RunState {
        RunState::new(Replay::new(self.replay.clone(), self.learner.objective, self.fresh_max(), self.seed))
    }

    /// A saved shelf, taken up under this run's limits.
    pub fn resumed(&self, mut run_state: RunState) -> RunState {
        run_state.replay =
            run_state.replay.resumed(self.replay.clone(), self.learner.objective, self.fresh_max(), self.seed);
        run_state
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
        self.models.deadline
    }

    /// When episodes may begin.
    pub(crate) fn pacing(&self) -> Pacing {
        if self.learner.synchronous { Pacing::OneByOne } else { Pacing::ByAge }
    }

    /// A device thread whose learner goes on from `state`, with the critic of `run_state` in service.
    pub(crate) async fn device(&self, state: Option<learner::State>, run_state: &RunState) -> Result<Device, Failure> {
        let learner = LearnerSetup {
            config: self.learner.clone(),
            temperature: self.models.critic.sampling.temperature,
            seed: self.seed,
            state,
        };
        let setup = self.models.setup(Some(learner), run_state.version, run_state.served.clone());
        Ok(Device::start(setup).await?)
    }
}
