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

/// A node's progress.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// What it is doing.
    pub activity: Activity,
    /// The counters, over all resumptions of the run.
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
    /// Updates the progress.
    fn note(&mut self, event: &Event) {
        match event {
            Event::ActivityChanged(activity) => self.activity = *activity,
            Event::EpisodeStarted { in_flight, .. } => self.in_flight = *in_flight,
            Event::ReplayChanged { held, .. } => self.held = *held,
            Event::EpisodeEnded { in_flight, counters, .. } => {
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

/// Receives every event, in the order of emission. Must not block.
pub type Tap = Arc<dyn Fn(&Event) + Send + Sync>;

/// The token count at the start of the current interval.
struct Rate {
    since: Instant,
    tokens: u64,
}

/// Takes events; clones share it.
#[derive(Clone)]
pub struct EventBus(Arc<Shared>);

struct Shared {
    progress: Mutex<(Progress, Rate)>,
    tap: Option<Tap>,
    silent: bool,
}

/// The interval over which the token rate is measured.
const RATE_SECONDS: f64 = 5.0;

impl EventBus {
    /// A bus with empty progress.
    pub fn new(tap: Option<Tap>) -> Self {
        let rate = Rate { since: Instant::now(), tokens: 0 };
        Self(Arc::new(Shared { progress: Mutex::new((Progress::default(), rate)), tap, silent: false }))
    }

    /// A bus that ignores every event: what an evaluation samples and judges does not count as rollout.
    pub fn silent() -> Self {
        let rate = Rate { since: Instant::now(), tokens: 0 };
        Self(Arc::new(Shared { progress: Mutex::new((Progress::default(), rate)), tap: None, silent: true }))
    }

    /// Emits an event.
    pub fn emit(&self, event: Event) {
        if self.0.silent {
            return;
        }
        self.lock().0.note(&event);
        metrics_sink::count(&event);
        log(&event);
        if let Some(tap) = &self.0.tap {
            tap(&event);
        }
    }

    /// Counts tokens that the engine sampled.
    pub(crate) fn sampled(&self, tokens: usize) {
        let (progress, rate) = &mut *self.lock();
        progress.tokens += tokens as u64;
        let elapsed = rate.since.elapsed().as_secs_f64();
        if elapsed >= RATE_SECONDS {
            progress.tokens_per_second = (progress.tokens - rate.tokens) as f64 / elapsed;
            *rate = Rate { since: Instant::now(), tokens: progress.tokens };
            metrics::TOKENS_PER_SECOND.set(progress.tokens_per_second);
        }
    }

    /// Sets the progress to that of a resumed run.
    pub fn resume(&self, counters: Counters, held: usize, step: u64, version: CriticVersion) {
        let (progress, _) = &mut *self.lock();
        (progress.counters, progress.held, progress.step, progress.version) = (counters, held, step, version);
    }

    /// A node's progress.
    pub fn progress(&self) -> Progress {
        self.lock().0.clone()
    }

    /// A poisoned lock is usable: the numbers behind it are valid one by one.
    fn lock(&self) -> MutexGuard<'_, (Progress, Rate)> {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs what people want to read; everything else is in the metrics.
fn log(event: &Event) {
    match event {
        Event::EpisodeEnded { episode, pushed, dropped, .. } => {
            tracing::debug!(episode = episode.0, ?pushed, ?dropped, "episode ended");
        }
        Event::Learned { batch, report, seconds, .. } => {
            let (step, loss, gradient_norm) = (report.step, report.loss, report.gradient_norm);
            tracing::debug!(batch, step, loss, gradient_norm, seconds, "learned a batch");
        }
        Event::BatchDiscarded { batch, why } => tracing::warn!(batch, why, "discarded a batch"),
        Event::Published { version, step } => tracing::info!(version = version.0, step, "published a critic"),
        Event::Evaluated { version, step, summary, best, seconds } => {
            let (cu, after) = (summary.cu, summary.accuracy_after.map(|accuracy| accuracy.value));
            let (low, high) = (cu.map(|cu| cu.low), cu.map(|cu| cu.high));
            let (cu, version) = (cu.map(|cu| cu.value), version.0);
            tracing::info!(version, step, cu, low, high, accuracy_after = after, best, seconds, "evaluated the critic");
        }
        Event::EvalFailed(why) => tracing::warn!(why, "the evaluation of the critic failed"),
        Event::CheckpointSaved { step, seconds } => tracing::info!(step, seconds, "wrote a checkpoint"),
        Event::Restarted { actor_kind, restarts } => {
            tracing::info!(actor_kind = actor_kind.value(), restarts, "restarted")
        }
        _ => {}
    }
}
