//! What the swap actor works with, and what it keeps between messages.

use super::candidate::Trial;
use super::message::SwapMsg;
use super::request::Share;
use super::windows::Windows;
use crate::actors::failure::Failure;
use crate::actors::replay::ReplayMsg;
use crate::device::{CriticWeights, Device};
use crate::episode::canary::{Canary, Distributions};
use crate::episode::models::Models;
use crate::episode::online_eval::OnlineEval;
use crate::run::checkpoints::CheckpointStore;
use crate::run::critics::{self, CriticRegistry, CriticState, Critics, Origin, StoredCritic, SwapConfig};
use crate::run::events::EventBus;
use crate::types::{CriticVersion, ModelId};
use ractor::ActorRef;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch as channel;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What the actor works with.
pub struct SwapContext {
    /// Serves critics.
    pub device: Device,
    /// Told of what enters service.
    pub replay: ActorRef<ReplayMsg>,
    /// The critics of the run.
    pub registry: Arc<Mutex<CriticRegistry>>,
    /// What its records add up to.
    pub critics: channel::Receiver<Arc<Critics>>,
    /// The fixed prompts.
    pub canary: Arc<Canary>,
    /// The evaluation of candidates and the models it asks; none if there is none.
    pub eval: Option<(Arc<OnlineEval>, Arc<Models>)>,
    /// How critics are tried.
    pub config: SwapConfig,
    /// The share of the episodes that a candidate is tried on.
    pub share: channel::Sender<Option<Share>>,
    /// The model that critics must fit, and where the learner's weights go.
    pub checkpoints: Arc<CheckpointStore>,
    /// The base model.
    pub base: ModelId,
    /// How long replay may take for an answer.
    pub deadline: Duration,
    /// The request to stop.
    pub stop: CancellationToken,
    /// Where events go.
    pub events: EventBus,
}

impl SwapContext {
    /// What the registry's records add up to. Never waits.
    pub(super) fn critics(&self) -> Arc<Critics> {
        self.critics.borrow().clone()
    }

    /// Where the weights of `version` are. They are read without the registry's lock: it may take seconds.
    pub(super) fn stored(&self, version: CriticVersion) -> Result<StoredCritic, critics::Error> {
        self.registry().stored(version)
    }

    /// The registry, locked. A panic while it was held left it whole: a record is appended before it is applied.
    pub(super) fn registry(&self) -> MutexGuard<'_, CriticRegistry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A publication that waits for the end of a trial or of a pin.
pub(super) struct Waiting {
    pub(super) version: CriticVersion,
    pub(super) critic: CriticWeights,
    pub(super) step: u64,
}

/// The state of the actor.
pub struct SwapState {
    pub(super) myself: ActorRef<SwapMsg>,
    pub(super) context: Arc<SwapContext>,
    /// Trials so far: their numbers.
    pub(super) trials: u64,
    /// What served before the critic in service.
    pub(super) before: Option<CriticVersion>,
    /// The newest publication that was handled.
    pub(super) published: CriticVersion,
    /// The candidate whose canary or trial is under way.
    pub(super) trial: Option<Trial>,
    pub(super) waiting: Option<Waiting>,
    pub(super) windows: Windows,
    /// What the critic in service says to the first fixed prompt.
    pub(super) glance: Option<(CriticVersion, Distributions)>,
    /// Dropped with the actor.
    pub(super) tasks: JoinSet<()>,
}

impl SwapState {
    /// Rejects the candidates that a process or an actor which failed had on trial, and retires the publications that waited.
    /// The newest publication, whose checkpoint is on disk, is the resumed run's to decide.
    pub(super) fn reject_leftovers(&self) -> Result<(), Failure> {
        let mut registry = self.context.registry();
        let is_published = |entry: &critics::CriticEntry| matches!(entry.origin, Origin::Learner { .. });
        let newest = registry.critics().entries().filter(|entry| is_published(entry)).map(|entry| entry.version).max();
        let left = |entry: &critics::CriticEntry| match entry.state {
            CriticState::Canary => Some((CriticState::Rejected, "the node restarted during its trial")),
            CriticState::Candidate if !is_published(entry) => {
                Some((CriticState::Rejected, "the node restarted during its trial"))
            }
            CriticState::Candidate if Some(entry.version) < newest => {
                Some((CriticState::Retired, "a newer one was published"))
            }
            _ => None,
        };
        let left: Vec<_> =
            registry.critics().entries().filter_map(|entry| Some((entry.version, left(entry)?))).collect();
        for (version, (state, why)) in left {
            registry.change(version, state, "node", why)?;
        }
        Ok(())
    }
}
