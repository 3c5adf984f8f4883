//! What happened: told once by the shells, heard by the progress line, the metrics and whoever taps in.
//!
//! Knows no actor. An event is past tense and carries what a listener needs, not how it came about.

use super::state::{Counters, DropReason};
use crate::actors::supervisor::ActorKind;
use crate::episode::online_eval::EvalSummary;
use crate::learner::Report;
use crate::replay::{Pushed, Retired};
use crate::telemetry::metrics::{self, Role};
use crate::types::{Choice, CriticVersion, EpisodeId, Invalid, Verdict};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What the node is busy with, for those who wonder why nothing moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// The model is fetched.
    #[default]
    Fetching,
    /// The model is loaded and checked.
    Loading,
    /// No episode has ended yet.
    FirstEpisode,
    /// All goes its way.
    Running,
    /// New episodes wait until the learner has caught up.
    Pacing,
    /// The tree is being restarted.
    Restarting,
    /// What is under way ends.
    Draining,
    /// The last checkpoint is written.
    Saving,
    /// It is over.
    Ended,
}

impl Activity {
    /// Whether episodes wait for the learner.
    pub(crate) fn is_pacing(self) -> bool {
        self == Self::Pacing
    }

    /// What is waited for, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Fetching => "the model to be fetched",
            Self::Loading => "the model to load",
            Self::FirstEpisode => "the first episodes",
            Self::Running => "nothing",
            Self::Pacing => "the learner to catch up",
            Self::Restarting => "a restart",
            Self::Draining => "what is under way to end",
            Self::Saving => "the last checkpoint",
            Self::Ended => "the process to end",
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The node is now busy with something else.
    Turned(Activity),
    /// An episode began, or began again.
    Began {
        /// Which.
        episode: EpisodeId,
        /// Episodes under way, this one included.
        in_flight: usize,
    },
    /// A role wrote texts.
    Wrote {
        /// Which role.
        role: Role,
        /// Tokens of each text.
        tokens: Vec<usize>,
        /// From question to answer, in seconds.
        seconds: f64,
    },
    /// A role did not answer in time.
    Late(Role),
    /// A refinement was judged.
    Judged(Verdict),
    /// A model was asked about a pair in both orders; what it said of each.
    Compared([Result<Choice, Invalid>; 2]),
    /// A critique was left out of its group.
    CritiqueDropped(DropReason),
    /// A critique was scored, in `[0, 1]`.
    CritiqueScored(f32),
    /// An episode ended.
    Ended {
        /// Which.
        episode: EpisodeId,
        /// What became of its group; none if it made none.
        pushed: Option<Pushed>,
        /// Why it made none.
        dropped: Option<DropReason>,
        /// Episodes still under way.
        in_flight: usize,
        /// What was counted so far.
        counters: Counters,
    },
    /// The buffer changed.
    Holds {
        /// Groups in it.
        held: usize,
        /// Those of them that were never learned from.
        fresh: usize,
    },
    /// Groups left the buffer.
    Retired(Retired),
    /// A batch was learned.
    Learned {
        /// Its name.
        batch: u64,
        /// Whose groups it held.
        episodes: Vec<EpisodeId>,
        /// How many versions each critique was behind the critic in service.
        ages_versions: Vec<u64>,
        /// What the step did.
        report: Report,
        /// From question to answer, in seconds.
        seconds: f64,
    },
    /// A batch was given up.
    Discarded {
        /// Its name.
        batch: u64,
        /// What was wrong with it.
        why: String,
    },
    /// A critic went into service.
    Published {
        /// Its version.
        version: CriticVersion,
        /// After so many steps.
        step: u64,
    },
    /// A whole checkpoint is on disk.
    Saved {
        /// Of so many steps.
        step: u64,
        /// How long the write took.
        seconds: f64,
    },
    /// A checkpoint could not be written.
    NotSaved,
    /// The critic in service was examined on held-out prompts.
    Evaluated {
        /// Its version.
        version: CriticVersion,
        /// After so many steps.
        step: u64,
        /// What it is worth.
        summary: EvalSummary,
        /// Whether its checkpoint is kept as the best so far.
        best: bool,
        /// How long the exam took.
        seconds: f64,
    },
    /// An exam came to nothing.
    NotEvaluated(String),
    /// A station failed; it and all that stand on it were restarted.
    Restarted {
        /// The first station restarted.
        actor_kind: ActorKind,
        /// Restarts so far.
        restarts: u64,
    },
}

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
        super::metrics_sink::count(&event);
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
            tracing::info!(actor_kind = actor_kind.name(), restarts, "restarted")
        }
        _ => {}
    }
}
