//! What is under way at each stage, and for how long.
//!
//! A [`StageGuard`] travels with the work. Ages are computed when the metrics are rendered. All nodes of a process share
//! the table, as they share the metrics.

use super::metrics::{self, Label, Stage};
use super::under_way::{UnderWay, UnderWayGuard};
use std::sync::LazyLock;

/// The work under way at each stage.
static STAGES: LazyLock<[UnderWay<()>; Stage::ALL.len()]> = LazyLock::new(Default::default);

/// Work under way at a stage; it leaves the stage when this is dropped.
#[must_use = "dropping the guard ends the stage"]
#[derive(Debug)]
pub struct StageGuard {
    stage: Stage,
    entry: UnderWayGuard<()>,
}

/// Work enters `stage`.
pub fn enter(stage: Stage) -> StageGuard {
    StageGuard { stage, entry: STAGES[stage as usize].begin(()) }
}

impl Drop for StageGuard {
    fn drop(&mut self) {
        metrics::STAGE_SECONDS.record(self.stage, self.entry.begun().elapsed().as_secs_f64());
    }
}

/// Brings the gauges up to date.
pub(super) fn export() {
    for &stage in Stage::ALL {
        let (in_flight, oldest) = STAGES[stage as usize].summary(|seconds, ()| seconds);
        metrics::STAGE_OLDEST_SECONDS.set(stage, oldest.unwrap_or(0.0));
        metrics::STAGE_IN_FLIGHT.set(stage, in_flight as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_age_is_that_of_the_oldest_work_under_way() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let value = |name: &str| -> f64 {
            export();
            let text = recorder.handle().render();
            let start = format!("{name}{{stage=\"preference\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            line.expect("the series is exported").parse().expect("a number")
        };
        ::metrics::with_local_recorder(&recorder, || {
            let old = enter(Stage::Preference);
            std::thread::sleep(Duration::from_millis(30));
            let new = enter(Stage::Preference);
            assert_eq!(value("rco_node_stage_in_flight"), 2.0);
            assert!(value("rco_node_stage_oldest_seconds") >= 0.03);
            drop(old);
            assert_eq!(value("rco_node_stage_in_flight"), 1.0);
            assert!(value("rco_node_stage_oldest_seconds") < 0.03);
            drop(new);
            assert_eq!((value("rco_node_stage_in_flight"), value("rco_node_stage_oldest_seconds")), (0.0, 0.0));
        });
    }
}
