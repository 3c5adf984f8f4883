//! `rco-node eval`: held-out prompts through several critics side by side, and what each is worth.
//!
//! Prompts are examined some at a time, in whatever order they end; the figures are made of all records in the file's
//! order, and are the same however many were under way.

mod reporter;
mod spec;
mod store;

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::output::print_line;
use crate::config::Config;
use crate::device::Device;
use crate::episode::eval_runner::{Candidate, EvalRunner};
use crate::episode::models::Models;
use crate::episode::sampling::SampleError;
use crate::eval::figures::Figures;
use crate::eval::{Record, plot, table};
use crate::node;
use crate::run::events::EventBus;
use crate::telemetry;
use crate::types::CriticVersion;
use crate::verify::Checker;
use anyhow::Context;
use clap::Args;
use reporter::Reporter;
use spec::EvalSpec;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use store::Store;

/// What `eval` takes.
#[derive(Debug, Args)]
pub(super) struct EvalArguments {
    /// A critic, as WHICH or NAME=WHICH: base, empty, self, oracle, an adapter's, a checkpoint's or a run's folder,
    /// RUN@STEP or RUN@best; may be repeated, and the others are compared with the first [default: base, empty, self, and oracle
    /// where answers are known].
    #[arg(long = "critic", value_name = "CRITIC")]
    critics: Vec<String>,
    /// Held-out prompts: a JSONL file or bundled:NAME [default: eval.file, else the held-out twin of prompts.file].
    #[arg(long, value_name = "FILE")]
    data: Option<String>,
    /// Only the first so many prompts.
    #[arg(long, value_name = "PROMPTS", value_parser = at_least_one)]
    limit: Option<usize>,
    /// N: critiques of a response [default: eval.critiques].
    #[arg(long, value_parser = at_least_one)]
    n: Option<usize>,
    /// M: refinements of a critique [default: eval.refinements].
    #[arg(long, value_parser = at_least_one)]
    m: Option<usize>,
    /// Rounds of refinement: each criticises and refines the first refinement of the round before.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    rounds: usize,
    /// Of all that is drawn, resamples included.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
    /// Keep a line for every finished prompt in this folder, and go on from what is there.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Draw utilities and accuracies with their intervals, as SVG.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err(format!("expected a number of at least 1, got {text:?}")),
    }
}

/// Runs the command.
///
/// # Errors
/// Where critics or prompts cannot be used, the model cannot be loaded, or the device breaks.
pub(super) fn run(config: &Config, arguments: &EvalArguments) -> Result<Exit, CommandError> {
    let live = telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    let asked = EvalSpec::new(config, arguments)?;
    let checker = Checker::open(&asked.prompts, config.judge.role.allow_unsandboxed).or_exit(Exit::Usage)?;
    let (models, model) = node::models(config, &asked.prompts, None, &EventBus::silent(), false)
        .map_err(|error| CommandError { exit: error.exit(), error: error.into() })?;
    let open = |folder: &PathBuf| Store::open(folder, &asked.manifest(config, &model)?, &asked);
    let (kept, found) = arguments.out.as_ref().map(open).transpose()?.unzip();
    let candidates = asked.candidates(config, models.model.transformer.spec())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let begun = Instant::now();
    let found = found.unwrap_or_default();
    let told = Reporter::new(&live, asked.prompts.len() - found.len(), kept);
    let ended = runtime.block_on(examine(models, checker, candidates, &asked, found, told));
    // A device thread that does not end must not hold the process.
    runtime.shutdown_background();
    let Examined { records, dropped } = ended?;
    let figures = Figures::of(&records, asked.figures());
    let result = reporter::EvalOutput { asked: &asked, dropped, seconds: begun.elapsed().as_secs_f64(), figures };
    if arguments.json {
        print_line(&result.json());
    } else {
        print_line(&result.head());
        table::lines(&result.figures).iter().for_each(|line| print_line(line));
    }
    if let Some(path) = &arguments.plot {
        let drawn = plot::svg(&result.figures, &result.title());
        std::fs::write(path, drawn).with_context(|| path.display().to_string()).or_exit(Exit::Failed)?;
    }
    Ok(Exit::Done)
}

/// What came of all prompts.
struct Examined {
    /// In the order of the file.
    records: Vec<Record>,
    /// Prompts whose response was not written.
    dropped: usize,
}

/// Every prompt through every candidate.
async fn examine(
    models: Models,
    checker: Checker,
    candidates: Vec<Candidate>,
    asked: &EvalSpec,
    mut records: BTreeMap<u64, Record>,
    mut told: Reporter,
) -> Result<Examined, CommandError> {
    let device = Device::start(models.setup(None, CriticVersion::BASE, None)).await?;
    let exam = Arc::new(EvalRunner {
        models: Arc::new(models),
        device: device.clone(),
        checker: Arc::new(checker),
        candidates,
        config: asked.config.clone(),
        rounds: asked.rounds,
        seed: asked.seed,
        events: EventBus::silent(),
    });
    let prompts = (0..).zip(asked.prompts.iter().cloned().map(Arc::new));
    let mut sitting = exam.sit_all(prompts.filter(|(place, _)| !records.contains_key(place)));
    let mut dropped = 0;
    while let Some(ended) = sitting.join_next().await {
        match ended? {
            (place, Ok(record)) => {
                told.ended(&record)?;
                records.insert(place, record);
            }
            (place, Err(trouble @ (SampleError::Deadline | SampleError::TooLong | SampleError::Remote(_)))) => {
                tracing::warn!(prompt = asked.prompts[place as usize].id, %trouble, "no response");
                dropped += 1;
            }
            (_, Err(SampleError::Gone)) => {
                let why = device.ended().await.unwrap_or_else(|| "the device thread ended".to_owned());
                return Err(anyhow::anyhow!(why)).or_exit(Exit::Device);
            }
            (_, Err(trouble @ SampleError::Broken(_))) => return Err(trouble.into()),
        }
    }
    device.stop();
    Ok(Examined { records: records.into_values().collect(), dropped })
}
