//! Prepares a run: lock, prompts, models, checkpoints and run state. Starts no actor; builds the context that they start from.
//!
//! Invariant: a run directory with checkpoints is resumed or left alone, never overwritten.

use super::changes::{Change, changes};
use super::error::Error;
use super::identity::Identity;
use super::memory_plan::{MemoryPlan, check_context, check_memory};
use super::models::{checker, models, note_peak};
use super::options::Options;
use super::published_settings;
use super::too_long::{self, Ruler};
use super::track::{RESOLVED_CONFIG, track};
use crate::actors::failure::Failure;
use crate::actors::gates::{Handles, Pauses};
use crate::actors::run_context::RunContext;
use crate::checkpoint::{self, CheckpointEntry};
use crate::config::Config;
use crate::disk;
use crate::episode::canary::Canary;
use crate::episode::models::Models;
use crate::episode::online_eval::OnlineEval;
use crate::formats::source::Source;
use crate::formats::tokenizer::{Pieces, Tokenizer};
use crate::groups::{self, GroupRecorder};
use crate::learner::Learner;
use crate::prompts::PromptStream;
use crate::records::{self, EpisodeRecorder};
use crate::roles::judge::JudgeKind;
use crate::run::checkpoints::CheckpointStore;
use crate::run::critics::CriticRegistry;
use crate::run::events::EventBus;
use crate::run::journal::{self, Journal, Record};
use crate::run::memory::resident_bytes;
use crate::run::state::RunState;
use crate::telemetry::metrics::MemoryOwner;
use crate::types::{ModelId, Prompt};
use crate::verify;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

pub(super) type Prepared = (RunContext, RunState, File);

/// Prepares a run: its lock, prompts, models and state. Blocks on files, downloads and weights.
pub(super) fn prepare(config: Config, options: &Options, events: EventBus) -> Result<Prepared, Error> {
    let config = one_by_one(config);
    let run = PathBuf::from(&config.node.run_directory);
    let lock = lock(&run)?;
    let root = run.join("checkpoints");
    checkpoint::remove_leftovers(&root)?;
    check_free(&run, &root, options.resume)?;
    tell_steps(&run, &root, options)?;
    let (prompts, identity, text) = checked(&config, options, &run)?;
    published_settings::publish(&config, &prompts);
    let eval = online_eval(&config)?.map(Arc::new);
    let canary_eval = held_out_eval(&config, config.swap.canary_prompts)?.map(Arc::new);
    let (models, path) = models(&config, prompts.prompts(), options.judge.as_ref(), &events, true)?;
    let prompts = fitted(prompts, &config, &models)?;
    let spec = models.model.transformer.spec().clone();
    if !options.resume {
        Learner::check_start(&config.learner, &spec)?;
    }
    note_memory(&models, &config, &events)?;
    note_peak(&models);
    let source = &config.model.source;
    let origin = ModelId { name: source.clone(), sha256: Source::parse(source)?.digest(&path)? };
    let (base, canary) = (origin.clone(), Canary::new(&models, prompts.prompts()));
    let identity = identity.with_files(origin.sha256.clone(), &models.model.template, prompts.prompts());
    identity.claim(&run, options.resume)?;
    let recorder = recorder(&config, &run, origin)?;
    let (journal, records) = Journal::open(&run, recorder.clone())?;
    let registry =
        CriticRegistry::open(&run, spec.clone(), source.clone(), base.sha256.clone()).map_err(Failure::from)?;
    let (critics, registry) = (registry.follow(), Arc::new(Mutex::new(registry)));
    let episodes = episode_recorder(&config, &run, &models.model.tokenizer)?;
    let checkpoints = CheckpointStore::new(root, spec, source.clone(), config.checkpoint.clone(), text.clone());
    let context = RunContext {
        models: Arc::new(models),
        seed: config.node.seed,
        prompts: Arc::new(prompts),
        critique_preferences: config.judge.role.critique_preferences,
        replay: config.replay,
        learner_steps_max: options.learner_steps,
        supervisor: config.supervisor,
        drain: Duration::from_secs(config.node.drain_seconds),
        checkpoints: Arc::new(checkpoints),
        journal: Arc::new(journal),
        records: episodes,
        eval,
        registry,
        critics,
        canary: Arc::new(canary),
        canary_eval,
        swap: config.swap,
        share: watch::channel(None).0,
        tuned: Mutex::new(config.learner.clone()),
        rollouts_max: watch::channel(config.rollout.rollouts_max).0,
        rollout: config.rollout,
        learner: config.learner,
        http_share: config.http.share,
        pauses: Pauses::default(),
        handles: watch::channel(Handles::default()).0,
        base,
        stall: config.device.stall(),
        stop: options.stop.clone(),
        events,
    };
    if let (true, Some(recorder)) = (options.resume, &recorder) {
        record_missing(recorder, &run, &records)?;
    }
    let run_state = if options.resume { recovered(&context, &run, records)? } else { context.run_state() };
    track(&context, &run, &config.tracking, &text, options.resume.then_some(run_state.step))?;
    Ok((context, run_state, lock))
}

