//! One critic of the registry.

use super::scores::Scores;
use crate::checkpoint::CriticWeights;
use crate::types::{CriticVersion, Label, unix_time};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a critic is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CriticState {
    /// Registered, and not tried yet.
    Candidate,
    /// Being tried, on fixed prompts or on a share of the episodes.
    Canary,
    /// It writes the critiques.
    Serving,
    /// Another took its place.
    Retired,
    /// It did not pass its trial.
    Rejected,
    /// It was taken back.
    RolledBack,
}

impl Label for CriticState {
    const KEY: &'static str = "state";
    const ALL: &'static [Self] =
        &[Self::Candidate, Self::Canary, Self::Serving, Self::Retired, Self::Rejected, Self::RolledBack];
    fn value(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Canary => "canary",
            Self::Serving => "serving",
            Self::Retired => "retired",
            Self::Rejected => "rejected",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// Where a critic came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Origin {
    /// The base model without adapter.
    Base,
    /// The learner of this run.
    Learner {
        /// Steps it had taken.
        step: u64,
    },
    /// A folder with PEFT's two files, or a checkpoint.
    Folder {
        /// The folder.
        path: PathBuf,
    },
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Base => write!(f, "base model"),
            Self::Learner { step } => write!(f, "learner step {step}"),
            Self::Folder { path } => write!(f, "{}", path.display()),
        }
    }
}

/// What kind of weights a critic has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Shape {
    /// None of its own.
    Base,
    /// A LoRA adapter.
    Lora {
        /// Its rank.
        rank: usize,
        /// The linears it changes.
        targets: Vec<String>,
    },
    /// All weights.
    Full,
}

impl Shape {
    pub(super) fn of(weights: &CriticWeights) -> Self {
        match weights.adapter() {
            None => Self::Full,
            Some(adapter) => Self::Lora {
                rank: adapter.config.rank,
                targets: adapter.config.targets.iter().map(|target| target.name().to_owned()).collect(),
            },
        }
    }
}

/// A change of a critic's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When, in seconds since 1970.
    pub at: u64,
    /// Its state since then.
    pub state: CriticState,
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub why: String,
}

impl Change {
    pub(super) fn now(state: CriticState, by: &str, why: &str) -> Self {
        Self { at: now(), state, by: by.to_owned(), why: why.to_owned() }
    }
}

/// A critic of the registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CriticEntry {
    /// Its number.
    pub version: CriticVersion,
    /// The digest of its weights; empty for the base.
    pub digest: String,
    /// The version it was made from, or that it was to replace.
    pub parent: CriticVersion,
    /// Where it came from.
    pub origin: Origin,
    /// The digest of the base model's files.
    pub base: String,
    /// What weights it has.
    pub shape: Shape,
    /// Its state.
    pub state: CriticState,
    /// How it came to that, in order. Of a version that was swapped often, the first and the newest.
    pub changes: Vec<Change>,
    /// What its groups earned while it wrote critiques.
    #[serde(default)]
    pub scores: Scores,
    /// Its held-out utility in `[0, 1]`, if it was evaluated.
    #[serde(default)]
    pub eval_cu: Option<f64>,
    /// Whether its weights are kept.
    pub has_weights: bool,
}

/// Changes of one critic that are kept: a thousand swaps back and forth must not grow each record.
const CHANGES_MAX: usize = 64;

impl CriticEntry {
    pub(super) fn new(version: CriticVersion, digest: String, shape: Shape, origin: Origin, base: String) -> Self {
        Self {
            version,
            digest,
            parent: CriticVersion::BASE,
            origin,
            base,
            shape,
            state: CriticState::Candidate,
            changes: Vec::new(),
            scores: Scores::default(),
            eval_cu: None,
            has_weights: false,
        }
    }

    pub(super) fn change(&mut self, change: Change) {
        self.state = change.state;
        self.changes.push(change);
        if self.changes.len() > CHANGES_MAX {
            self.changes.remove(1);
        }
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    unix_time::now().as_secs()
}
