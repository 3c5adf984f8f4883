//! A node: loads the model, restores the run, starts the actors and runs until it is told to stop.
//!
//! Several nodes may run in one process; each owns its run directory, held by a lock.
//!
//! Invariants: a run directory with checkpoints is resumed or left alone, never overwritten; a node that ended with
//! [`Exit::Done`] left on disk all that a resume needs.

mod changes;
mod error;
#[cfg(feature = "faults")]
mod faults;
pub(crate) mod gpu_plan;
mod identity;
pub(crate) mod memory_plan;
mod models;
mod options;
mod prepare;
pub mod presence;
mod published_settings;
pub(crate) mod too_long;
mod track;

use crate::actors::control::Control;
use crate::actors::failure::Failure;
use crate::actors::run_context::RunContext;
use crate::actors::supervisor::{Supervisor, SupervisorMsg, SupervisorSetup};
use crate::config::Config;
use crate::episode::judge::model::ModelJudge;
use crate::formats::{template::ChatTemplate, tokenizer::Tokenizer};
use crate::prompts::PromptStream;
use crate::roles::judge::JudgeKind;
use crate::roles::{critic::Critic, generator::Generator, judge::Judge, refiner::Refiner};
use crate::run::events::{Activity, Event, EventBus, Progress};
pub use crate::run::exit::Exit;
use crate::run::storage;
use crate::verify::sandbox::{Protection, Sandbox};
pub use error::Error;
pub use models::check_device;
pub(crate) use models::{checker, learning_precisions, models, note_peak, precisions};
pub use options::Options;
pub(crate) use prepare::lock;
use prepare::prepare;
use ractor::{Actor, ActorRef};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
pub(crate) use track::{RESOLVED_CONFIG, note_process};

/// A running node.
pub struct Node {
    supervisor: ActorRef<SupervisorMsg>,
    stop: CancellationToken,
    events: EventBus,
    context: Arc<RunContext>,
    exit: watch::Receiver<Option<Exit>>,
    _observing: JoinSet<()>,
    _lock: File,
}

/// The time between two looks at jobs and memory.
const PUBLISH_LOOK: Duration = Duration::from_millis(500);
/// The pause after a checkpoint by time that was not written.
const SAVE_AGAIN: Duration = Duration::from_secs(30);
/// How long the end of a run waits for its last figures to be written.
const FIGURES_PATIENCE: Duration = Duration::from_secs(5);
/// The time between two looks at what the run takes on disk.
const STORAGE_LOOK: Duration = Duration::from_secs(5);

impl Node {
    /// Fetches and loads what `config` names, and starts the actors.
    ///
    /// # Errors
    /// If something in `config` cannot be used, or the run directory is not free.
    pub async fn start(config: Config, options: Options) -> Result<Self, Error> {
        let events = options.events.clone().unwrap_or_else(|| EventBus::new(None));
        let stop = options.stop.clone();
        let (bus, run) = (events.clone(), PathBuf::from(&config.node.run_directory));
        let every = config.checkpoint.every_seconds;
        let (context, run_state, lock) = blocking(move || prepare(config, &options, bus)).await?;
        let (exit, exited) = watch::channel(None);
        events.resume(run_state.counters.clone(), run_state.replay.len(), run_state.step, run_state.version);
        let context = Arc::new(context);
        let setup = SupervisorSetup { context: context.clone(), run_state: Arc::new(Mutex::new(run_state)), exit };
        let spawned = Supervisor::spawn(None, Supervisor, setup).await;
        let (supervisor, _handle) = spawned.map_err(|error| {
            let failure = Failure::of_start("supervisor", error);
            // The supervisor knows more than its failure.
            Error::Actors { why: failure.to_string(), exit: exited.borrow().unwrap_or(failure.exit()) }
        })?;
        events.emit(Event::ActivityChanged(Activity::FirstEpisode));
        let mut observing = JoinSet::new();
        observing.spawn(observe_storage(run));
        observing.spawn(publish(events.clone()));
        if every > 0 {
            let control = Control { context: context.clone(), supervisor: supervisor.clone() };
            observing.spawn(save_by_time(control, Duration::from_secs(every)));
        }
        Ok(Self { supervisor, stop, events, context, exit: exited, _observing: observing, _lock: lock })
    }

    /// Its progress.
    pub fn progress(&self) -> Progress {
        self.events.progress()
    }

    /// What its operator may ask of it.
    pub fn control(&self) -> Control {
        Control { context: self.context.clone(), supervisor: self.supervisor.clone() }
    }

    /// Asks it to stop: the work under way ends or is put back, and a checkpoint is written.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Resolves when it has ended.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        // A supervisor that ended without an exit code panicked; nothing restarts it.
        let exit = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit).unwrap_or(Exit::Restarts);
        let events = self.events.clone();
        // A panic of the writer is its own.
        let _ = tokio::task::spawn_blocking(move || events.flush_figures(FIGURES_PATIENCE)).await;
        exit
    }
}

/// Keeps the metrics of jobs and memory up to date.
async fn publish(events: EventBus) {
    let mut looks = tokio::time::interval(PUBLISH_LOOK);
    loop {
        looks.tick().await;
        events.publish();
    }
}

/// Has a checkpoint written once learner steps have been without one for `every`.
async fn save_by_time(control: Control, every: Duration) {
    let mut looks = tokio::time::interval(PUBLISH_LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (began, first) = (Instant::now(), control.events().progress().step);
    loop {
        looks.tick().await;
        let progress = control.events().progress();
        let (step, since) = progress.saved.unwrap_or((first, began));
        if progress.step <= step || since.elapsed() < every {
            continue;
        }
        if let Err(error) = control.checkpoint().await {
            tracing::warn!(%error, "the checkpoint of checkpoint.every_seconds was not written; it is tried again");
            tokio::time::sleep(every.min(SAVE_AGAIN)).await;
        }
    }
}

/// Keeps the metrics of the run directory up to date. A disk that hangs holds up no other task.
async fn observe_storage(run: PathBuf) {
    let mut looks = tokio::time::interval(STORAGE_LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let run = run.clone();
        if tokio::task::spawn_blocking(move || storage::observe(&run)).await.is_err() {
            return;
        }
    }
}

/// Checks that the roles and prompts of `config` can be used, and that the prompts' code, if any, can be run; what protects
/// this machine from that code.
///
/// # Errors
/// The first that cannot.
pub fn check(config: &Config) -> Result<Vec<Protection>, Error> {
    let prompts = PromptStream::open(&config.prompts, config.node.seed)?;
    let mut protections = vec![];
    prepare::check_verifiers(config, prompts.prompts())?;
    if config.judge.role.kind == JudgeKind::Verifier {
        let checker = checker(config, prompts.prompts())?;
        protections.extend(checker.sandbox().into_iter().flat_map(Sandbox::protections).cloned());
    }
    Generator::new(&config.generator.role)?;
    Critic::new(&config.critic.role)?;
    Refiner::new(&config.refiner.role)?;
    Judge::new(&config.judge.role)?;
    models::remotes(config)?;
    prepare::online_eval(config)?;
    Ok(protections)
}

/// Checks that a model with this template and tokenizer can be the judge of `config`.
///
/// # Errors
/// If its answers are read from log-probabilities and do not begin with distinct tokens.
pub fn check_judge(config: &Config, template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<(), Error> {
    if config.judge.role.uses_local_model() {
        ModelJudge::new(Judge::new(&config.judge.role)?, template, tokenizer)?;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
