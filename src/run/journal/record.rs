//! A change of the run state, as the journal holds it.

use crate::replay::ReplayConfig;
use crate::run::outcome::Outcome;
use crate::types::{CriticVersion, CritiqueGroup, EpisodeId, Objective};
use serde::{Deserialize, Serialize};

/// A change of the run state. Applying the records in order to an earlier state gives the later state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// An episode started.
    Started {
        /// Which.
        episode: EpisodeId,
    },
    /// An episode ended.
    Ended {
        /// Which.
        episode: EpisodeId,
        /// How.
        outcome: Outcome,
    },
    /// A batch was leased to the learner.
    Leased {
        /// Of so many groups.
        groups: usize,
    },
    /// A batch was learned.
    Learned {
        /// Its name.
        batch: u64,
        /// Learner steps including this one.
        step: u64,
    },
    /// A batch was discarded.
    Discarded {
        /// Its name.
        batch: u64,
    },
    /// The learner published a critic. Its weights are in the checkpoint of `step`.
    Published {
        /// Its version.
        version: CriticVersion,
        /// Learner steps in it.
        step: u64,
        /// Whether it went into service with it, as all did in older programs.
        #[serde(default = "yes")]
        serves: bool,
    },
    /// A critic went into service.
    EnteredService {
        /// Its version.
        version: CriticVersion,
    },
    /// A critic writes some of the critiques, beside the one in service.
    EnteredTrial {
        /// Its version.
        version: CriticVersion,
    },
    /// The learner went back to a checkpoint.
    Rewound {
        /// Its step.
        step: u64,
        /// The step of the newest publication in it.
        published_step: u64,
        /// The critic in service in it.
        version: CriticVersion,
        /// The newest publication in it and the number of publications; none where every version is one.
        #[serde(default)]
        publications: Option<(CriticVersion, u64)>,
    },
    /// A process took the run up, under these limits.
    Resumed {
        /// Limits of the replay buffer.
        replay: ReplayConfig,
        /// What the critic learns.
        objective: Objective,
        /// How many unlearned groups may wait at once.
        fresh_max: usize,
        /// The node's seed.
        seed: u64,
    },
}

/// What older records leave out.
fn yes() -> bool {
    true
}

impl Record {
    /// The group that this record adds.
    pub fn group(&self) -> Option<&CritiqueGroup> {
        match self {
            Self::Ended { outcome: Outcome::Group(group), .. } => Some(group),
            _ => None,
        }
    }
}
