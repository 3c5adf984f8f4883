//! The event bus: each event updates the progress, the metrics, the log and the tap, in the order of emission.
//!
//! Knows no actor. A tap is called on the emitter's thread.

use super::history::History;
use super::series::{Sample, Series};
use super::{Activity, Event, RolloutYield, Warning};
use crate::run::figures::{Figures, Standing};
use crate::run::jobs::{ActorJobs, Jobs};
use crate::run::memory::MemoryLedger;
use crate::run::metrics_sink::{self, Slots};
use crate::run::state::Counters;
use crate::telemetry::metrics;
use crate::types::{ActorKind, CriticVersion, EngineLoad, Label, unix_time};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

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
    /// The critic that was tried last on a share of the episodes.
    pub candidate: Option<CriticVersion>,
    /// Tokens written since this process began.
    pub tokens: u64,
    /// Tokens written per second, a moving mean.
    pub tokens_per_second: f64,
    /// Episodes ended per minute, over the last minute.
    pub episodes_per_minute: f64,
    /// Learner steps per minute, over the last minute.
    pub steps_per_minute: f64,
    /// What the engine holds.
    pub engine: EngineLoad,
    /// Mean and largest age of the critiques that were learned from last, in publications.
    pub staleness: Option<(f32, u64)>,
    /// Restarts since this process began.
    pub restarts: u64,
    /// Publications since this process began.
    pub published: u64,
    /// Since when the device thread has stood still, if it does.
    pub device_stalled: Option<Instant>,
    /// What rollout has yielded since this process began.
    pub rollout: RolloutYield,
    /// Learner steps in the newest checkpoint that this process wrote, and when it did.
    pub saved: Option<(u64, Instant)>,
}

impl Progress {
    /// Updates the progress.
    fn note(&mut self, event: &Event) {
        self.rollout.note(event, Instant::now());
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
            Event::Learned { report, .. } => {
                (self.step, self.loss) = (report.step, Some(report.loss));
                self.staleness = Some((report.off_policy.age_mean_versions, report.off_policy.age_max_versions));
            }
            Event::Published { version, .. } => {
                self.version = *version;
                self.published += 1;
            }
            Event::CriticEntered { version, .. } => self.version = *version,
            Event::TrialBegan { version } => self.candidate = Some(*version),
            Event::Restarted { actor_kind, restarts } => {
                self.restarts = *restarts;
                if *actor_kind == ActorKind::Device {
                    self.device_stalled = None;
                }
            }
            Event::DeviceStalled { since } => self.device_stalled = *since,
            Event::CheckpointSaved { step, .. } => self.saved = Some((*step, Instant::now())),
            _ => {}
        }
    }
}

impl Progress {
    /// What makes most of the work useless now.
    pub fn warnings(&self) -> Vec<Warning> {
        self.rollout.warnings(Instant::now())
    }

    /// The numbers that are drawn over time, now.
    fn sample(&self) -> Sample {
        Sample {
            time: unix_time::now().as_millis() as u64,
            step: self.step,
            loss: self.loss,
            utility_mean: self.counters.utility_mean,
            tokens_per_second: self.tokens_per_second,
            groups_held: self.held,
            episodes_in_flight: self.in_flight,
        }
    }
}

/// Receives every event, in the order of emission. Must not block.
pub type Tap = Arc<dyn Fn(&Event) + Send + Sync>;

/// The token count at the start of the current interval, and how far the node was in the last minute.
struct Rate {
    since: Instant,
    tokens: u64,
    minute: VecDeque<(Instant, u64, u64)>,
}

impl Rate {
    fn new() -> Self {
        Self { since: Instant::now(), tokens: 0, minute: VecDeque::new() }
    }

    /// Episodes and steps per minute, with `progress` as the newest.
    fn per_minute(&mut self, progress: &Progress) -> (f64, f64) {
        let (now, episodes, steps) = (Instant::now(), progress.counters.episodes, progress.step);
        self.minute.push_back((now, episodes, steps));
        while self.minute.front().is_some_and(|(at, ..)| now.duration_since(*at) > MINUTE) {
            self.minute.pop_front();
        }
        let Some((at, first_episodes, first_steps)) = self.minute.front() else { return (0.0, 0.0) };
        let minutes = now.duration_since(*at).as_secs_f64() / 60.0;
        let rate =
            |newest: u64, first: u64| if minutes > 0.0 { newest.saturating_sub(first) as f64 / minutes } else { 0.0 };
        (rate(episodes, *first_episodes), rate(steps, *first_steps))
    }
}

/// Takes events; clones share it.
#[derive(Clone)]
pub struct EventBus(Arc<Shared>);

struct Shared {
    progress: Mutex<(Progress, Rate)>,
    tap: Option<Tap>,
    /// Set once the run directory is this process's.
    figures: OnceLock<Figures>,
    history: History,
    series: Series,
    jobs: ActorJobs,
    memory: MemoryLedger,
    /// When each kind of warning was logged last.
    warned: Mutex<[Option<Instant>; Warning::KINDS]>,
    silent: bool,
}

/// How often a warning is logged again while it holds.
const WARN_AGAIN: Duration = Duration::from_secs(600);
const MINUTE: Duration = Duration::from_secs(60);
/// The interval over which the token rate is measured.
const RATE_SECONDS: f64 = 5.0;

impl EventBus {
    /// A bus with empty progress.
    pub fn new(tap: Option<Tap>) -> Self {
        Self::with(tap, false)
    }

