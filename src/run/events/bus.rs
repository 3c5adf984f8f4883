//! The event bus: each event updates the progress, the metrics, the log and the tap, in the order of emission.
//!
//! Knows no actor. A tap is called on the emitter's thread.

use super::{Activity, Event};
use crate::run::metrics_sink;
use crate::run::state::Counters;
use crate::telemetry::metrics;
use crate::types::{CriticVersion, Label};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Where the node stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// What it is busy with.
    pub activity: Activity,
    /// What was counted, over all resumptions of the run.
    pub counters: Counters,
    /// Episodes under way.
    pub in_flight: usize,
    /// Groups in the buffer.
    pub held: usize,
    /// Learner steps taken, over all resumptions.
    pub step: u64,
    /// Loss of the last step.
    pub loss: Option<f32>,
    /// The critic in service.
    pub version: CriticVersion,
    /// Tokens written since this process began.
    pub tokens: u64,
    /// Tokens written per second, a moving mean.
    pub tokens_per_second: f64,
    /// Restarts since this process began.
    pub restarts: u64,
    /// Publications since this process began.
    pub published: u64,
}

impl Progress {
    /// Takes in what happened.
    fn note(&mut self, event: &Event) {
        match event {
            Event::Turned(activity) => self.activity = *activity,
            Event::Began { in_flight, .. } => self.in_flight = *in_flight,
            Event::Holds { held, .. } => self.held = *held,
            Event::Ended { in_flight, counters, .. } => {
                self.in_flight = *in_flight;
                self.counters = counters.clone();
                if self.activity == Activity::FirstEpisode {
                    self.activity = Activity::Running;
                }
            }
            Event::Learned { report, .. } => (self.step, self.loss) = (report.step, Some(report.loss)),
            Event::Published { version, .. } => {
                self.version = *version;
                self.published += 1;
            }
            Event::Restarted { restarts, .. } => self.restarts = *restarts,
            _ => {}
        }
    }
}

/// Hears every event, in the order of telling. Must not block.
pub type Tap = Arc<dyn Fn(&Event) + Send + Sync>;

/// Tokens of the last seconds, for a moving rate.
struct Rate {
    since: Instant,
    tokens: u64,
}

/// Takes events in; clones share it.
#[derive(Clone)]
pub struct EventBus(Arc<Desk>);

struct Desk {
    progress: Mutex<(Progress, Rate)>,
    tap: Option<Tap>,
    silent: bool,
}

/// The span over which the token rate is taken.
const RATE_SECONDS: f64 = 5.0;

impl EventBus {
    /// A desk without history.
    pub fn new(tap: Option<Tap>) -> Self {
        let rate = Rate { since: Instant::now(), tokens: 0 };
        Self(Arc::new(Desk { progress: Mutex::new((Progress::default(), rate)), tap, silent: false }))
    }

    /// A desk that hears and passes nothing on: what is written and judged in an exam is no rollout's.
    pub fn silent() -> Self {
        let rate = Rate { since: Instant::now(), tokens: 0 };
        Self(Arc::new(Desk { progress: Mutex::new((Progress::default(), rate)), tap: None, silent: true }))
    }

    /// Tells what happened.
    pub fn emit(&self, event: Event) {
        if self.0.silent {
            return;
        }
        self.desk().0.note(&event);
        metrics_sink::count(&event);
        log(&event);
        if let Some(tap) = &self.0.tap {
            tap(&event);
        }
    }

    /// The engine sampled so many tokens.
    pub(crate) fn sampled(&self, tokens: usize) {
        let (progress, rate) = &mut *self.desk();
        progress.tokens += tokens as u64;
        let elapsed = rate.since.elapsed().as_secs_f64();
        if elapsed >= RATE_SECONDS {
            progress.tokens_per_second = (progress.tokens - rate.tokens) as f64 / elapsed;
            *rate = Rate { since: Instant::now(), tokens: progress.tokens };
            metrics::TOKENS_PER_SECOND.set(progress.tokens_per_second);
        }
    }

    /// Begins where an earlier process ended.
    pub fn resume(&self, counters: Counters, held: usize, step: u64, version: CriticVersion) {
        let (progress, _) = &mut *self.desk();
        (progress.counters, progress.held, progress.step, progress.version) = (counters, held, step, version);
    }

    /// Where the node stands.
    pub fn progress(&self) -> Progress {
        self.desk().0.clone()
    }

    /// Plain numbers: whoever panicked while holding them left them whole.
    fn desk(&self) -> MutexGuard<'_, (Progress, Rate)> {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What people want to read; everything else is in the metrics.
fn log(event: &Event) {
    match event {
        Event::Ended { episode, pushed, dropped, .. } => {
            tracing::debug!(episode = episode.0, ?pushed, ?dropped, "episode ended");
        }
        Event::Learned { batch, report, seconds, .. } => {
            let (step, loss, gradient_norm) = (report.step, report.loss, report.gradient_norm);
            tracing::debug!(batch, step, loss, gradient_norm, seconds, "learned a batch");
        }
        Event::Discarded { batch, why } => tracing::warn!(batch, why, "gave a batch up"),
        Event::Published { version, step } => tracing::info!(version = version.0, step, "published a critic"),
        Event::Evaluated { version, step, summary, best, seconds } => {
            let (cu, after) = (summary.cu, summary.accuracy_after.map(|accuracy| accuracy.value));
            let (low, high) = (cu.map(|cu| cu.low), cu.map(|cu| cu.high));
            let (cu, version) = (cu.map(|cu| cu.value), version.0);
            tracing::info!(version, step, cu, low, high, accuracy_after = after, best, seconds, "evaluated the critic");
        }
        Event::NotEvaluated(why) => tracing::warn!(why, "the critic could not be evaluated"),
        Event::Saved { step, seconds } => tracing::info!(step, seconds, "wrote a checkpoint"),
        Event::Restarted { actor_kind, restarts } => {
            tracing::info!(actor_kind = actor_kind.value(), restarts, "restarted")
        }
        _ => {}
    }
}
