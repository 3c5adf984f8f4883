//! A candidate on trial, and the pairs of groups that decide it.

use super::request::{Checks, SwapError, SwapOutcome};
use crate::actors::ask::Reply;
use crate::device::CriticWeights;
use crate::run::critics::Comparison;
use crate::run::jobs::{Job, Jobs};
use crate::telemetry::metrics;
use crate::types::{CriticVersion, SwapReason};
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// Groups of one task that wait for a partner; far more come in pairs.
const UNPAIRED_MAX: usize = 256;

/// Who offers what the learner published.
pub(super) const LEARNER: &str = "learner";
/// Who offers what appears in the watched folder.
pub(super) const WATCH: &str = "swap.watch";

/// A candidate on trial.
pub struct Trial {
    /// The number of the trial.
    pub(super) number: u64,
    /// The candidate's number, once it is registered.
    pub(super) version: CriticVersion,
    /// Its weights; none are the base's.
    pub(super) critic: Option<CriticWeights>,
    /// What it passes.
    pub(super) checks: Checks,
    /// Who offered it.
    pub(super) by: String,
    /// Answered once it is in service, on trial or refused.
    pub(super) reply: Option<Reply<Result<SwapOutcome, SwapError>>>,
    /// What decides it.
    pub(super) pairs: Pairs,
    /// Groups that the trial takes.
    pub(super) groups: usize,
    /// When it was offered.
    since: Instant,
    /// Noted until it ends.
    _job: Option<Job>,
}

/// Utilities of candidate and incumbent, paired by task in the order of their scoring.
#[derive(Default)]
pub(super) struct Pairs {
    waiting: BTreeMap<String, (VecDeque<f64>, VecDeque<f64>)>,
    /// The candidate's less the incumbent's.
    pub(super) differences: Vec<f64>,
}

impl Pairs {
    fn add(&mut self, task: &str, is_candidate: bool, utility: f64) {
        let (candidates, incumbents) = self.waiting.entry(task.to_owned()).or_default();
        let side = if is_candidate { &mut *candidates } else { &mut *incumbents };
        side.push_back(utility);
        if side.len() > UNPAIRED_MAX {
            side.pop_front();
        }
        if let (Some(candidate), Some(incumbent)) = (candidates.front(), incumbents.front()) {
            self.differences.push(candidate - incumbent);
            candidates.pop_front();
            incumbents.pop_front();
        }
    }
}

impl Trial {
    /// A candidate whose canary begins.
    pub(super) fn new(
        number: u64,
        version: CriticVersion,
        checks: Checks,
        by: String,
        reply: Option<Reply<Result<SwapOutcome, SwapError>>>,
        groups: usize,
    ) -> Self {
        Self {
            number,
            version,
            critic: None,
            checks,
            by,
            reply,
            pairs: Pairs::default(),
            groups,
            since: Instant::now(),
            _job: None,
        }
    }

    /// Notes the trial as one of `jobs` until it ends.
    pub(super) fn noted(self, jobs: &Jobs) -> Self {
        let subject = if self.version == CriticVersion::BASE { String::new() } else { self.version.to_string() };
        Self { _job: Some(jobs.begin("tries a critic", subject)), ..self }
    }

    /// What decides it where no trial does: who offered it.
    pub(super) fn offered_by(&self) -> SwapReason {
        match self.by.as_str() {
            LEARNER => SwapReason::Learner,
            WATCH => SwapReason::Watch,
            _ => SwapReason::Operator,
        }
    }

    /// Answers whoever offered it.
    pub(super) fn answer(&mut self, answer: Result<SwapOutcome, SwapError>) {
        metrics::SWAP_SECONDS.record(self.since.elapsed().as_secs_f64());
        match (self.reply.take(), answer) {
            // The asker may have gone.
            (Some(reply), answer) => drop(reply.send(answer)),
            (None, Err(error)) => tracing::warn!(by = self.by, %error, "a critic was not put into service"),
            (None, Ok(_)) => {}
        }
    }

    /// Counts a group scored during the trial. Once there are enough pairs: how the candidate compares.
    pub(super) fn scored(&mut self, version: CriticVersion, task: &str, utility: f64) -> Option<Comparison> {
        if self.checks.share <= 0.0 {
            return None;
        }
        self.pairs.add(task, version == self.version, utility);
        (self.pairs.differences.len() >= self.groups).then(|| Comparison::paired(&self.pairs.differences)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_paired_by_task_in_the_order_of_their_scoring() {
        let mut pairs = Pairs::default();
        for (task, is_candidate, utility) in [
            ("sums", true, 0.5),
            ("words", false, 0.25),
            ("sums", true, 1.0),
            ("sums", false, 0.75),
            ("words", true, 0.5),
            ("sums", false, 0.25),
        ] {
            pairs.add(task, is_candidate, utility);
        }
        assert_eq!(pairs.differences, [-0.25, 0.25, 0.75]);
    }
}