/// Checks that the run directory `run`, with its checkpoints in `root`, holds something to resume, or nothing.
fn check_free(run: &Path, root: &Path, resume: bool) -> Result<(), Error> {
    let resumable = !checkpoint::list(root)?.is_empty() || journal::has_records(run)?;
    match resume {
        true if !resumable => Err(Error::NothingToResume(run.to_owned())),
        false if resumable || groups::is_recorded(run)? || records::is_recorded(run)? => {
            Err(Error::Occupied(run.to_owned()))
        }
        _ => Ok(()),
    }
}

/// The prompts, the run's identity as far as the config decides it, and the config's text: all that can be checked before a model
/// is loaded.
fn checked(config: &Config, options: &Options, run: &Path) -> Result<(PromptStream, Identity, String), Error> {
    let identity = Identity::of_config(config);
    let text = toml::to_string(config).map_err(|error| Error::Config(error.to_string()))?;
    if options.resume {
        identity.check(run)?;
        tell_changes(run, &text);
    }
    let prompts = PromptStream::open(&config.prompts, config.node.seed)?;
    if options.judge.is_none() {
        check_verifiers(config, prompts.prompts())?;
    }
    Ok((prompts, identity, text))
}

/// The stream of the prompts that leave room for an answer.
fn fitted(prompts: PromptStream, config: &Config, models: &Models) -> Result<PromptStream, Error> {
    let (file, how) = (config.prompts.file.as_str(), config.prompts.too_long);
    let ruler = Ruler::new(config, &models.model.template, &models.model.tokenizer)?;
    let kept = too_long::fitted(prompts.prompts(), how, &ruler, file)?;
    Ok(prompts.with(kept, file)?)
}

/// Says so if the run has taken the steps that are asked for already: it then ends at once.
fn tell_steps(run: &Path, root: &Path, options: &Options) -> Result<(), Error> {
    let Some(asked) = options.learner_steps.filter(|_| options.resume) else { return Ok(()) };
    let whole = checkpoint::list(root)?.into_iter().find(|entry| entry.manifest().is_file());
    if let Some(CheckpointEntry { step, .. }) = whole.filter(|entry| entry.step >= asked) {
        let run = run.display();
        tracing::warn!(
            "{run} has taken {step} learner steps already: --learner-steps counts from the beginning of the run, so {asked} leaves \
             nothing to do; give more than {step} to go on"
        );
    }
    Ok(())
}

/// Checks that a verifier can check an answer to each of the prompts, where it is the judge.
///
/// # Errors
/// If it cannot: every verdict on such a prompt would be invalid.
pub(super) fn check_verifiers(config: &Config, prompts: &[Prompt]) -> Result<(), Error> {
    if config.judge.role.kind != JudgeKind::Verifier {
        return Ok(());
    }
    let mut unfit = prompts.iter().filter_map(|prompt| Some((&prompt.id, verify::complaint(prompt)?)));
    let Some((id, complaint)) = unfit.next() else { return Ok(()) };
    let (file, count, of) = (config.prompts.file.clone(), 1 + unfit.count(), prompts.len());
    Err(Error::Unchecked { file, count, of, id: id.clone(), complaint })
}

