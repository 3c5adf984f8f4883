//! What each actor is at: its jobs, for whom, and since when.
//!
//! A job is noted while its guard lives. Knows no actor, only their names.

use crate::telemetry::metrics;
use crate::telemetry::under_way::{UnderWay, UnderWayGuard};
use crate::types::{ActorKind, Label};
use serde::Serialize;

/// The jobs of one party: what is done, and for whom; clones share them.
#[derive(Clone, Default)]
pub struct Jobs(UnderWay<(&'static str, String)>);

/// Keeps a job noted.
pub type Job = UnderWayGuard<(&'static str, String)>;

/// A job, as people and programs read it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobReport {
    /// What is done, in a few words.
    pub what: &'static str,
    /// For whom or with what; empty if there is nothing to say.
    pub subject: String,
    /// How long it has taken so far, in seconds.
    pub seconds: f64,
}

/// The jobs of one party.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobsReport {
    /// How many.
    pub in_flight: usize,
    /// The one that has taken longest.
    pub oldest: Option<JobReport>,
}

impl Jobs {
    /// Notes a job until its guard is dropped.
    pub fn begin(&self, what: &'static str, subject: impl Into<String>) -> Job {
        self.0.begin((what, subject.into()))
    }

    /// What is under way now.
    pub fn report(&self) -> JobsReport {
        let report =
            |seconds, (what, subject): &(&'static str, String)| JobReport { what, subject: subject.clone(), seconds };
        let (in_flight, oldest) = self.0.summary(report);
        JobsReport { in_flight, oldest }
    }
}

/// The jobs of every actor.
#[derive(Default)]
pub struct ActorJobs([Jobs; ActorKind::ALL.len()]);

impl ActorJobs {
    /// Those of `actor`.
    pub fn of(&self, actor: ActorKind) -> &Jobs {
        &self.0[actor as usize]
    }

    /// Puts them into the metrics.
    pub fn publish(&self) {
        for actor in ActorKind::ALL.iter().copied() {
            let report = self.of(actor).report();
            metrics::JOBS.set(actor, report.in_flight as f64);
            metrics::JOB_OLDEST_SECONDS.set(actor, report.oldest.map_or(0.0, |oldest| oldest.seconds));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_job_is_reported_until_its_guard_is_dropped() {
        let jobs = ActorJobs::default();
        let critic = jobs.of(ActorKind::Critic);
        let (first, second) = (critic.begin("writes critiques", "p1"), critic.begin("writes critiques", "p2"));
        let report = critic.report();
        assert_eq!((report.in_flight, report.oldest.unwrap().subject.as_str()), (2, "p1"));
        assert_eq!(jobs.of(ActorKind::Judge).report(), JobsReport { in_flight: 0, oldest: None });
        drop(first);
        assert_eq!(critic.report().oldest.unwrap().subject, "p2");
        drop(second);
        assert_eq!(critic.report().in_flight, 0);
    }
}
