//! What every actor is given at its start; it stays the same over all restarts in a process.
//!
//! Weights are loaded once and shared; a restart makes new actors and a new device thread around them.

use super::failure::Failure;
use super::replay::Pacing;
use super::supervisor::SupervisorConfig;
use crate::device::CriticWeights;
use crate::device::{Device, LearnerSetup};
use crate::episode::models::Models;
use crate::episode::online_eval::OnlineEval;
use crate::episode::tree::RolloutConfig;
use crate::learner::{self, LearnerConfig};
use crate::prompts::PromptStream;
use crate::replay::{Replay, ReplayConfig};
use crate::run::checkpoints::CheckpointStore;
use crate::run::events::EventBus;
use crate::run::journal::Journal;
use crate::run::state::RunState;
use crate::types::CriticVersion;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Whatever stays the same over all restarts.
pub struct RunContext {
    /// The models and the roles they play.
    pub models: Arc<Models>,
    /// The node's seed.
    pub seed: u64,
    /// Prompts.
    pub prompts: Arc<PromptStream>,
    /// Whether the judge compares critiques with each other too.
    pub critique_preferences: bool,
    /// Size and number of episodes.
    pub rollout: RolloutConfig,
    /// Limits of the replay buffer.
    pub replay: ReplayConfig,
    /// How the critic learns.
    pub learner: LearnerConfig,
    /// The run stops after this many learner steps in all.
    pub learner_steps_max: Option<u64>,
    /// The restart budget.
    pub supervisor: SupervisorConfig,
    /// How long the work under way may take to finish at a stop.
    pub drain: Duration,
    /// The run's checkpoints.
    pub checkpoints: Arc<CheckpointStore>,
    /// The changes of the run state, on disk.
    pub journal: Arc<Journal>,
    /// The evaluation of the critic in service; none if there is none.
    pub eval: Option<Arc<OnlineEval>>,
    /// The request to stop.
    pub stop: CancellationToken,
    /// Where events go.
    pub events: EventBus,
}

impl RunContext {
    /// The run state at the beginning of a run.
    pub fn run_state(&self) -> RunState {
        let mut replay = Replay::new(self.replay.clone(), self.learner.objective, self.fresh_max(), self.seed);
        if self.learner.synchronous {
            replay.lease_in_order();
        }
        RunState::new(replay)
    }

    /// A saved run state under this run's limits.
    pub fn resumed(&self, mut run_state: RunState) -> RunState {
        run_state.resumed(self.replay.clone(), self.learner.objective, self.fresh_max(), self.seed);
        run_state
    }

    /// How many unlearned groups may wait: as many as are learned in half the age at which groups are retired. The other
    /// half is for episodes under way.
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

    /// Starts a device thread whose learner resumes from `state`, with `served` in service as `version`.
    pub(crate) async fn device(
        &self,
        state: Option<learner::State>,
        version: CriticVersion,
        served: Option<CriticWeights>,
    ) -> Result<Device, Failure> {
        let learner = LearnerSetup {
            config: self.learner.clone(),
            temperature: self.models.critic.sampling.temperature,
            seed: self.seed,
            state,
        };
        let setup = self.models.setup(Some(learner), version, served);
        Ok(Device::start(setup).await?)
    }
}
