//! A histogram by task: tasks are named by the prompt file, so their number is bounded here.
//!
//! Invariant: at most [`TASKS_MAX`] tasks have a series of their own in a process; all others share `other`.

use super::handles::{AnyHistogram, Handle, MetricKind, Named};
use super::labels::{Label, LabelSpec, VersionSlot};
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

/// Tasks with a series of their own.
const TASKS_MAX: usize = 16;
/// The longest name of such a task, in bytes.
const TASK_BYTES_MAX: usize = 64;
/// The label of tasks beyond these limits.
const OTHER: &str = "other";
/// The label's name.
const KEY: &str = "task";

/// The tasks that have a series.
struct Tasks(Vec<String>);

static TASKS: Mutex<Tasks> = Mutex::new(Tasks(Vec::new()));

impl Tasks {
    /// The label of `task`.
    fn label(&mut self, task: &str) -> String {
        let is_known = self.0.iter().any(|known| known == task);
        if !is_known && (self.0.len() == TASKS_MAX || task.len() > TASK_BYTES_MAX || task == OTHER) {
            return OTHER.to_owned();
        }
        if !is_known {
            self.0.push(task.to_owned());
        }
        task.to_owned()
    }
}

/// The label of `task` in this process.
fn label(task: &str) -> String {
    // Whole whatever panicked: a name is added in one step.
    TASKS.lock().unwrap_or_else(PoisonError::into_inner).label(task)
}

/// A histogram by task and by the critic's slot.
pub struct TaskHistogram {
    pub(super) name: &'static str,
    pub(super) label: PhantomData<()>,
}

impl Named for TaskHistogram {
    fn name(&self) -> &'static str {
        self.name
    }
}

impl AnyHistogram for TaskHistogram {}

impl TaskHistogram {
    /// Counts `value` under `task` and `version`.
    pub fn record(&self, task: &str, version: VersionSlot, value: f64) {
        metrics::histogram!(self.name, KEY => label(task), VersionSlot::KEY => version.value()).record(value);
    }

    /// Registers the series of `tasks` at zero: call it once they are known.
    pub fn register<'a>(&self, tasks: impl IntoIterator<Item = &'a str>) {
        for task in tasks {
            register(self.name, label(task));
        }
    }
}

/// Registers the series of one task. A critique always has a critic.
fn register(name: &'static str, task: String) {
    for version in VersionSlot::ALL.iter().filter(|version| **version != VersionSlot::NoCritic) {
        let _registered = metrics::histogram!(name, KEY => task.clone(), VersionSlot::KEY => version.value());
    }
}

impl Handle for TaskHistogram {
    const KIND: MetricKind = MetricKind::Histogram;
    fn register(name: &'static str) {
        register(name, OTHER.to_owned());
    }
    fn labels() -> Vec<LabelSpec> {
        let slots = VersionSlot::ALL.iter().filter(|version| **version != VersionSlot::NoCritic);
        let version = LabelSpec { key: VersionSlot::KEY, values: slots.map(|slot| slot.value()).collect() };
        vec![LabelSpec { key: KEY, values: Vec::new() }, version]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_tasks_keep_their_names_and_the_rest_share_one() {
        let mut tasks = Tasks(Vec::new());
        assert_eq!(tasks.label(&"x".repeat(TASK_BYTES_MAX + 1)), OTHER);
        assert_eq!(tasks.label(OTHER), OTHER);
        let names: Vec<String> = (0..TASKS_MAX + 4).map(|n| format!("task {n}")).collect();
        let labels: Vec<String> = names.iter().map(|name| tasks.label(name)).collect();
        assert_eq!(labels[..TASKS_MAX], names[..TASKS_MAX]);
        assert!(labels[TASKS_MAX..].iter().all(|label| label == OTHER), "{labels:?}");
        assert_eq!(tasks.label("task 0"), "task 0", "a name that was kept stays");
    }
}
