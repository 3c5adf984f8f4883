//! Events: what happened in a run, in the past tense, with what a listener needs and not how it came about.
//!
//! The actors emit them to the [`EventBus`]; the progress line, the metrics and a tap receive them. Knows no actor.

mod bus;

pub use bus::{EventBus, Progress, Tap};

use super::state::{Counters, DropReason};
use crate::eval::summary::EvalSummary;
use crate::learner::Report;
use crate::replay::Retired;
use crate::types::{ActorKind, Choice, CriticVersion, EpisodeId, Invalid, Pushed, Role, Verdict};

/// What the node is busy with, for those who wonder why nothing moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// The model is fetched.
    #[default]
    Fetching,
    /// The model is loaded and checked.
    Loading,
    /// No episode has ended yet.
    FirstEpisode,
    /// All goes its way.
    Running,
    /// New episodes wait until the learner has caught up.
    Pacing,
    /// The tree is being restarted.
    Restarting,
    /// What is under way ends.
    Draining,
    /// The last checkpoint is written.
    Saving,
    /// It is over.
    Ended,
}

impl Activity {
    /// Whether episodes wait for the learner.
    pub(crate) fn is_pacing(self) -> bool {
        self == Self::Pacing
    }

    /// What is waited for, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Fetching => "the model to be fetched",
            Self::Loading => "the model to load",
            Self::FirstEpisode => "the first episodes",
            Self::Running => "nothing",
            Self::Pacing => "the learner to catch up",
            Self::Restarting => "a restart",
            Self::Draining => "what is under way to end",
            Self::Saving => "the last checkpoint",
            Self::Ended => "the process to end",
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The node is now busy with something else.
    Turned(Activity),
    /// An episode began, or began again.
    Began {
        /// Which.
        episode: EpisodeId,
        /// Episodes under way, this one included.
        in_flight: usize,
    },
    /// A role wrote texts.
    Wrote {
        /// Which role.
        role: Role,
        /// Tokens of each text.
        tokens: Vec<usize>,
        /// From question to answer, in seconds.
        seconds: f64,
    },
    /// A role did not answer in time.
    Late(Role),
    /// A refinement was judged.
    Judged(Verdict),
    /// A model was asked about a pair in both orders; what it said of each.
    Compared([Result<Choice, Invalid>; 2]),
    /// A critique was left out of its group.
    CritiqueDropped(DropReason),
    /// A critique was scored, in `[0, 1]`.
    CritiqueScored(f32),
    /// An episode ended.
    Ended {
        /// Which.
        episode: EpisodeId,
        /// What became of its group; none if it made none.
        pushed: Option<Pushed>,
        /// Why it made none.
        dropped: Option<DropReason>,
        /// Episodes still under way.
        in_flight: usize,
        /// What was counted so far.
        counters: Counters,
    },
    /// The buffer changed.
    Holds {
        /// Groups in it.
        held: usize,
        /// Those of them that were never learned from.
        fresh: usize,
    },
    /// Groups left the buffer.
    Retired(Retired),
    /// A batch was learned.
    Learned {
        /// Its name.
        batch: u64,
        /// Whose groups it held.
        episodes: Vec<EpisodeId>,
        /// How many versions each critique was behind the critic in service.
        ages_versions: Vec<u64>,
        /// What the step did.
        report: Report,
        /// From question to answer, in seconds.
        seconds: f64,
    },
    /// A batch was given up.
    Discarded {
        /// Its name.
        batch: u64,
        /// What was wrong with it.
        why: String,
    },
    /// A critic went into service.
    Published {
        /// Its version.
        version: CriticVersion,
        /// After so many steps.
        step: u64,
    },
    /// A whole checkpoint is on disk.
    Saved {
        /// Of so many steps.
        step: u64,
        /// How long the write took.
        seconds: f64,
    },
    /// A checkpoint could not be written.
    NotSaved,
    /// The critic in service was examined on held-out prompts.
    Evaluated {
        /// Its version.
        version: CriticVersion,
        /// After so many steps.
        step: u64,
        /// What it is worth.
        summary: EvalSummary,
        /// Whether its checkpoint is kept as the best so far.
        best: bool,
        /// How long the exam took.
        seconds: f64,
    },
    /// An exam came to nothing.
    NotEvaluated(String),
    /// A station failed; it and all that stand on it were restarted.
    Restarted {
        /// The first station restarted.
        actor_kind: ActorKind,
        /// Restarts so far.
        restarts: u64,
    },
}
