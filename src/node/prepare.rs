//! Prepares a run: lock, prompts, models, checkpoints and run state. Knows no actor but their context.
//!
//! Invariant: a run directory with checkpoints is resumed or left alone, never overwritten.

use super::error::Error;
use super::models::models;
use super::options::Options;
use crate::actors::failure::Failure;
use crate::actors::run_context::RunContext;
use crate::checkpoint;
use crate::config::Config;
use crate::episode::online_eval::OnlineEval;
use crate::formats::source::Source;
use crate::groups::GroupRecorder;
use crate::prompts::{self, PromptStream};
use crate::run::checkpoints::CheckpointStore;
use crate::run::events::EventBus;
use crate::run::state::RunState;
use crate::types::ModelId;
use crate::verify::Checker;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(super) type Prepared = (RunContext, RunState, File);

/// Prepares a run: its lock, prompts, models and state. Blocks on files, downloads and weights.
pub(super) fn prepare(config: Config, options: &Options, events: EventBus) -> Result<Prepared, Error> {
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
    let eval = online_eval(&config)?.map(Arc::new);
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
        eval,
        stop: options.stop.clone(),
        events,
    };
    let run_state = match options.resume {
        true => context.resumed(
            context.checkpoints.load_newest().map_err(Failure::from)?.ok_or(Error::NothingToResume(run))?.run_state,
        ),
        false => context.run_state(),
    };
    Ok((context, run_state, lock))
}

/// The evaluation of the critic in service, if `config` asks for one.
pub(super) fn online_eval(config: &Config) -> Result<Option<OnlineEval>, Error> {
    if config.eval.every_steps == 0 {
        return Ok(None);
    }
    let prompts: Vec<_> = prompts::load(&config.held_out())?.into_iter().take(config.eval.prompts).collect();
    let checker = Arc::new(Checker::open(&prompts, config.judge.role.allow_unsandboxed)?);
    let prompts = prompts.into_iter().map(Arc::new).collect();
    Ok(Some(OnlineEval { prompts, checker, config: config.eval.clone(), seed: config.node.seed }))
}

/// The recorder of scored groups, if `config` asks for one. The digest of a local model takes a pass over its file.
fn recorder(config: &Config, run: &Path, model: &Path) -> Result<Option<Arc<GroupRecorder>>, Error> {
    let bytes_max = config.checkpoint.groups_mib.saturating_mul(1 << 20);
    if bytes_max == 0 {
        return Ok(None);
    }
    let origin =
        ModelId { name: config.model.source.clone(), sha256: Source::parse(&config.model.source)?.digest(model)? };
    Ok(Some(Arc::new(GroupRecorder::open(run, origin, bytes_max)?)))
}

/// In synchronous mode one group is learned at a time, once, before the next episode begins.
fn one_by_one(mut config: Config) -> Config {
    if config.learner.synchronous {
        config.rollout.rollouts_max = 1;
        config.learner.groups_per_step = 1;
        config.replay.uses_max = 1;
    }
    config
}

/// Locks the run directory against other nodes, and creates it if it is missing.
///
/// # Errors
/// If another node holds it, or it cannot be used.
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
