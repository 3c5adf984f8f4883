//! `rco-node eval`: evaluates several critics on the same held-out prompts.
//!
//! Several prompts run at a time and end in any order. The figures are computed from all records in the order of the file,
//! so they do not depend on how many ran at once.

mod arguments;
mod reporter;
mod spec;
mod store;

use crate::cli::device_watch;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::output::print_line;
use crate::config::Config;
use crate::device::Device;
use crate::engine::EngineConfig;
use crate::episode::eval_runner::{Candidate, EvalRunner};
use crate::episode::models::Models;
use crate::episode::sampling::SampleError;
use crate::eval::figures::Figures;
use crate::eval::{Record, plot, table};
use crate::kernels::{self, KvPrecision};
use crate::node;
use crate::run::events::EventBus;
use crate::telemetry;
use crate::transformer::device;
use crate::types::CriticVersion;
use crate::verify::Checker;
use anyhow::{Context, anyhow};
pub(super) use arguments::EvalArguments;
use reporter::Reporter;
use spec::EvalSpec;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Store;

/// How long a device thread that has dropped a request may take to end and say why.
const ENDS: Duration = Duration::from_secs(10);

/// Runs the command.
///
/// # Errors
/// If critics or prompts cannot be used, the model cannot be loaded, or the device fails.
pub(super) fn run(config: &Config, arguments: &EvalArguments) -> Result<Exit, CommandError> {
    let live = telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    let spec = EvalSpec::new(config, arguments)?;
    check_plot(arguments.plot.as_deref()).or_exit(Exit::Usage)?;
    let checker = node::checker(config, &spec.prompts).or_exit(Exit::Usage)?;
    let (models, model) = node::models(config, &spec.prompts, None, &EventBus::silent(), false)
        .map_err(|error| CommandError { exit: error.exit(), error: error.into() })?;
    let open = |folder: &PathBuf| Store::open(folder, &spec.manifest(config, &model)?, &spec);
    let (store, found) = arguments.out.as_ref().map(open).transpose()?.unzip();
    let candidates = spec.candidates(config, models.model.transformer.spec())?;
    let machine = machine(&models.model.transformer.device(), config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let started = Instant::now();
    let found = found.unwrap_or_default();
    let reporter = Reporter::new(&live, spec.prompts.len() - found.len(), store);
    let stall = config.device.stall();
    let ended = runtime.block_on(async {
        let device = device_watch::start(models.setup(None, CriticVersion::BASE, None), stall).await?;
        tokio::select! {
            ended = evaluate(&device, models, checker, candidates, &spec, found, reporter) => ended,
            error = device_watch::stalled(&device, stall, |_| ()) => Err(error),
        }
    });
    // A device thread that does not end must not keep the process alive.
    runtime.shutdown_background();
    let Evaluated { records, dropped } = ended?;
    let figures = Figures::of(&records, spec.figures());
    let result =
        reporter::EvalOutput { spec: &spec, machine, dropped, seconds: started.elapsed().as_secs_f64(), figures };
    if arguments.json {
        print_line(&result.json());
    } else {
        print_line(&result.head());
        table::lines(&result.figures).iter().for_each(|line| print_line(line));
    }
    if let Some(path) = &arguments.plot {
        let drawn = plot::svg(&result.figures, &result.title(), &spec.of_interest());
        std::fs::write(path, drawn).with_context(|| path.display().to_string()).or_exit(Exit::Failed)?;
    }
    Ok(Exit::Done)
}

/// Checks that the plot can be written once the texts are.
fn check_plot(plot: Option<&Path>) -> anyhow::Result<()> {
    let folder = plot.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => {
            Err(anyhow!("--plot: expected a file in a folder that is there, got {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// What computed the texts. The figures of one model differ a little between kernels: they round differently.
fn machine(device: &candle_core::Device, config: &Config) -> String {
    match device.is_cpu() {
        true => {
            let EngineConfig { weights, kv, .. } = &config.engine;
            let kv = if *kv == KvPrecision::Auto { String::new() } else { format!(", keys and values in {kv}") };
            format!("cpu with {} kernels, {weights} weights{kv}", kernels::path())
        }
        false => device::name(device),
    }
}

/// The results of all prompts.
struct Evaluated {
    /// In the order of the file.
    records: Vec<Record>,
    /// Prompts without a response.
    dropped: usize,
}

/// Evaluates every candidate on every prompt.
async fn evaluate(
    device: &Device,
    models: Models,
    checker: Checker,
    candidates: Vec<Candidate>,
    spec: &EvalSpec,
    mut records: BTreeMap<u64, Record>,
    mut reporter: Reporter,
) -> Result<Evaluated, CommandError> {
    let runner = Arc::new(EvalRunner {
        models: Arc::new(models),
        device: device.clone(),
        checker: Arc::new(checker),
        candidates,
        config: spec.config.clone(),
        rounds: spec.rounds,
        seed: spec.seed,
        events: EventBus::silent(),
    });
    let prompts = (0..).zip(spec.prompts.iter().cloned().map(Arc::new));
    let mut running = runner.run_all(prompts.filter(|(index, _)| !records.contains_key(index)));
    let (mut dropped, mut last) = (0, None);
    while let Some(ended) = running.join_next().await {
        match ended? {
            (index, Ok(record)) => {
                reporter.finished(&record)?;
                records.insert(index, record);
            }
            (_, Err(SampleError::Gone)) => {
                let ended = tokio::time::timeout(ENDS, device.ended()).await.ok().flatten();
                let why = ended.unwrap_or_else(|| "the device thread ended".to_owned());
                return Err(anyhow::anyhow!(why)).or_exit(Exit::Device);
            }
            (_, Err(error @ SampleError::Broken(_))) => return Err(error.into()),
            (index, Err(error)) => {
                tracing::warn!(prompt = spec.prompts[index as usize].id, %error, "no response");
                dropped += 1;
                last = Some(error);
            }
        }
    }
    device.stop();
    if let (true, Some(last)) = (records.is_empty(), last) {
        return Err(anyhow::anyhow!("none of {dropped} prompts got a response, the last because: {last}").into());
    }
    Ok(Evaluated { records: records.into_values().collect(), dropped })
}
