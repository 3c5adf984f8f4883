//! What an evaluation prints: its progress, a headline, and one line of JSON.

use super::spec::EvalSpec;
use super::store::Store;
use crate::cli::exit::CommandError;
use crate::eval::Record;
use crate::eval::figures::Figures;
use crate::telemetry::logs::LogTerminal;
use crate::telemetry::work_progress::WorkProgress;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Between two lines where nobody looks at a terminal.
const LINE: Duration = Duration::from_secs(10);

/// How far it is.
pub(super) struct Reporter {
    work_progress: WorkProgress,
    store: Option<Store>,
}

impl Reporter {
    /// Of `prompts` that are still to be examined; their records go to `store`.
    pub(super) fn new(live: &LogTerminal, prompts: usize, store: Option<Store>) -> Self {
        Self { work_progress: WorkProgress::new(live, LINE, prompts as u64, "prompts"), store }
    }

    /// A prompt is finished.
    ///
    /// # Errors
    /// Where its record cannot be store.
    pub(super) fn finished(&mut self, record: &Record) -> Result<(), CommandError> {
        self.work_progress.advance(Instant::now());
        self.store.as_mut().map_or(Ok(()), |store| store.add(record))
    }
}

/// Everything that it came to.
pub(super) struct EvalOutput<'a> {
    pub(super) spec: &'a EvalSpec,
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
    seconds: f64,
    #[serde(flatten)]
    figures: &'a Figures,
}

impl EvalOutput<'_> {
    /// A picture's title.
    pub(super) fn title(&self) -> String {
        format!("{} prompts of {}, 95 % intervals by prompt", self.figures.prompts, self.spec.data)
    }

    /// What was spec, for people.
    pub(super) fn head(&self) -> String {
        let EvalSpec { data, config, rounds, seed, .. } = self.spec;
        let (n, m, prompts) = (config.critiques, config.refinements, self.figures.prompts);
        let rounds = if *rounds > 1 { format!(", {rounds} rounds") } else { String::new() };
        let dropped = if self.dropped > 0 { format!(" ({} without a response)", self.dropped) } else { String::new() };
        let seconds = self.seconds;
        format!(
            "{prompts} prompts of {data}{dropped}, N = {n}, M = {m}{rounds}, seed {seed}, {seconds:.0} s; \
             shares times 100, with 95 % intervals by prompt"
        )
    }

    /// One line with all of it.
    pub(super) fn json(&self) -> String {
        let EvalSpec { data, config, rounds, seed, .. } = self.spec;
        let line = Line {
            data,
            dropped: self.dropped,
            critiques: config.critiques,
            refinements: config.refinements,
            rounds: *rounds,
            seed: *seed,
            seconds: self.seconds,
            figures: &self.figures,
        };
        serde_json::to_string(&line).expect("strings and finite numbers serialize")
    }
}
