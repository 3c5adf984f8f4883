//! What every actor is given at its start; it stays the same over all restarts in a process.
//!
//! Weights are loaded once and shared; a restart makes new actors and a new device thread around them.

use super::failure::Failure;
use super::gates::{Handles, Pauses};
use super::replay::{Draw, Pacing};
use super::supervisor::SupervisorConfig;
use super::swap::Share;
use crate::device::CriticWeights;
use crate::device::{Device, LearnerSetup};
use crate::episode::canary::Canary;
use crate::episode::models::Models;
use crate::episode::online_eval::OnlineEval;
use crate::episode::tree::RolloutConfig;
use crate::learner::{self, LearnerConfig};
use crate::prompts::PromptStream;
use crate::records::EpisodeRecorder;
use crate::replay::{Replay, ReplayConfig};
use crate::run::checkpoints::CheckpointStore;
use crate::run::critics::{self, CriticRegistry, CriticState, Critics, SwapConfig};
use crate::run::events::EventBus;
use crate::run::journal::Journal;
use crate::run::state::RunState;
use crate::types::{CriticVersion, ModelId};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
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
    /// The records of episodes; none if none are kept.
    pub records: Option<Arc<EpisodeRecorder>>,
    /// The evaluation of the critic in service; none if there is none.
    pub eval: Option<Arc<OnlineEval>>,
    /// The critics of the run.
    pub registry: Arc<Mutex<CriticRegistry>>,
    /// What its records add up to.
    pub critics: watch::Receiver<Arc<Critics>>,
    /// The fixed prompts that candidates are tried on.
    pub canary: Arc<Canary>,
    /// The evaluation of candidates; none if there is none.
    pub canary_eval: Option<Arc<OnlineEval>>,
    /// How critics are tried, put into service and taken back.
    pub swap: SwapConfig,
    /// The share of the episodes that a candidate is tried on, if there is one.
    pub share: watch::Sender<Option<Share>>,
    /// What operators have paused.
    pub pauses: Pauses,
    /// The actors that are up, for those outside the tree.
    pub handles: watch::Sender<Handles>,
    /// The learner's settings as they were changed while the node runs.
    pub tuned: Mutex<LearnerConfig>,
    /// Episodes that run at once.
    pub rollouts_max: watch::Sender<usize>,
    /// The share of the engine that requests over HTTP get while rollouts have work too.
    pub http_share: f64,
    /// The base model.
    pub base: ModelId,
    /// How long the device thread may stand still.
    pub stall: Duration,
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

    /// Puts into `run_state`, which comes from the newest checkpoint, what the registry says is in service. A publication whose
    /// checkpoint was whole when the process died goes into service, unless another critic is pinned.
    ///
    /// # Errors
    /// If the registry cannot be written.
    pub(crate) fn serve_registered(&self, run_state: &mut RunState) -> Result<(), critics::Error> {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = run_state.version;
        if let (None, Some(critic)) = (registry.critics().entry(saved), &run_state.served) {
            registry.adopt(saved, critic, run_state.published_step)?;
        }
        if registry.critics().entry(saved).is_some_and(|entry| entry.state == CriticState::Candidate) {
            match registry.critics().pinned() {
                None if self.swap.canary_publications => {
                    registry.change(saved, CriticState::Rejected, "node", "the process ended before its trial did")?;
                }
                None => registry.serve(saved, "node", "published when the process ended", CriticState::Retired)?,
                Some(pinned) => {
                    let why = format!("{pinned} was pinned when the process ended");
                    registry.change(saved, CriticState::Retired, "node", &why)?;
                }
            }
        }
        let serving = registry.critics().serving();
        if serving == saved {
            return Ok(());
        }
        match registry.weights(serving) {
            Ok(critic) => run_state.enters_service(serving, critic),
            Err(error) => {
                tracing::warn!(%error, version = saved.0, "the critic in service is that of the checkpoint");
                let why = format!("{serving} could not be read");
                registry.serve(saved, "node", &why, CriticState::RolledBack)?;
            }
        }
        Ok(())
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

    /// How the curriculum draws prompts, if there is one.
    pub(crate) fn curriculum(&self) -> Option<Draw> {
        let floor = self.rollout.curriculum_floor as f32;
        self.rollout.curriculum.then(|| Draw { prompts: self.prompts.clone(), seed: self.seed, floor })
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
            config: self.tuned.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            temperature: self.models.critic.sampling.temperature,
            seed: self.seed,
            state,
        };
        let setup = self.models.setup(Some(learner), version, served);
        let stuck = |_| Failure::DeviceStuck { seconds: self.stall.as_secs() };
        let device = tokio::time::timeout(self.stall, Device::start(setup)).await.map_err(stuck)??;
        device.set_share(self.http_share).await?;
        Ok(device)
    }
}