    /// A bus that ignores every event: what an evaluation samples and judges does not count as rollout.
    pub fn silent() -> Self {
        Self::with(None, true)
    }

    fn with(tap: Option<Tap>, silent: bool) -> Self {
        let progress = Mutex::new((Progress::default(), Rate::new()));
        let (history, series) = (History::default(), Series::default());
        let (jobs, memory, figures) = (ActorJobs::default(), MemoryLedger::default(), OnceLock::new());
        let warned = Mutex::default();
        Self(Arc::new(Shared { progress, tap, figures, history, series, jobs, memory, warned, silent }))
    }

    /// What `actor` is at.
    pub fn jobs(&self, actor: ActorKind) -> &Jobs {
        self.0.jobs.of(actor)
    }

    /// Memory by owner.
    pub fn memory(&self) -> &MemoryLedger {
        &self.0.memory
    }

    /// Puts into metrics and charts what grows without an event: the ages of jobs, memory, and the last hour.
    pub fn publish(&self) {
        let progress = self.progress();
        self.0.series.observe(progress.sample());
        self.warn(&progress);
        self.0.jobs.publish();
        self.0.memory.publish();
    }

    /// Logs what makes most of the work useless: when it begins, and now and then while it lasts.
    fn warn(&self, progress: &Progress) {
        let (now, warnings) = (Instant::now(), progress.warnings());
        let mut warned = self.0.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings {
            let last = &mut warned[warning.kind()];
            if last.is_none_or(|last| now.duration_since(last) >= WARN_AGAIN) {
                *last = Some(now);
                tracing::warn!("{warning}");
            }
        }
    }

    /// Emits an event.
    pub fn emit(&self, event: Event) {
        if self.0.silent {
            return;
        }
        let slots = {
            let (progress, _) = &mut *self.lock();
            progress.note(&event);
            Slots { serving: progress.version, candidate: progress.candidate }
        };
        metrics_sink::count(&event, slots);
        self.0.history.note(&event);
        if let Some(figures) = self.0.figures.get() {
            figures.note(&event, || self.standing());
        }
        log(&event);
        if let Some(tap) = &self.0.tap {
            tap(&event);
        }
    }

    /// Has `figures` take every event from now on, if nothing else does.
    pub(crate) fn track(&self, figures: Figures) {
        // A bus is one run's: whoever came first has it.
        let _ = self.0.figures.set(figures);
    }

    /// Waits until the figures so far are on disk, for `patience` at most.
    pub(crate) fn flush_figures(&self, patience: Duration) {
        if self.0.figures.get().is_some_and(|figures| !figures.flush(patience)) {
            tracing::warn!("the last figures of the run were not written");
        }
    }

    /// What the node is at, for a line of figures.
    fn standing(&self) -> Standing {
        let progress = self.progress();
        Standing {
            version: progress.version.0,
            counters: progress.counters,
            in_flight: progress.in_flight,
            held: progress.held,
            tokens_per_second: progress.tokens_per_second,
            restarts: progress.restarts,
            memory: self.0.memory.rows(),
        }
    }

    /// The newest events.
    pub fn history(&self) -> &History {
        &self.0.history
    }

    /// The last hour.
    pub fn series(&self) -> &Series {
        &self.0.series
    }

    /// Counts an engine step that sampled `tokens`.
    pub(crate) fn stepped(&self, tokens: usize, engine: EngineLoad) {
        let (progress, rate) = &mut *self.lock();
        progress.tokens += tokens as u64;
        progress.engine = engine;
        let elapsed = rate.since.elapsed().as_secs_f64();
        if elapsed >= RATE_SECONDS {
            progress.tokens_per_second = (progress.tokens - rate.tokens) as f64 / elapsed;
            (rate.since, rate.tokens) = (Instant::now(), progress.tokens);
            (progress.episodes_per_minute, progress.steps_per_minute) = rate.per_minute(progress);
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
        Event::CriticEntered { version, kind, reason, by, why } => {
            let reason = reason.value();
            tracing::info!(version = version.0, ?kind, reason, by, why, "another critic is in service");
        }
        Event::Controlled { what, by } => tracing::info!(by, "{what}"),
        Event::CriticRejected { version, reason, by, why } => {
            tracing::warn!(version = version.0, reason = reason.value(), by, why, "a critic was rejected");
        }
        Event::CriticRefused { by, why } => tracing::warn!(by, why, "a critic was refused"),
        Event::Evaluated { version, step, summary, best, seconds } => {
            let (cu, after) = (summary.cu, summary.accuracy_after.map(|accuracy| accuracy.value));
            let (low, high) = (cu.map(|cu| cu.low), cu.map(|cu| cu.high));
            let (cu, version) = (cu.map(|cu| cu.value), version.0);
            tracing::info!(version, step, cu, low, high, accuracy_after = after, best, seconds, "evaluated the critic");
        }
        Event::DeviceStalled { since: Some(since) } => {
            tracing::warn!(seconds = since.elapsed().as_secs(), "the device thread stands still");
        }
        Event::DeviceStalled { since: None } => tracing::info!("the device thread goes on"),
        Event::EvalFailed(why) => tracing::warn!(why, "the evaluation of the critic failed"),
        Event::CheckpointSaved { step, seconds } => tracing::info!(step, seconds, "wrote a checkpoint"),
        Event::Restarted { actor_kind, restarts } => {
            tracing::info!(actor_kind = actor_kind.value(), restarts, "restarted")
        }
        _ => {}
    }
}
