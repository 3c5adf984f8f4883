//! `rco-node learn`: trains a critic offline, on recorded groups, without rollouts.
//!
//! The same groups, config and seed give the same critic, bit for bit, whether or not training was interrupted and
//! resumed. Checkpoints have the format of a node's. A step is taken whole or not at all: Ctrl-C takes effect after the
//! step in progress.

mod data;

use crate::checkpoint;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::model::load_model;
use crate::cli::output::{note_skipped, print_line, print_note};
use crate::cli::signals;
use crate::config::Config;
use crate::formats::source::Source;
use crate::groups::{self, RecordedGroup};
use crate::learner::{self, FailureStreak, Learner, LearnerConfig, Report, State};
use crate::node;
use crate::replay::Replay;
use crate::run::checkpoints::CheckpointStore;
use crate::run::figures;
use crate::run::state::RunState;
use crate::tracking::{Environment, FigureWriter, Line};
use crate::transformer::load::Loaded;
use crate::types::{CriticVersion, CritiqueGroup, ModelId};
use crate::{device, telemetry, transformer};
use anyhow::Context;
use clap::Args;
use data::{Data, Identity};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The arguments of `learn`.
#[derive(Debug, Args)]
pub(super) struct LearnArguments {
    /// A run directory, or a file of groups.
    #[arg(long, value_name = "RUN|FILE")]
    from: PathBuf,
    /// Learner steps, those before a resume included.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// The run directory to write checkpoints to: every learner.publish_every_steps, and at the end.
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// Go on from the newest whole checkpoint of --out.
    #[arg(long)]
    resume: bool,
    /// Share of the groups that is held out: never learned from. Loss and weighted utility on them are reported with each
    /// checkpoint.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    hold_out: f64,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// The file in --out that identifies the run, for a resume.
const IDENTITY: &str = "learn.json";
/// Time between two progress notes on standard error.
const NOTE_INTERVAL: Duration = Duration::from_secs(10);
/// Batch numbers of offline runs start after this, so that they differ from those of a node that continues from a
/// checkpoint.
const FIRST_BATCH: u64 = 1 << 62;

/// How long the end of a run waits for its last figures to be written.
const FIGURES_PATIENCE: Duration = Duration::from_secs(5);

/// The JSON line of a step.
#[derive(Serialize)]
struct StepLine<'a> {
    #[serde(flatten)]
    report: &'a Report,
    epochs: f64,
    seconds: f64,
}

/// The JSON line on the held-out groups.
#[derive(Serialize)]
struct HeldOutLine {
    step: u64,
    held_out_loss: f32,
    held_out_utility: f32,
    held_out_groups: usize,
}

/// Runs the command.
///
/// # Errors
/// If groups, config and model do not match, --out is in use, or a checkpoint cannot be read or written.
pub(super) fn run(mut config: Config, arguments: &LearnArguments) -> Result<Exit, CommandError> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    let found = groups::read(&arguments.from).context("--from").or_exit(Exit::Usage)?;
    note_skipped(&found);
    let model_id = same_model(&config, &arguments.from, &found.groups)?;
    let (size, seed) = (config.learner.groups_per_step, config.node.seed);
    let data = Data::new(found.groups, config.learner.objective, size, arguments.hold_out, seed)
        .with_context(|| arguments.from.display().to_string())
        .or_exit(Exit::Usage)?;
    print_note(&format!(
        "{} groups to learn from, {} held out, {} of zero variance skipped",
        data.len(),
        data.held_out.len(),
        data.zero_variance
    ));
    config.node.run_directory = arguments.out.display().to_string();
    let _lock = node::lock(&arguments.out).map_err(of_node)?;
    let root = arguments.out.join("checkpoints");
    occupy(&arguments.out, &root, arguments.resume, &data.identity)?;
    let model = load_model(&config, node::learning_precisions(&config))?;
    let spec = model.transformer.spec().clone();
    let text = toml::to_string(&config)?;
    let checkpoints =
        CheckpointStore::new(root, spec, config.model.source.clone(), config.checkpoint.clone(), text.clone());
    let process = Environment {
        device: transformer::device::name(&model.transformer.device()),
        ..Environment::of_process("learn", &model_id)
    };
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async { signals::watch(stop.clone()) })?;
    let offline_run =
        OfflineRun { config, arguments, data, model, checkpoints, stop, process, text, figures: OnceLock::new() };
    let exit = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("rco-learn".into()).stack_size(device::STACK_BYTES);
        let thread = thread.spawn_scoped(scope, || offline_run.run())?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    runtime.shutdown_background();
    exit
}

fn of_node(error: node::Error) -> CommandError {
    CommandError { exit: error.exit(), error: error.into() }
}

