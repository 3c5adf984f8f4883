//! The swap actor's messages.

use super::candidate::Trial;
use super::request::{Checks, Offer, SwapError, SwapOutcome};
use crate::actors::ask::Reply;
use crate::device::CriticWeights;
use crate::run::critics;
use crate::types::{CriticVersion, CritiqueGroup};
use std::path::PathBuf;

/// The swap actor's messages.
pub enum SwapMsg {
    /// Register what the learner is about to publish.
    Register {
        /// Its weights.
        critic: CriticWeights,
        /// Learner steps in it.
        step: u64,
        /// Its number.
        reply: Reply<Result<CriticVersion, critics::Error>>,
    },
    /// Put a publication into service, whose checkpoint is on disk.
    Publish {
        /// Its number.
        version: CriticVersion,
        /// Its weights.
        critic: CriticWeights,
        /// Learner steps in it.
        step: u64,
        /// Whether it is in service now.
        reply: Reply<bool>,
    },
    /// Put something into service.
    Swap {
        /// What.
        offer: Offer,
        /// What it passes before.
        checks: Checks,
        /// Who asks.
        by: String,
        /// Answered once it is in service, on trial or refused.
        reply: Reply<Result<SwapOutcome, SwapError>>,
    },
    /// Take back the critic in service.
    Rollback {
        /// The version to go back to; its parent if none is named.
        to: Option<CriticVersion>,
        /// Who asks.
        by: String,
        /// What became of it.
        reply: Reply<Result<SwapOutcome, SwapError>>,
    },
    /// Keep a version in service whatever the learner publishes; none ends that.
    Pin {
        /// Which.
        version: Option<CriticVersion>,
        /// Who asks.
        by: String,
        /// What became of it.
        reply: Reply<Result<SwapOutcome, SwapError>>,
    },
    /// A group was scored.
    Scored {
        /// The version that wrote its critiques.
        version: CriticVersion,
        /// Its task.
        task: String,
        /// Its mean utility.
        utility: f64,
    },
    /// A critic was evaluated on held-out prompts.
    Evaluated {
        /// Its version.
        version: CriticVersion,
        /// Its utility, in `[0, 1]`.
        cu: f64,
    },
    /// A candidate has passed or failed what runs beside.
    Tried(Box<Trial>, Result<(), SwapError>),
    /// Something appeared in the watched folder.
    Found {
        /// Its folder.
        path: PathBuf,
        /// What became of it.
        reply: Reply<Result<SwapOutcome, SwapError>>,
    },
}

impl SwapMsg {
    /// What it asks for, in a few words.
    pub(super) fn words(&self) -> &'static str {
        match self {
            Self::Register { .. } => "registers a publication",
            Self::Publish { .. } => "puts a publication into service",
            Self::Swap { .. } | Self::Found { .. } => "begins the trial of a critic",
            Self::Rollback { .. } => "rolls back",
            Self::Pin { .. } => "pins",
            Self::Scored { .. } | Self::Evaluated { .. } => "counts what critics earn",
            Self::Tried(..) => "ends a canary",
        }
    }

    /// What a scored group tells.
    pub(crate) fn of(group: &CritiqueGroup) -> Self {
        let (version, task) = (group.oldest_version(), group.task.clone());
        Self::Scored { version, task, utility: f64::from(group.mean_utility()) }
    }
}
