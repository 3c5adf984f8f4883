//! What a report shows.

use crate::eval::figures::Figures;
use crate::tracking::{Environment, Line};

/// What a report shows; whatever is empty is left out.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The name of the run.
    pub name: String,
    /// Whether a process works on the run.
    pub is_running: bool,
    /// When the report was made, in seconds since 1970.
    pub made: f64,
    /// The run's figures.
    pub lines: Vec<Line>,
    /// The step of the checkpoint that is kept as the best.
    pub best_step: Option<u64>,
    /// Evaluations of this run's critic beside others.
    pub evaluations: Vec<NamedFigures>,
    /// The critics of the run.
    pub critics: Vec<CriticRow>,
    /// Critiques, in sets such as "at the beginning".
    pub critiques: Vec<CritiqueSet>,
    /// The settings that differ from the quickstart.
    pub settings: Vec<Setting>,
    /// The whole resolved config, as TOML.
    pub config: String,
    /// The processes of the run.
    pub processes: Vec<Environment>,
    /// What is missing from the report, and why.
    pub notes: Vec<String>,
}

/// The figures of an evaluation, and where they are from.
#[derive(Clone, Debug)]
pub struct NamedFigures {
    /// Its folder.
    pub name: String,
    /// What was evaluated.
    pub figures: Figures,
}

/// A critic of the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CriticRow {
    /// Its number, such as `v3`.
    pub version: String,
    /// What it is used for.
    pub state: String,
    /// Where it came from.
    pub origin: String,
    /// Groups that it was scored on.
    pub groups: u64,
    /// Their mean utility, and half the width of its 95 % interval.
    pub utility: Option<(f64, Option<f64>)>,
    /// Its utility on held-out prompts.
    pub eval_utility: Option<f64>,
    /// When it came to its state, in seconds since 1970; 0 if that is not known.
    pub changed: u64,
    /// Why it came to its state.
    pub why: String,
}

/// Critiques of one time of the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CritiqueSet {
    /// Which time.
    pub title: String,
    /// Number of groups that they were chosen from.
    pub groups: usize,
    /// Mean utility of those groups.
    pub utility: f64,
    /// Those that helped most.
    pub best: Vec<Critique>,
    /// Those that helped least.
    pub worst: Vec<Critique>,
}

/// A critique of a recorded group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Critique {
    /// What the critic was asked: prompt and response.
    pub prompt: String,
    /// What it wrote.
    pub text: String,
    /// Whether it reached the limit of tokens.
    pub is_cut: bool,
    /// Its utility, in `[0, 1]`.
    pub utility: f64,
    /// Mean utility of its group.
    pub group_utility: f64,
    /// Verdicts on its refinements: wins, ties, losses, invalid ones.
    pub verdicts: [usize; 4],
    /// The prompt's task.
    pub task: String,
    /// The critic that wrote it, such as `v3`.
    pub version: String,
    /// The episode.
    pub episode: u64,
}

/// A setting that differs from the quickstart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Setting {
    /// Its key, such as `learner.beta`.
    pub key: String,
    /// Its value in this run, as TOML.
    pub value: String,
    /// The quickstart's.
    pub quickstart: String,
}
