//! Prepares a run: lock, prompts, models, checkpoints and run state. Starts no actor; builds the context that they start from.
//!
//! Invariant: a run directory with checkpoints is resumed or left alone, never overwritten.

use super::error::Error;
use super::identity::Identity;
use super::models::models;
use super::options::Options;
use crate::actors::failure::Failure;
use crate::actors::run_context::RunContext;
use crate::checkpoint;
use crate::config::Config;
use crate::episode::online_eval::OnlineEval;
use crate::formats::source::Source;
use crate::groups::{self, GroupRecorder};
use crate::prompts::{self, PromptStream};
use crate::run::checkpoints::CheckpointStore;
use crate::run::events::EventBus;
use crate::run::journal::{self, Journal, Record};
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
    let resumable = !checkpoint::list(&root)?.is_empty() || journal::has_records(&run)?;
    match options.resume {
        true if !resumable => return Err(Error::NothingToResume(run)),
        false if resumable || groups::is_recorded(&run)? => return Err(Error::Occupied(run)),
        _ => {}
    }
    let prompts = PromptStream::open(&config.prompts, config.node.seed)?;
    let eval = online_eval(&config)?.map(Arc::new);
    let text = toml::to_string(&config).map_err(|error| Error::Config(error.to_string()))?;
    let (models, path) = models(&config, prompts.prompts(), options.judge.as_ref(), &events, true)?;
    let spec = models.model.transformer.spec().clone();
    let source = &config.model.source;
    let origin = ModelId { name: source.clone(), sha256: Source::parse(source)?.digest(&path)? };
    let identity = Identity::new(&config, origin.sha256.clone(), &models.model.template, prompts.prompts());
    if options.resume {
        identity.check(&run)?;
    }
    identity.write(&run)?;
    let recorder = recorder(&config, &run, origin)?;
    let (journal, records) = Journal::open(&run, recorder.clone())?;
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
        journal: Arc::new(journal),
        eval,
        stop: options.stop.clone(),
        events,
    };
    if let (true, Some(recorder)) = (options.resume, &recorder) {
        record_missing(recorder, &run, &records)?;
    }
    let run_state = if options.resume { recovered(&context, &run, records)? } else { context.run_state() };
    Ok((context, run_state, lock))
}

/// The run state of the newest checkpoint, or of the beginning, with what the journal holds since.
fn recovered(context: &RunContext, run: &Path, records: Vec<(u64, Record)>) -> Result<RunState, Error> {
    let restored = context.checkpoints.load_newest().map_err(Failure::from)?;
    let saved = restored.map_or_else(|| context.run_state(), |restored| restored.run_state);
    let mut run_state = saved.clone();
    run_state.replay_records(records).map_err(|missing| Error::JournalGap { run: run.to_owned(), missing })?;
    let mut run_state = context.resumed(run_state);
    run_state.rewind(&saved);
    Ok(run_state)
}

/// Records the groups that the journal has and the run's file of groups lacks: the process died between the two.
fn record_missing(recorder: &GroupRecorder, run: &Path, records: &[(u64, Record)]) -> Result<(), Error> {
    let groups: Vec<_> = records.iter().filter_map(|(_, record)| record.group()).collect();
    if groups.is_empty() {
        return Ok(());
    }
    let recorded = groups::recorded_episodes(run)?;
    for group in groups.into_iter().filter(|group| !recorded.contains(&group.episode)) {
        recorder.append(&recorder.line(group))?;
    }
    Ok(())
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

/// The recorder of scored groups, if `config` asks for one.
fn recorder(config: &Config, run: &Path, origin: ModelId) -> Result<Option<Arc<GroupRecorder>>, Error> {
    let bytes_max = config.checkpoint.groups_mib.saturating_mul(1 << 20);
    if bytes_max == 0 {
        return Ok(None);
    }
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
