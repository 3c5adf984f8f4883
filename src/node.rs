//! A node: puts model, rooms and actors together and runs until told to stop.
//!
//! Several nodes may live in one process; each owns its run directory, held by a lock.
//!
//! Invariants: a run directory with checkpoints is gone on from or left alone, never begun anew; a node
//! that ended with [`Exit::Done`] left a whole checkpoint.

use crate::actors::run_context::RunContext;
pub use crate::actors::stop::Stop;
use crate::actors::supervisor::{Supervisor, SupervisorMsg, SupervisorSetup};
use crate::actors::{ask::ask, failure::Failure};
use crate::checkpoint;
use crate::config::Config;
use crate::engine::EngineConfig;
use crate::episode::judge::model::ModelJudge;
use crate::episode::judge::{Compare, JudgeSource, Judges};
use crate::episode::models::{Models, Remotes, RoleConfig};
use crate::episode::online_eval::OnlineEval;
use crate::formats;
use crate::formats::{source::Source, template::ChatTemplate, tokenizer::Tokenizer};
use crate::groups::{self, GroupRecorder};
use crate::learner::Mode;
use crate::prompts::{self, PromptStream};
use crate::remote::{self, Client, RemoteConfig};
use crate::roles::judge::JudgeKind;
use crate::roles::{self, critic::Critic, generator::Generator, judge::Judge, refiner::Refiner};
use crate::run::checkpoints::CheckpointStore;
use crate::run::events::{Activity, Event, EventBus, Progress};
pub use crate::run::exit::Exit;
use crate::transformer::load::Loaded;
use crate::types::{ActorKind, ModelId, Prompt};
use crate::verify::{Checker, sandbox};
use ractor::{Actor, ActorRef};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// How a node is started, beside its config.
#[derive(Clone, Default)]
pub struct Options {
    /// Go on from the newest whole checkpoint of the run directory.
    pub resume: bool,
    /// Stop after so many learner steps in all.
    pub learner_steps: Option<u64>,
    /// Judge by this instead of the config's judge.
    pub judge: Option<Arc<Compare>>,
    /// The wish to stop, for those who want to raise it before the node is up.
    pub stop: Stop,
    /// Where it tells what happens, for those who want to hear it from the beginning.
    pub events: Option<EventBus>,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run directory has checkpoints, and nobody asked to go on from them.
    #[error("{0} holds the checkpoints of a run: go on with --resume, or name another node.run_directory")]
    Occupied(PathBuf),
    /// There is nothing to go on from.
    #[error("{0} holds no whole checkpoint to resume from")]
    NothingToResume(PathBuf),
    /// Another node runs there.
    #[error("{0} is in use by another node")]
    Locked(PathBuf),
    /// The run directory cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A role cannot be made from its config.
    #[error(transparent)]
    Role(#[from] roles::Error),
    /// A remote server cannot be asked.
    #[error(transparent)]
    Remote(#[from] remote::Error),
    /// The prompts cannot be read.
    #[error(transparent)]
    Prompts(#[from] prompts::Error),
    /// Prompts want code to be run, and it cannot be run here.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// The config cannot be written down.
    #[error("config: {0}")]
    Config(String),
    /// The model cannot be fetched or loaded.
    #[error(transparent)]
    Model(#[from] formats::Error),
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// The run's groups cannot be kept.
    #[error(transparent)]
    Groups(#[from] groups::Error),
    /// The tree did not rise.
    #[error("{why}")]
    Tree {
        /// What went wrong.
        why: String,
        /// How the process ends for it.
        exit: Exit,
    },
}

impl Error {
    /// How the process ends for it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Model(formats::Error::Device { .. } | formats::Error::CpuOnly { .. }) => Exit::Usage,
            Self::Model(_) => Exit::Model,
            Self::Checkpoint(_) => Exit::Checkpoint,
            Self::Tree { exit, .. } => *exit,
            _ => Exit::Usage,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Tree { why: failure.to_string(), exit: failure.exit() }
    }
}

/// A running node.
pub struct Node {
    supervisor: ActorRef<SupervisorMsg>,
    stop: Stop,
    events: EventBus,
    exit: watch::Receiver<Option<Exit>>,
    _lock: File,
}

/// How long the supervisor may take to do as a test wishes; it may be in the middle of a restart.
const PATIENCE: Duration = Duration::from_secs(60);

impl Node {
    /// Fetches and loads what `config` names, and raises the tree.
    ///
    /// # Errors
    /// Where anything in `config` cannot be used, or the run directory is not free.
    pub async fn start(config: Config, options: Options) -> Result<Self, Error> {
        let events = options.events.clone().unwrap_or_else(|| EventBus::new(None));
        let stop = options.stop.clone();
        let teller = events.clone();
        let (context, run_state, lock) = blocking(move || prepare(config, &options, teller)).await?;
        let (exit, exited) = watch::channel(None);
        events.resume(run_state.counters.clone(), run_state.replay.len(), run_state.step, run_state.version);
        let setup = SupervisorSetup { context: Arc::new(context), run_state: Arc::new(Mutex::new(run_state)), exit };
        let spawned = Supervisor::spawn(None, Supervisor, setup).await;
        let (supervisor, _life) = spawned
            .map_err(|error| Error::Tree { why: error.to_string(), exit: exited.borrow().unwrap_or(Exit::Restarts) })?;
        events.emit(Event::Turned(Activity::FirstEpisode));
        Ok(Self { supervisor, stop, events, exit: exited, _lock: lock })
    }

    /// Where it stands.
    pub fn progress(&self) -> Progress {
        self.events.progress()
    }

    /// Asks it to stop: what is under way ends or is put back, and a checkpoint is written.
    pub fn stop(&self) {
        self.stop.request();
    }

    /// Resolves when it has ended.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        // A supervisor that is gone without a word panicked: that is past restarting.
        exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit).unwrap_or(Exit::Restarts)
    }

    /// Kills an actor, as a fault would; for tests of what happens then. False where it was not up.
    pub async fn kill(&self, actor_kind: ActorKind) -> bool {
        ask(&self.supervisor, PATIENCE, |reply| SupervisorMsg::Kill { actor_kind, reply }).await.unwrap_or(false)
    }

    /// Makes the device thread panic, as a fault would; for tests of what happens then.
    pub async fn fault(&self) -> bool {
        ask(&self.supervisor, PATIENCE, |reply| SupervisorMsg::Fault { reply }).await.unwrap_or(false)
    }
}

/// Whether every role and the prompts that `config` names can be used, and their code, if any, be run.
///
/// # Errors
/// Where one cannot.
pub fn check(config: &Config) -> Result<(), Error> {
    let prompts = PromptStream::open(&config.prompts, config.node.seed)?;
    if config.judge.role.kind == JudgeKind::Verifier {
        Checker::open(prompts.prompts(), config.judge.role.allow_unsandboxed)?;
    }
    Generator::new(&config.generator.role)?;
    Critic::new(&config.critic.role)?;
    Refiner::new(&config.refiner.role)?;
    Judge::new(&config.judge.role)?;
    remotes(config)?;
    served(config)?;
    Ok(())
}

/// Whether the judge that `config` describes can be played by a model with this template and tokenizer.
///
/// # Errors
/// Where its answers are to be weighed and do not begin with tokens of their own.
pub fn check_judge(config: &Config, template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<(), Error> {
    if config.judge.role.uses_local_model() {
        ModelJudge::new(Judge::new(&config.judge.role)?, template, tokenizer)?;
    }
    Ok(())
}

/// Whether the critic that `config` describes can be trained and served on `device`.
///
/// # Errors
/// Where all weights are to be trained and it is not the CPU.
pub fn check_device(config: &Config, device: &candle_core::Device) -> Result<(), Error> {
    if config.learner.mode == Mode::Full && !device.is_cpu() {
        return Err(formats::Error::CpuOnly { device: crate::transformer::device::name(device) }.into());
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

type Prepared = (RunContext, crate::run::state::RunState, File);

/// Everything that blocks: files, downloads, weights.
fn prepare(config: Config, options: &Options, events: EventBus) -> Result<Prepared, Error> {
    let config = one_by_one(config);
    let run = PathBuf::from(&config.node.run_directory);
    let lock = lock(&run)?;
    let root = run.join("checkpoints");
    checkpoint::remove_leftovers(&root)?;
    let occupied = !checkpoint::list(&root)?.is_empty();
    match (options.resume, occupied) {
        (false, true) => return Err(Error::Occupied(run)),
        (true, false) => return Err(Error::NothingToResume(run)),
        _ => {}
    }
    let prompts = PromptStream::open(&config.prompts, config.node.seed)?;
    let served = served(&config)?.map(Arc::new);
    let text = toml::to_string(&config).map_err(|error| Error::Config(error.to_string()))?;
    let (models, path) = models(&config, prompts.prompts(), options.judge.as_ref(), &events, true)?;
    let spec = models.model.transformer.spec().clone();
    let recorder = recorder(&config, &run, &path)?;
    let checkpoints = CheckpointStore::new(root, spec, config.model.source.clone(), config.checkpoint.clone(), text);
    let context = RunContext {
        models: Arc::new(models),
        seed: config.node.seed,
        prompts: Arc::new(prompts),
        critique_preferences: config.judge.role.critique_preferences,
        rollout: config.rollout,
        replay: config.replay,
        learner: config.learner,
        learner_steps_max: options.learner_steps,
        supervisor: config.supervisor,
        drain: Duration::from_secs(config.node.drain_seconds),
        checkpoints: Arc::new(checkpoints),
        recorder,
        served,
        stop: options.stop.clone(),
        events,
    };
    let run_state = match options.resume {
        true => context.resumed(
            context.checkpoints.recall().map_err(Failure::from)?.ok_or(Error::NothingToResume(run))?.run_state,
        ),
        false => context.run_state(),
    };
    Ok((context, run_state, lock))
}

/// The exam of the critic in service, where `config` wants one.
fn served(config: &Config) -> Result<Option<OnlineEval>, Error> {
    if config.eval.every_steps == 0 {
        return Ok(None);
    }
    let prompts: Vec<_> = prompts::load(&config.held_out())?.into_iter().take(config.eval.prompts).collect();
    let checker = Arc::new(Checker::open(&prompts, config.judge.role.allow_unsandboxed)?);
    let prompts = prompts.into_iter().map(Arc::new).collect();
    Ok(Some(OnlineEval { prompts, checker, config: config.eval.clone(), seed: config.node.seed }))
}

/// Everyone whom `config` names, judging by `compare` where that is given, and where the model lies; the model for
/// scoring too if `score`. Blocking: files, downloads, weights.
///
/// # Errors
/// Where one cannot be made, or the verifier cannot check `prompts` here.
pub(crate) fn models(
    config: &Config,
    prompts: &[Prompt],
    compare: Option<&Arc<Compare>>,
    events: &EventBus,
    score: bool,
) -> Result<(Models, PathBuf), Error> {
    let generator = Arc::new(Generator::new(&config.generator.role)?);
    let critic = Arc::new(Critic::new(&config.critic.role)?);
    let refiner = Arc::new(Refiner::new(&config.refiner.role)?);
    let judge = Judge::new(&config.judge.role)?;
    let checks = compare.is_none() && config.judge.role.kind == JudgeKind::Verifier;
    let open = || Checker::open(prompts, config.judge.role.allow_unsandboxed);
    let checker = checks.then(open).transpose()?.map(Arc::new);
    let remotes = remotes(config)?;

    let device = config.model.device.open()?;
    check_device(config, &device)?;
    let path = Source::parse(&config.model.source)?.fetch()?;
    events.emit(Event::Turned(Activity::Loading));
    let model = crate::transformer::load::load_on(&path, &device, config.engine.weights, score)?;
    // Every role speaks in turns: a base model is refused here, not by its first episode.
    model.template.present()?;
    let judge_model = judge_model(config, &device)?;
    let role = &config.judge.role;
    let Loaded { template, tokenizer, .. } = judge_model.as_ref().map_or(&model, |(model, _)| model);
    let asked = match role.kind {
        JudgeKind::Remote => Some(ModelJudge::remote(judge)),
        _ => role.uses_local_model().then(|| ModelJudge::new(judge, template, tokenizer)).transpose()?,
    };
    let asked = asked.map(Arc::new);
    let preferences = asked.clone().filter(|_| role.critique_preferences);
    let verdicts = match (compare, checker, asked) {
        (Some(compare), ..) => JudgeSource::Custom(compare.clone()),
        (None, Some(checker), _) => JudgeSource::Verifier(checker),
        (None, None, asked) => JudgeSource::Model(asked.expect("a judge that is no verifier is a model")),
    };
    let models = Models {
        model,
        engine: config.engine.clone(),
        generator: RoleConfig { role: generator, sampling: config.generator.sampling.clone() },
        critic: RoleConfig { role: critic, sampling: config.critic.sampling.clone() },
        refiner: RoleConfig { role: refiner, sampling: config.refiner.sampling.clone() },
        judges: Judges { verdicts, preferences },
        judging: config.judge.sampling.clone(),
        remotes,
        judge_model,
        deadline: Duration::from_secs(config.rollout.ask_deadline_seconds),
        events: events.clone(),
    };
    Ok((models, path))
}

/// Clients of the servers that `config` uses, with their keys.
fn remotes(config: &Config) -> Result<Remotes, Error> {
    let client = |config: Option<&RemoteConfig>| config.map(Client::new).transpose().map(|client| client.map(Arc::new));
    Ok(Remotes { generator: client(config.remote_generator())?, judge: client(config.remote_judge())? })
}

/// The judge's own model, where it has one, and the limits of its engine: those of the node's, but for the cache.
fn judge_model(config: &Config, device: &candle_core::Device) -> Result<Option<(Loaded, EngineConfig)>, Error> {
    let Some(source) = config.judge_model() else { return Ok(None) };
    let path = Source::parse(source)?.fetch()?;
    let engine = config.judge_engine();
    let model = crate::transformer::load::load_on(&path, device, engine.weights, false)?;
    model.template.present()?;
    Ok(Some((model, engine)))
}

/// Where the run keeps its groups, if it does. The digest of a model that lies on disk takes a pass over it.
fn recorder(config: &Config, run: &Path, model: &Path) -> Result<Option<Arc<GroupRecorder>>, Error> {
    let bytes_max = config.checkpoint.groups_mib.saturating_mul(1 << 20);
    if bytes_max == 0 {
        return Ok(None);
    }
    let origin =
        ModelId { name: config.model.source.clone(), sha256: Source::parse(&config.model.source)?.digest(model)? };
    Ok(Some(Arc::new(GroupRecorder::open(run, origin, bytes_max)?)))
}

/// In the synchronous mode one group is learned at a time, once, before the next episode begins.
fn one_by_one(mut config: Config) -> Config {
    if config.learner.synchronous {
        config.rollout.rollouts_max = 1;
        config.learner.groups_per_step = 1;
        config.replay.uses_max = 1;
    }
    config
}

/// The run directory, made where it is missing and held against other nodes.
pub(crate) fn lock(run: &Path) -> Result<File, Error> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    std::fs::create_dir_all(run).map_err(io(run))?;
    let path = run.join("lock");
    let file = File::create(&path).map_err(io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(run.to_owned())),
        Err(TryLockError::Error(source)) => Err(io(&path)(source)),
    }
}
