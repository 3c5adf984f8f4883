//! What an operator may ask of a running node: swaps, pauses, a checkpoint, a stop.
//!
//! A [`Control`] outlives restarts: it holds no actor, but where the actor that is up can be found.

use super::ask::{Unanswered, ask};
pub use super::gates::{Handles, Part, Pauses};
use super::run_context::RunContext;
use super::supervisor::SupervisorMsg;
use super::swap::{Checks, Offer, SwapError, SwapMsg, SwapOutcome};
use super::tuning::Tuning;
use crate::device::{CriticWeights, Device};
use crate::episode::models::Models;
use crate::records::EpisodeStore;
use crate::run::critics::{self, Critics};
use crate::run::events::{Event, EventBus};
use crate::telemetry::{logs, metrics};
use crate::types::{CriticVersion, ModelId};
use ractor::ActorRef;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Canary and loading take seconds on a slow machine; nobody waits for longer than this.
const DEADLINE: Duration = Duration::from_secs(300);

/// Why a request to the node was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The actor is not up, or did not answer in time.
    #[error("the node does not answer: it starts, restarts or ends; ask again")]
    Unanswered,
    /// It was refused.
    #[error(transparent)]
    Swap(#[from] SwapError),
    /// A setting cannot change.
    #[error("{0}")]
    Setting(String),
    /// The last checkpoint was not written.
    #[error("the checkpoint was not written: {0}")]
    Checkpoint(String),
}

impl From<Unanswered> for ControlError {
    fn from(_: Unanswered) -> Self {
        Self::Unanswered
    }
}

/// A running node, as its operator sees it; clones share it.
#[derive(Clone)]
pub struct Control {
    pub(crate) context: Arc<RunContext>,
    pub(crate) supervisor: ActorRef<SupervisorMsg>,
}

impl Control {
    /// The device thread that is up.
    pub fn device(&self) -> Option<Device> {
        self.context.handles.borrow().device.clone()
    }

    /// Events and progress.
    pub fn events(&self) -> &EventBus {
        &self.context.events
    }

    /// The records of episodes; none if none are kept.
    pub fn episodes(&self) -> Option<&Arc<EpisodeStore>> {
        self.context.records.as_ref().map(|recorder| recorder.store())
    }

    /// The models and the roles that they play.
    pub fn models(&self) -> &Arc<Models> {
        &self.context.models
    }

    /// The base model.
    pub fn base(&self) -> &ModelId {
        &self.context.base
    }

    /// The critics of the run.
    pub fn critics(&self) -> Arc<Critics> {
        self.context.critics.borrow().clone()
    }

    /// The weights of `version`; none are the base's. Blocks on the disk.
    ///
    /// # Errors
    /// If it is unknown, its weights are no longer kept, or are not whole.
    pub fn weights(&self, version: CriticVersion) -> Result<Option<CriticWeights>, critics::Error> {
        let stored = self.context.registry.lock().unwrap_or_else(PoisonError::into_inner).stored(version)?;
        stored.read()
    }

    /// What an offer passes, unless its asker says otherwise.
    pub fn checks(&self) -> Checks {
        Checks { canary: true, share: self.context.swap.canary_share }
    }

    /// The critic on trial, if there is one, and the share of the episodes that it writes for.
    pub fn on_trial(&self) -> Option<(CriticVersion, f64)> {
        self.context.share.borrow().map(|share| (share.version, share.share))
    }

    /// Whether `part` is paused.
    pub fn is_paused(&self, part: Part) -> bool {
        self.context.pauses.is_paused(part)
    }

    async fn ask_swap<T>(
        &self,
        message: impl FnOnce(super::Reply<Result<T, SwapError>>) -> SwapMsg,
    ) -> Result<T, ControlError> {
        let actor = self.context.handles.borrow().swap.clone().ok_or(ControlError::Unanswered)?;
        Ok(ask(&actor, DEADLINE, message).await??)
    }

