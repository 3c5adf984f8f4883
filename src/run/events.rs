//! Events: what happened in a run, in the past tense, with what a listener needs and not how it came about.
//!
//! The actors emit them to the [`EventBus`]; the progress line, the metrics and a tap receive them. Knows no actor.

mod bus;
mod history;
mod rollout_yield;
mod series;

pub use bus::{EventBus, Progress, Tap};
pub use history::{EventRecord, History};
pub use rollout_yield::{RolloutYield, Warning};
pub use series::{Sample, Series};

use super::state::{Counters, DropReason};
use crate::eval::summary::EvalSummary;
use crate::learner::Report;
use crate::replay::Retired;
use crate::types::{ActorKind, Choice, CriticVersion, EpisodeId, Invalid, Pushed, Role, SwapReason, Verdict};
use std::time::Instant;

/// What the node is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// It fetches the model.
    #[default]
    Fetching,
    /// It loads and checks the model.
    Loading,
    /// It waits for the first episode to end.
    FirstEpisode,
    /// It runs normally.
    Running,
    /// New episodes wait for the learner to catch up.
    Pacing,
    /// Actors are being restarted.
    Restarting,
    /// The work under way finishes.
    Draining,
    /// It writes the last checkpoint.
    Saving,
    /// It has ended.
    Ended,
}

impl Activity {
    /// Whether episodes wait for the learner.
    pub(crate) fn is_pacing(self) -> bool {
        self == Self::Pacing
    }

    /// What the node waits for, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Fetching => "the model to be fetched",
            Self::Loading => "the model to load",
            Self::FirstEpisode => "the first episodes",
            Self::Running => "nothing",
            Self::Pacing => "the learner to catch up",
            Self::Restarting => "a restart",
            Self::Draining => "the work under way to finish",
            Self::Saving => "the last checkpoint",
            Self::Ended => "the process to end",
        }
    }
}

/// How a critic comes into service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapKind {
    /// The learner published it.
    Publication,
    /// An operator offered it.
    Swap,
    /// The one before it was taken back.
    Rollback,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The node does something else now.
    ActivityChanged(Activity),
    /// An episode started, or started again.
    EpisodeStarted {
        /// Which.
        episode: EpisodeId,
        /// Episodes under way, this one included.
        in_flight: usize,
    },
    /// New episodes were passed over, because the groups of their prompts hardly ever vary.
    PassedOver {
        /// How many.
        episodes: u64,
    },
    /// A role sampled completions.
    Sampled {
        /// Which role.
        role: Role,
        /// Tokens of each completion.
        tokens: Vec<usize>,
        /// The critic that wrote them; none for every other role.
        version: Option<CriticVersion>,
        /// Time from request to answer, in seconds.
        seconds: f64,
    },
    /// A role did not answer in time.
    DeadlineMissed(Role),
    /// A refinement was judged.
    Judged(Verdict),
    /// A model judged a pair in both orders.
    PairJudged {
        /// Its choice in each.
        heard: [Result<Choice, Invalid>; 2],
        /// What counts: the same, or with its position bias removed.
        counted: [Result<Choice, Invalid>; 2],
    },
    /// A request to a role gave nothing.
    RequestFailed {
        /// Which role.
        role: Role,
        /// Why.
        why: String,
    },
    /// A critique was left out of its group.
    CritiqueDropped(DropReason),
    /// A critique was scored.
    CritiqueScored {
        /// The prompt's task.
        task: String,
        /// The critic that wrote it.
        version: CriticVersion,
        /// Its utility, in `[0, 1]`.
        utility: f32,
    },
    /// An episode ended.
    EpisodeEnded {
        /// Which.
        episode: EpisodeId,
        /// What became of its group; none if there is no group.
        pushed: Option<Pushed>,
        /// Why there is no group.
        dropped: Option<DropReason>,
        /// Episodes still under way.
        in_flight: usize,
        /// The counters after it.
        counters: Counters,
    },
    /// The replay buffer changed.
    ReplayChanged {
        /// Groups in it.
        held: usize,
        /// Those of them that were never learned from.
        fresh: usize,
    },
    /// Groups left the buffer.
    GroupsRetired(Retired),
    /// A batch was learned.
    Learned {
        /// Its name.
        batch: u64,
        /// The episodes of its groups.
        episodes: Vec<EpisodeId>,
        /// How many versions each critique was behind the critic in service.
        ages_versions: Vec<u64>,
        /// The report of the step.
        report: Report,
        /// Time from request to answer, in seconds.
        seconds: f64,
    },
    /// A batch was discarded.
    BatchDiscarded {
        /// Its name.
        batch: u64,
        /// What was wrong with it.
        why: String,
    },
    /// A critic went into service.
    Published {
        /// Its version.
        version: CriticVersion,
        /// Learner steps taken.
        step: u64,
    },
    /// An operator's critic went into service, or one was taken back.
    CriticEntered {
        /// Its version.
        version: CriticVersion,
        /// How.
        kind: SwapKind,
        /// What decided it.
        reason: SwapReason,
        /// Who asked for it.
        by: String,
        /// Why.
        why: String,
    },
    /// An operator changed how the node runs.
    Controlled {
        /// What was changed.
        what: String,
        /// Who asked for it.
        by: String,
    },
    /// A candidate writes the critiques of a share of the episodes.
    TrialBegan {
        /// Its version.
        version: CriticVersion,
    },
    /// A candidate did not pass its trial.
    CriticRejected {
        /// Its version.
        version: CriticVersion,
        /// What decided it.
        reason: SwapReason,
        /// Who offered it.
        by: String,
        /// Why.
        why: String,
    },
    /// What was offered cannot be used.
    CriticRefused {
        /// Who offered it.
        by: String,
        /// What is wrong with it.
        why: String,
    },
    /// A checkpoint was written.
    CheckpointSaved {
        /// Its step.
        step: u64,
        /// How long the write took.
        seconds: f64,
    },
    /// A checkpoint could not be written.
    CheckpointFailed,
    /// The critic in service was evaluated on held-out prompts.
    Evaluated {
        /// Its version.
        version: CriticVersion,
        /// Learner steps taken.
        step: u64,
        /// Its figures.
        summary: EvalSummary,
        /// Whether its checkpoint is kept as the best so far.
        best: bool,
        /// How long the evaluation took.
        seconds: f64,
    },
    /// An evaluation failed.
    EvalFailed(String),
    /// The device thread stands still, or goes on.
    DeviceStalled {
        /// Since when; none if it goes on.
        since: Option<Instant>,
    },
    /// An actor failed; it and those that depend on it were restarted.
    Restarted {
        /// The first actor restarted.
        actor_kind: ActorKind,
        /// Restarts so far.
        restarts: u64,
    },
}
