//! From events to figures: which event gives which figure of which line.
//!
//! A line belongs to a learner step. That of the step itself also has what was written, judged and scored since the line before
//! it; evaluations, publications and checkpoints have lines of their own. Knows no actor and no device.

mod since;

use super::events::Event;
use super::memory::MemoryRow;
use super::state::Counters;
use crate::eval::bootstrap::Estimate;
use crate::eval::summary::EvalSummary;
use crate::learner::Report;
use crate::tracking::{FigureWriter, Line};
use since::Since;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a line of a learner step says of the node as it is, not as it was since the line before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    /// The critic in service.
    pub(crate) version: u64,
    /// What the run has counted since it began.
    pub(crate) counters: Counters,
    /// Episodes under way.
    pub(crate) in_flight: usize,
    /// Groups in the replay buffer.
    pub(crate) held: usize,
    /// Tokens written per second.
    pub(crate) tokens_per_second: f64,
    /// Restarts since the process began.
    pub(crate) restarts: u64,
    /// Memory by owner.
    pub(crate) memory: Vec<MemoryRow>,
}

/// Takes a run's events and writes its figures.
#[derive(Debug)]
pub(crate) struct Figures {
    writer: FigureWriter,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    since: Since,
    /// The newest learner step that has a line, and the name of its batch.
    learned: (u64, u64),
}

impl Figures {
    /// Writes by `writer` the figures of a run that has taken `step` steps.
    pub(crate) fn new(writer: FigureWriter, step: u64) -> Self {
        Self { writer, state: Mutex::new(State { since: Since::default(), learned: (step, 0) }) }
    }

    /// Takes an event; `standing` is asked where it makes a line of a learner step.
    pub(crate) fn note(&self, event: &Event, standing: impl FnOnce() -> Standing) {
        let mut state = self.lock();
        state.since.note(event);
        match event {
            Event::Learned { batch, ages_versions, report, seconds, .. } => {
                let (before, last) = state.learned;
                if report.step == before && *batch == last {
                    // A restarted learner asks again for a step that was taken.
                    return;
                }
                if report.step <= before {
                    self.writer.cut(report.step.saturating_sub(1));
                }
                state.learned = (report.step, *batch);
                let mut line = of_step(report, *seconds);
                add_ages(&mut line, ages_versions);
                state.since.take().add_to(&mut line);
                add_standing(&mut line, &standing());
                self.writer.append(line);
            }
            Event::Evaluated { version, step, summary, best, seconds } => {
                self.writer.append(of_evaluation(*step, version.0, summary, *best, *seconds));
            }
            Event::CheckpointSaved { step, seconds } => {
                self.writer.append(of_checkpoint(*step, *seconds));
            }
            Event::Published { version, step } => {
                let mut line = Line::now(*step);
                line.add("critic/published", version.0 as f64);
                self.writer.append(line);
            }
            _ => {}
        }
    }

    /// Waits until everything is written, for `patience` at most.
    pub(crate) fn flush(&self, patience: Duration) -> bool {
        self.writer.flush(patience)
    }

    /// Whole whatever panicked: the sums behind it are valid one by one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The figures of a learner step, which took `seconds`.
pub(crate) fn of_step(report: &Report, seconds: f64) -> Line {
    let mut line = Line::now(report.step);
    let off_policy = report.off_policy;
    for (name, value) in [
        ("loss", report.loss),
        ("gradient_norm", report.gradient_norm),
        ("beta", report.beta),
        ("weighted_utility", report.weighted_utility),
        ("log_ratio_mean", off_policy.log_ratio_mean),
        ("log_ratio_second_moment", off_policy.log_ratio_second_moment),
        ("behaviour_mean", off_policy.behaviour_mean),
        ("behaviour_second_moment", off_policy.behaviour_second_moment),
        ("effective_sample_ratio", off_policy.effective_sample_ratio),
        ("age_mean_versions", off_policy.age_mean_versions),
        ("tokens", report.tokens as f32),
        ("truncated", report.truncated as f32),
        ("masked", report.masked as f32),
        ("reference_resets", report.reference_resets as f32),
    ] {
        line.add(format!("learner/{name}"), value);
    }
    line.add("learner/learning_rate", report.learning_rate);
    line.add("learner/seconds", seconds);
    line.add("learner/age_max_versions", off_policy.age_max_versions as f64);
    line.add_some("learner/baseline", report.baseline);
    line.add_some("learner/utility_deviation", report.utility_deviation);
    line.add_some("learner/value_loss", report.value_loss);
    line.add_some("learner/preference_accuracy", report.preference_accuracy);
    line.add_some("learner/preference_margin", report.preference_margin);
    line.add_some("learner/train_inference_mismatch_nats", report.train_inference_mismatch);
    line
}

/// Replaces the ages that the learner knows by those in publications, as replay counts them.
fn add_ages(line: &mut Line, ages_versions: &[u64]) {
    let Some(max) = ages_versions.iter().max() else { return };
    line.add("learner/age_mean_versions", ages_versions.iter().sum::<u64>() as f64 / ages_versions.len() as f64);
    line.add("learner/age_max_versions", *max as f64);
}

fn add_standing(line: &mut Line, standing: &Standing) {
    line.add("critic/version", standing.version as f64);
    let Counters { episodes, groups, zero_variance, dropped, .. } = standing.counters;
    for (name, count) in [
        ("episodes", episodes),
        ("groups", groups),
        ("groups_zero_variance", zero_variance),
        ("episodes_dropped", dropped),
    ] {
        line.add(format!("total/{name}"), count as f64);
    }
    line.add("rollout/in_flight", standing.in_flight as f64);
    line.add("replay/groups", standing.held as f64);
    line.add("tokens/per_second", standing.tokens_per_second);
    line.add("node/restarts", standing.restarts as f64);
    for row in standing.memory.iter().filter(|row| row.bytes > 0) {
        line.add(format!("memory/{}_bytes", row.owner), row.bytes as f64);
    }
}

/// The figures of the checkpoint of `step`, which took `seconds`.
pub(crate) fn of_checkpoint(step: u64, seconds: f64) -> Line {
    let mut line = Line::now(step);
    line.add("checkpoint/step", step as f64);
    line.add("checkpoint/seconds", seconds);
    line
}

/// The figures of an evaluation on held-out prompts; shares from 0 to 1, with the bounds of their 95 % intervals.
fn of_evaluation(step: u64, version: u64, summary: &EvalSummary, best: bool, seconds: f64) -> Line {
    let mut line = Line::now(step);
    let figures =
        [("cu", summary.cu), ("accuracy_before", summary.accuracy_before), ("accuracy_after", summary.accuracy_after)];
    for (name, estimate) in figures {
        let Some(Estimate { value, low, high, prompts }) = estimate else { continue };
        // Marks are times 100, figures shares.
        line.add(format!("eval/{name}"), value / 100.0);
        line.add(format!("eval/{name}_low"), low / 100.0);
        line.add(format!("eval/{name}_high"), high / 100.0);
        line.add("eval/prompts", prompts as f64);
    }
    line.add("eval/critic_version", version as f64);
    line.add("eval/best", f64::from(u8::from(best)));
    line.add("eval/seconds", seconds);
    line
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