    /// Offers a critic for service. Answers once it is in service, on trial, or refused.
    ///
    /// # Errors
    /// If it is refused or rejected: the critic before it serves on.
    pub async fn swap(&self, offer: Offer, checks: Checks, by: &str) -> Result<SwapOutcome, ControlError> {
        let by = by.to_owned();
        self.ask_swap(|reply| SwapMsg::Swap { offer, checks, by, reply }).await
    }

    /// Takes the critic in service back, to its parent or to `to`.
    ///
    /// # Errors
    /// If there is no such version, or its weights are gone.
    pub async fn rollback(&self, to: Option<CriticVersion>, by: &str) -> Result<SwapOutcome, ControlError> {
        let by = by.to_owned();
        self.ask_swap(|reply| SwapMsg::Rollback { to, by, reply }).await
    }

    /// Keeps `version` in service whatever the learner publishes; none ends that.
    ///
    /// # Errors
    /// As [`Control::rollback`].
    pub async fn pin(&self, version: Option<CriticVersion>, by: &str) -> Result<SwapOutcome, ControlError> {
        let by = by.to_owned();
        self.ask_swap(|reply| SwapMsg::Pin { version, by, reply }).await
    }

    /// Pauses or resumes a part. What is under way ends; nothing is lost.
    pub fn set_paused(&self, part: Part, paused: bool, by: &str) {
        let was = self.context.pauses.of(part).send_replace(paused);
        if was != paused {
            let what = format!("{} {}", if paused { "paused" } else { "resumed" }, part.name());
            self.context.events.emit(Event::Controlled { what, by: by.to_owned() });
        }
    }

    /// Writes a checkpoint now.
    ///
    /// # Errors
    /// If it is not written.
    pub async fn checkpoint(&self) -> Result<(), ControlError> {
        let written = ask(&self.supervisor, DEADLINE, |reply| SupervisorMsg::Checkpoint { reply }).await?;
        written.map_err(|failure| ControlError::Checkpoint(failure.to_string()))
    }

    /// What keeps a setting from being changed in this run.
    ///
    /// # Errors
    /// If it cannot change.
    pub fn check(&self, tuning: &Tuning) -> Result<(), ControlError> {
        match tuning {
            Tuning::RolloutsMax(_) if self.context.learner.synchronous => {
                Err(ControlError::Setting("rollout.rollouts_max is 1 with learner.synchronous".to_owned()))
            }
            Tuning::LogFilter(filter) => {
                logs::check_filter(filter).map_err(|error| ControlError::Setting(error.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Changes a setting.
    ///
    /// # Errors
    /// If the setting cannot change in this run, or the device does not answer.
    pub async fn tune(&self, tuning: &Tuning, by: &str) -> Result<(), ControlError> {
        let context = &self.context;
        self.check(tuning)?;
        match tuning {
            Tuning::RolloutsMax(count) => {
                context.rollouts_max.send_replace(*count);
                metrics::EPISODES_LIMIT.set(*count as f64);
            }
            Tuning::LogFilter(filter) => {
                logs::set_filter(filter).map_err(|error| ControlError::Setting(error.to_string()))?;
            }
            Tuning::LearningRate(_) | Tuning::Beta(_) | Tuning::DeviceShare(_) => {
                let mut config = context.tuned.lock().unwrap_or_else(PoisonError::into_inner).clone();
                tuning.apply(&mut config);
                let device = self.device().ok_or(ControlError::Unanswered)?;
                let configured = tokio::time::timeout(DEADLINE, device.configure(config)).await;
                configured.map_err(|_| ControlError::Unanswered)?.map_err(|_| ControlError::Unanswered)?;
                tuning.apply(&mut context.tuned.lock().unwrap_or_else(PoisonError::into_inner));
            }
        }
        if let Some((section, key, value)) = tuning.in_config() {
            context.checkpoints.set_config(section, key, value);
        }
        context.events.emit(Event::Controlled { what: format!("set {tuning}"), by: by.to_owned() });
        Ok(())
    }

    /// Asks the node to finish the work under way, write a checkpoint and end.
    pub fn drain(&self, by: &str) {
        self.context.events.emit(Event::Controlled { what: "asked to drain and end".to_owned(), by: by.to_owned() });
        self.context.stop.cancel();
    }
}
