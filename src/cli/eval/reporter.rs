//! What an evaluation prints: its progress, and its results as a headline or a line of JSON.

use super::spec::EvalSpec;
use super::store::Store;
use crate::cli::exit::CommandError;
use crate::eval::Record;
use crate::eval::figures::Figures;
use crate::telemetry::logs::LogTerminal;
use crate::telemetry::work_progress::WorkProgress;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Time between two progress lines if the output is not a terminal.
const LINE: Duration = Duration::from_secs(10);

/// Reports progress and stores records.
pub(super) struct Reporter {
    work_progress: WorkProgress,
    store: Option<Store>,
}

impl Reporter {
    /// For `prompts` that are still to be evaluated; their records go to `store`.
    pub(super) fn new(live: &LogTerminal, prompts: usize, store: Option<Store>) -> Self {
        Self { work_progress: WorkProgress::new(live, LINE, prompts as u64, "prompts"), store }
    }

    /// Counts and stores a finished prompt.
    ///
    /// # Errors
    /// If its record cannot be stored.
    pub(super) fn finished(&mut self, record: &Record) -> Result<(), CommandError> {
        self.work_progress.advance(Instant::now());
        self.store.as_mut().map_or(Ok(()), |store| store.add(record))
    }
}

/// The results of an evaluation.
pub(super) struct EvalOutput<'a> {
    pub(super) spec: &'a EvalSpec,
    /// What computed the texts.
    pub(super) machine: String,
    pub(super) dropped: usize,
    pub(super) seconds: f64,
    pub(super) figures: Figures,
}

#[derive(Serialize)]
struct Line<'a> {
    data: &'a str,
    dropped: usize,
    critiques: usize,
    refinements: usize,
    rounds: usize,
    seed: u64,
    machine: &'a str,
    seconds: f64,
    #[serde(flatten)]
    figures: &'a Figures,
}

impl EvalOutput<'_> {
    /// The title of the plot.
    pub(super) fn title(&self) -> String {
        format!("{} prompts of {}, 95 % intervals by prompt", self.figures.prompts, self.spec.data)
    }

    /// The specification, as readable text.
    pub(super) fn head(&self) -> String {
        let EvalSpec { data, config, rounds, seed, .. } = self.spec;
        let (n, m, prompts) = (config.critiques, config.refinements, self.figures.prompts);
        let rounds = if *rounds > 1 { format!(", {rounds} rounds") } else { String::new() };
        let dropped = if self.dropped > 0 { format!(" ({} without a response)", self.dropped) } else { String::new() };
        let (seconds, machine) = (self.seconds, &self.machine);
        format!(
            "{prompts} prompts of {data}{dropped}, N = {n}, M = {m}{rounds}, seed {seed}, {seconds:.0} s on {machine}; \
             shares times 100, with 95 % intervals by prompt"
        )
    }

    /// The results as one line of JSON.
    pub(super) fn json(&self) -> String {
        let EvalSpec { data, config, rounds, seed, .. } = self.spec;
        let line = Line {
            data,
            dropped: self.dropped,
            critiques: config.critiques,
            refinements: config.refinements,
            rounds: *rounds,
            seed: *seed,
            machine: &self.machine,
            seconds: self.seconds,
            figures: &self.figures,
        };
        serde_json::to_string(&line).expect("strings and finite numbers serialize")
    }
}