/// The config's model. Refuses groups that were recorded with another one.
fn same_model(config: &Config, from: &Path, groups: &[RecordedGroup]) -> Result<ModelId, CommandError> {
    let source = Source::parse(&config.model.source).or_exit(Exit::Usage)?;
    let path = source.fetch().or_exit(Exit::Model)?;
    let sha256 = source.digest(&path).or_exit(Exit::Model)?;
    match groups.iter().find(|recorded| recorded.model.sha256 != sha256) {
        None => Ok(ModelId { name: config.model.source.clone(), sha256 }),
        Some(recorded) => Err(anyhow::anyhow!(
            "{}: expected groups of model.source {source} (sha256 {sha256}), got some of {}",
            from.display(),
            recorded.model
        ))
        .or_exit(Exit::Usage),
    }
}

/// Claims an empty directory, or checks that it holds the run to resume.
fn occupy(out: &Path, root: &Path, resume: bool, identity: &Identity) -> Result<(), CommandError> {
    checkpoint::remove_leftovers(root).or_exit(Exit::Checkpoint)?;
    let occupied = !checkpoint::list(root).or_exit(Exit::Checkpoint)?.is_empty();
    match (resume, occupied) {
        (false, true) => return Err(of_node(node::Error::Occupied(out.to_owned()))),
        (true, false) => return Err(of_node(node::Error::NothingToResume(out.to_owned()))),
        _ => {}
    }
    let path = out.join(IDENTITY);
    let name = path.display().to_string();
    if !resume {
        let text = serde_json::to_vec_pretty(identity)?;
        return std::fs::write(&path, text).context(name).or_exit(Exit::Usage);
    }
    let text = std::fs::read(&path).with_context(|| name.clone()).or_exit(Exit::Usage)?;
    let before: Identity = serde_json::from_slice(&text).with_context(|| name.clone()).or_exit(Exit::Usage)?;
    match identity.difference(&before) {
        None => Ok(()),
        Some(difference) => Err(anyhow::anyhow!("{name}: {difference}")).or_exit(Exit::Usage),
    }
}

/// A training run on recorded groups.
struct OfflineRun<'a> {
    config: Config,
    arguments: &'a LearnArguments,
    data: Data,
    model: Loaded,
    checkpoints: CheckpointStore,
    stop: CancellationToken,
    /// This process, before it is known where it goes on from.
    process: Environment,
    /// The resolved config.
    text: String,
    /// Where figures go, once it is known which are to be kept.
    figures: OnceLock<FigureWriter>,
}