/// Logs what the config of this process, whose text is `now`, has changed since the last process of the run.
fn tell_changes(run: &Path, now: &str) {
    let before = disk::read_text(&run.join(RESOLVED_CONFIG), checkpoint::CONFIG_BYTES_MAX);
    // A run of an older program, or one that died early, has none: then nothing can be compared.
    let (Some(before), Ok(now)) = (before.ok().and_then(|text| text.parse().ok()), now.parse()) else { return };
    let changes = changes(&before, &now);
    let not_set = || "not set".to_owned();
    for Change { key, before, now } in &changes {
        let [before, now] = [before, now].map(|value| value.clone().unwrap_or_else(not_set));
        tracing::info!(key, before, now, "changed since the last process of this run: holds from now on");
    }
    if changes.is_empty() {
        tracing::info!("resuming with the config of the last process");
    }
}

/// Notes what the weights take and what the rest is planned to take.
///
/// # Errors
/// If there is not the memory for the plan, as `check` says.
fn note_memory(models: &Models, config: &Config, events: &EventBus) -> Result<(), Error> {
    let transformer = &models.model.transformer;
    let device = transformer.device();
    let mut plan = MemoryPlan::new(transformer.spec(), transformer.bytes(), config, &device);
    let mut weights = transformer.bytes();
    if let Some((judge, engine)) = &models.judge_model {
        let judge = &judge.transformer;
        weights += judge.bytes();
        plan = plan.with_judge(judge.spec(), judge.bytes(), engine, &device);
        let why = check_context(judge.spec(), engine, &device, "judge.kv_cache_mib");
        why.map_err(|why| Error::Memory(why.to_string()))?;
    }
    events.memory().holds(MemoryOwner::Weights, weights);
    plan.by_owner().for_each(|(owner, bytes)| events.memory().plan(owner, bytes));
    let resident = resident_bytes().filter(|_| device.is_cpu()).map_or(weights, |bytes| bytes as usize);
    let held = resident.clamp(weights, plan.total().max(weights));
    check_memory(&plan, transformer.spec(), config, &device, held).map_err(|why| Error::Memory(why.to_string()))
}

/// The run state of the newest checkpoint, or of the beginning, with what the journal holds since.
fn recovered(context: &RunContext, run: &Path, records: Vec<(u64, Record)>) -> Result<RunState, Error> {
    let restored = context.checkpoints.load_newest().map_err(Failure::from)?;
    if restored.is_none()
        && records.is_empty()
        && let Some(newest) = checkpoint::list(&run.join("checkpoints"))?.first()
    {
        // A run must not begin again in silence: this says what is wrong with its newest checkpoint.
        checkpoint::load(&newest.path, context.models.model.transformer.spec())?;
    }
    let saved = restored.map_or_else(|| context.run_state(), |restored| restored.run_state);
    let mut run_state = saved.clone();
    run_state.replay_records(records).map_err(|missing| Error::JournalGap { run: run.to_owned(), missing })?;
    let mut run_state = context.resumed(run_state);
    run_state.rewind(&saved);
    context.serve_registered(&mut run_state).map_err(Failure::from)?;
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
    let prompts = if config.eval.every_steps == 0 { 0 } else { config.eval.prompts };
    held_out_eval(config, prompts)
}

/// An evaluation on the first `count` held-out prompts; none if that is 0.
fn held_out_eval(config: &Config, count: usize) -> Result<Option<OnlineEval>, Error> {
    if count == 0 {
        return Ok(None);
    }
    let prompts: Vec<_> = config.prompts.load("eval.file", &config.held_out())?.into_iter().take(count).collect();
    let checker = Arc::new(checker(config, &prompts)?);
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

/// The recorder of episodes, if `config` asks for one.
fn episode_recorder(config: &Config, run: &Path, tokenizer: &Tokenizer) -> Result<Option<Arc<EpisodeRecorder>>, Error> {
    let Some(bytes_max) = config.episodes.file_bytes_max() else { return Ok(None) };
    let tokenizer = tokenizer.clone();
    let split = move |ids: &[u32]| {
        let mut pieces = Pieces::new(&tokenizer);
        // A token without a text shows as U+FFFD: its log-probability is still worth seeing.
        let text = |id: &u32| pieces.next(*id).unwrap_or_else(|_| char::REPLACEMENT_CHARACTER.to_string());
        ids.iter().map(text).collect()
    };
    Ok(Some(Arc::new(EpisodeRecorder::open(run, bytes_max, Box::new(split))?)))
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
