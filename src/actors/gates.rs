//! What those outside the tree of actors hold of it: where the actors that are up are found, and what is paused.

use super::swap::SwapMsg;
use crate::device::Device;
use ractor::ActorRef;
use tokio::sync::watch;

/// The actors that are up, for those outside the tree.
#[derive(Clone, Default)]
pub struct Handles {
    /// The device.
    pub device: Option<Device>,
    /// The swap actor.
    pub swap: Option<ActorRef<SwapMsg>>,
}

/// What can be paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// No episode begins.
    Rollout,
    /// No batch is learned.
    Learner,
}

impl Part {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rollout => "rollout",
            Self::Learner => "learner",
        }
    }
}

/// Whether each part is paused.
#[derive(Clone)]
pub struct Pauses {
    rollout: watch::Sender<bool>,
    learner: watch::Sender<bool>,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { rollout: watch::channel(false).0, learner: watch::channel(false).0 }
    }
}

impl Pauses {
    pub(super) fn of(&self, part: Part) -> &watch::Sender<bool> {
        match part {
            Part::Rollout => &self.rollout,
            Part::Learner => &self.learner,
        }
    }

    /// Resolves when `part` is not paused.
    pub(super) async fn go_on(&self, part: Part) {
        // The sender lives as long as `self`.
        let _ = self.of(part).subscribe().wait_for(|paused| !paused).await;
    }

    /// Whether `part` is paused.
    pub fn is_paused(&self, part: Part) -> bool {
        *self.of(part).borrow()
    }
}