impl OfflineRun<'_> {
    fn run(&self) -> Result<Exit, CommandError> {
        let (mut learner, mut version) = self.begin()?;
        let (mut batch, mut saved) = (self.batches_done(&learner)?, learner.step());
        self.track(learner.step())?;
        if learner.step() == 0 {
            self.report_held_out(&learner)?;
        }
        let (mut streak, mut last_note) = (FailureStreak::default(), Instant::now());
        while learner.step() < self.arguments.steps && !self.stop.is_cancelled() {
            let started = Instant::now();
            match learner.step_on(FIRST_BATCH + batch + 1, self.data.batch(batch)) {
                Ok(report) => {
                    streak.reset();
                    self.tell_step(&report, batch + 1, started.elapsed());
                }
                Err(error) if error.is_refusal() && !streak.is_over_with_one_more() => {
                    print_note(&format!("skipped a batch: {error}"));
                }
                Err(error) => {
                    self.save(&learner, &mut version, &mut saved)?;
                    return Err(error.into());
                }
            }
            batch += 1;
            if last_note.elapsed() >= NOTE_INTERVAL {
                last_note = Instant::now();
                print_note(&format!("step {} of {}", learner.step(), self.arguments.steps));
            }
            if self.config.learner.is_publication_due(learner.step(), saved) {
                self.save(&learner, &mut version, &mut saved)?;
            }
        }
        self.save(&learner, &mut version, &mut saved)?;
        if self.figures.get().is_some_and(|figures| !figures.flush(FIGURES_PATIENCE)) {
            print_note("the last figures of the run were not written");
        }
        Ok(Exit::Done)
    }

    /// Begins the files that say what the run is and how it goes; it goes on from `step` if it is resumed.
    fn track(&self, step: u64) -> Result<(), CommandError> {
        let (out, resumed_from) = (&self.arguments.out, self.arguments.resume.then_some(step));
        node::note_process(out, &self.text, &Environment { resumed_from, ..self.process.clone() })
            .or_exit(Exit::Usage)?;
        let writer = FigureWriter::open(out, &self.config.tracking, resumed_from).or_exit(Exit::Usage)?;
        writer.into_iter().for_each(|writer| drop(self.figures.set(writer)));
        Ok(())
    }

    /// Writes figures, if they are to be written.
    fn record(&self, line: impl FnOnce() -> Line) {
        if let Some(figures) = self.figures.get() {
            figures.append(line());
        }
    }

    /// A new learner, or that of the newest checkpoint; and the version of its weights.
    fn begin(&self) -> Result<(Learner, CriticVersion), CommandError> {
        let Config { learner: config, critic, node, .. } = &self.config;
        let (model, temperature) = (self.model.transformer.clone(), critic.sampling.temperature);
        if !self.arguments.resume {
            return Ok((Learner::new(model, config.clone(), temperature, node.seed)?, CriticVersion::BASE));
        }
        let restored = self.checkpoints.load_newest().or_exit(Exit::Checkpoint)?;
        let restored = restored.ok_or_else(|| of_node(node::Error::NothingToResume(self.arguments.out.clone())))?;
        let learner =
            Learner::resume(model, config.clone(), temperature, restored.learner).or_exit(Exit::Checkpoint)?;
        print_note(&format!("going on from step {}", learner.step()));
        Ok((learner, restored.run_state.version))
    }

    /// The number of batches that the learner has seen.
    fn batches_done(&self, learner: &Learner) -> Result<u64, CommandError> {
        let last = learner.batch();
        let done = if learner.step() == 0 { Some(0) } else { last.checked_sub(FIRST_BATCH) };
        done.with_context(|| {
            format!("{}: expected a checkpoint of `learn`, got one of a node", self.checkpoints.root.display())
        })
        .or_exit(Exit::Usage)
    }

    /// Writes a checkpoint unless this step is saved already, and reports the critic's results on the held-out groups.
    fn save(&self, learner: &Learner, version: &mut CriticVersion, saved: &mut u64) -> Result<(), CommandError> {
        let step = learner.step();
        if step == *saved {
            return Ok(());
        }
        let (state, started) = (learner.state(), Instant::now());
        *version = CriticVersion(version.0 + 1);
        let Config { replay, learner: config, node, .. } = &self.config;
        let mut run_state =
            RunState::new(Replay::new(replay.clone(), config.objective, config.groups_per_step, node.seed));
        run_state.step = step;
        run_state.published(*version, step);
        run_state.enters_service(*version, Some(state.critic.clone()));
        self.checkpoints.save(state, run_state).or_exit(Exit::Checkpoint)?;
        *saved = step;
        self.record(|| figures::of_checkpoint(step, started.elapsed().as_secs_f64()));
        print_note(&format!("saved step {step} in {}", self.checkpoints.root.display()));
        self.report_held_out(learner)
    }

    /// Prints and records a step.
    fn tell_step(&self, report: &Report, batches: u64, took: Duration) {
        let (epochs, seconds) = (self.data.epochs(batches), took.as_secs_f64());
        self.record(|| {
            let mut line = figures::of_step(report, seconds);
            line.add("learner/epochs", epochs);
            line
        });
        if self.arguments.json {
            let line = StepLine { report, epochs, seconds };
            return print_line(&serde_json::to_string(&line).expect("a report is plain numbers"));
        }
        print_line(&format!(
            "step {}, epoch {epochs:.2}: loss {:.6}, gradient norm {:.4}, mean log-ratio {:+.4}, {} tokens in {seconds:.2} s",
            report.step, report.loss, report.gradient_norm, report.off_policy.log_ratio_mean, report.tokens
        ));
    }

    /// Reports loss and utility on the held-out groups, if there are any.
    fn report_held_out(&self, learner: &Learner) -> Result<(), CommandError> {
        let groups = self.data.held_out.clone();
        if groups.is_empty() {
            return Ok(());
        }
        let (step, held_out_groups) = (learner.step(), groups.len());
        let Report { loss: held_out_loss, weighted_utility: held_out_utility, .. } =
            self.evaluate(learner.state(), groups)?;
        self.record(|| {
            let mut line = Line::now(step);
            line.add("held_out/loss", held_out_loss);
            line.add("held_out/utility", held_out_utility);
            line.add("held_out/groups", held_out_groups as f64);
            line
        });
        let line = HeldOutLine { step, held_out_loss, held_out_utility, held_out_groups };
        match self.arguments.json {
            true => print_line(&serde_json::to_string(&line).expect("plain numbers")),
            false => print_line(&format!(
                "step {step}: loss {held_out_loss:.6}, weighted utility {held_out_utility:.4} on {held_out_groups} groups held out"
            )),
        }
        Ok(())
    }

    /// Evaluates `state` on all critiques of `groups`: the report of a step that a copy of the learner takes and discards.
    fn evaluate(&self, state: State, groups: Vec<Arc<CritiqueGroup>>) -> Result<Report, learner::Error> {
        let temperature = self.config.critic.sampling.temperature;
        let config = LearnerConfig { critiques_max: 0, ..self.config.learner.clone() };
        let mut copy = Learner::resume(self.model.transformer.clone(), config, temperature, state)?;
        copy.step_on(u64::MAX, groups)
    }
}
