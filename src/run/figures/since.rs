//! Sums over the events since the last line of a learner step.

use crate::run::events::Event;
use crate::run::state::DropReason;
use crate::tracking::Line;
use crate::types::{Label, Pushed, Role, Verdict};
use std::collections::BTreeMap;

/// Tasks with figures of their own; the others share [`OTHER`].
const TASKS_MAX: usize = 32;
/// The longest name of such a task, in bytes.
const TASK_BYTES_MAX: usize = 64;
/// The name of all other tasks.
const OTHER: &str = "other";

/// Number, mean and deviation of values.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    count: u64,
    sum: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.squares += value * value;
    }

    /// The mean and the standard deviation; none without values.
    fn mean_and_deviation(&self) -> Option<(f64, f64)> {
        let count = self.count as f64;
        let mean = self.sum / count;
        (self.count > 0).then(|| (mean, (self.squares / count - mean * mean).max(0.0).sqrt()))
    }
}

/// What happened since the last line.
#[derive(Debug, Default)]
pub(super) struct Since {
    /// Utilities by task.
    tasks: BTreeMap<String, Moments>,
    /// Utilities of all critiques.
    utilities: Moments,
    /// Lengths in tokens by role, and the time of their answers.
    lengths: BTreeMap<&'static str, (Moments, Moments)>,
    /// Counts by the figure's name.
    counts: BTreeMap<&'static str, u64>,
}

/// Counts that every line has, 0 included.
const COUNTS: [&str; 14] = [
    "verdicts/win",
    "verdicts/tie",
    "verdicts/loss",
    "verdicts/invalid",
    "rollout/episodes",
    "rollout/groups_kept",
    "rollout/groups_zero_variance",
    "rollout/episodes_dropped",
    "rollout/critiques_dropped",
    "rollout/deadlines_missed",
    "replay/retired_aged",
    "replay/retired_used",
    "replay/retired_displaced",
    "learner/batches_discarded",
];

impl Since {
    /// Adds an event.
    pub(super) fn note(&mut self, event: &Event) {
        match event {
            Event::Sampled { role, tokens, seconds, .. } => self.sampled(*role, tokens, *seconds),
            Event::DeadlineMissed(_) => self.count("rollout/deadlines_missed", 1),
            Event::Judged(verdict) => self.count(
                match verdict {
                    Verdict::Win => "verdicts/win",
                    Verdict::Tie => "verdicts/tie",
                    Verdict::Loss => "verdicts/loss",
                    Verdict::Invalid(_) => "verdicts/invalid",
                },
                1,
            ),
            Event::CritiqueDropped(_) => self.count("rollout/critiques_dropped", 1),
            Event::CritiqueScored { task, utility, .. } => self.scored(task, f64::from(*utility)),
            Event::EpisodeEnded { pushed, dropped, .. } => self.ended(*pushed, *dropped),
            Event::GroupsRetired(retired) => {
                self.count("replay/retired_aged", retired.aged);
                self.count("replay/retired_used", retired.used);
                self.count("replay/retired_displaced", retired.displaced);
            }
            Event::BatchDiscarded { .. } => self.count("learner/batches_discarded", 1),
            _ => {}
        }
    }

    /// Takes the sums, and begins anew.
    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Adds the sums to a line.
    pub(super) fn add_to(&self, line: &mut Line) {
        for name in COUNTS {
            line.add(name, self.counts.get(name).copied().unwrap_or_default() as f64);
        }
        add_utilities(line, &self.utilities, |figure| format!("cu/overall/{figure}"));
        for (task, utilities) in &self.tasks {
            add_utilities(line, utilities, |figure| format!("cu/{figure}/{task}"));
        }
        for (role, (lengths, seconds)) in &self.lengths {
            line.add(format!("tokens/written/{role}"), lengths.sum);
            line.add(format!("tokens/texts/{role}"), lengths.count as f64);
            if let Some((mean, deviation)) = lengths.mean_and_deviation() {
                line.add(format!("tokens/mean/{role}"), mean);
                line.add(format!("tokens/deviation/{role}"), deviation);
            }
            if let Some((mean, _)) = seconds.mean_and_deviation() {
                line.add(format!("rollout/seconds/{role}"), mean);
            }
        }
    }

    fn count(&mut self, name: &'static str, by: u64) {
        *self.counts.entry(name).or_default() += by;
    }

    fn sampled(&mut self, role: Role, tokens: &[usize], seconds: f64) {
        let (lengths, times) = self.lengths.entry(role.value()).or_default();
        tokens.iter().for_each(|tokens| lengths.add(*tokens as f64));
        times.add(seconds);
    }

    fn scored(&mut self, task: &str, utility: f64) {
        self.utilities.add(utility);
        let name = name_of(task);
        let is_known = self.tasks.contains_key(&name) || self.tasks.len() < TASKS_MAX;
        let name = if is_known && task.len() <= TASK_BYTES_MAX { name } else { OTHER.to_owned() };
        self.tasks.entry(name).or_default().add(utility);
    }

    fn ended(&mut self, pushed: Option<Pushed>, dropped: Option<DropReason>) {
        self.count("rollout/episodes", 1);
        match pushed {
            Some(Pushed::Kept) => self.count("rollout/groups_kept", 1),
            Some(Pushed::ZeroVariance) => self.count("rollout/groups_zero_variance", 1),
            Some(Pushed::Duplicate) | None => {}
        }
        if dropped.is_some() {
            self.count("rollout/episodes_dropped", 1);
        }
    }
}

/// Adds the figures of some critiques' utilities, if there are any, under the names that `name` makes.
fn add_utilities(line: &mut Line, utilities: &Moments, name: impl Fn(&str) -> String) {
    let Some((mean, deviation)) = utilities.mean_and_deviation() else { return };
    line.add(name("mean"), mean);
    line.add(name("deviation"), deviation);
    line.add(name("critiques"), utilities.count as f64);
}

/// A task's name within a figure's: `/` would part it, and some loggers refuse other characters.
fn name_of(task: &str) -> String {
    task.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}
