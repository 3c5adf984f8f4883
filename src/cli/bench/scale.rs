//! `rco-node bench scale`: how each cost grows, as tables and a picture, with fitted exponents and the machine's limits.
//!
//! Each point is another bench in a process of its own. A point that fails is named and the others go on; one that does not
//! fit the memory is not tried.

mod child;
mod picture;
mod plan;
mod power_law;
mod result;
mod series;
mod table;
mod workload;

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::model::fetch_model;
use crate::cli::output::print_line;
use crate::cli::parse::at_least_one;
use crate::config::Config;
use crate::disk;
use crate::kernels::{self, Precision, bandwidth, peak};
use crate::node;
use crate::node::memory_plan::mib;
use crate::transformer::device;
use anyhow::Context;
use candle_core::Device;
use child::Measurement;
use clap::Args;
use plan::{PlannedPoint, Sizes};
use result::{Limits, MeasuredSeries, MissingPoint, Point, Scale};
use series::{Group, Series};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use tempfile::NamedTempFile;
use workload::ModelSizes;

/// What is read to measure the memory's bandwidth; far more than caches hold.
const BANDWIDTH_BYTES: usize = 256 << 20;
/// The longest context by default, in tokens: of any run, and of a quick one.
const CONTEXT_MAX: [usize; 2] = [8192, 512];
/// The most sequences by default.
const SEQUENCES_MAX: [usize; 2] = [256, 16];

/// The arguments of `bench scale`.
#[derive(Debug, Args)]
pub(super) struct ScaleArguments {
    /// The model of all series [default: the config's]. Given again, the series `model` measures each of them.
    #[arg(long, value_name = "SOURCE")]
    model: Vec<String>,
    /// How the decode pass keeps the weights: f32, bf16 or int8 [default: the config's].
    #[arg(long)]
    weights: Option<Precision>,
    /// Only these series [default: all].
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SERIES")]
    only: Vec<Group>,
    /// Few points, short texts, one run of each.
    #[arg(long)]
    quick: bool,
    /// The most sequences at once [default: 256, or 16 if quick].
    #[arg(long, value_parser = at_least_one)]
    max_sequences: Option<usize>,
    /// The longest context in tokens, at most the model's [default: 8192, or 512 if quick, or the model's].
    #[arg(long, value_parser = at_least_one)]
    max_context: Option<usize>,
    /// How often to measure each point; the median counts [default: 3, or 1 if quick].
    #[arg(long, value_parser = at_least_one)]
    runs: Option<usize>,
    /// Also draws the result, as SVG; a file that is there is replaced.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If a model cannot be opened, a size is beyond it, or the plot cannot be written.
pub(super) fn run(mut config: Config, arguments: &ScaleArguments) -> Result<Exit, CommandError> {
    config.engine.weights = arguments.weights.unwrap_or(config.engine.weights);
    if let Some(plot) = &arguments.plot {
        let folder = plot.parent().filter(|folder| !folder.as_os_str().is_empty());
        if folder.is_some_and(|folder| !folder.is_dir()) || plot.is_dir() {
            return Err(anyhow::anyhow!("--plot: expected a file in a folder that exists, got {}", plot.display()))
                .or_exit(Exit::Usage);
        }
    }
    let mut scaling = Scaling::prepare(config, arguments)?;
    let groups = |series: &Series| arguments.only.is_empty() || arguments.only.contains(&series.group());
    let mut series: Vec<MeasuredSeries> =
        Series::ALL.into_iter().filter(groups).map(|one| scaling.measure(one)).collect();
    scaling.limit(&mut series)?;
    let scale = Scale {
        bench: "scale",
        model: scaling.models[0].source.clone(),
        weights: scaling.config.engine.weights.name(),
        kernels: kernels::path(),
        limits: scaling.limits,
        series,
    };
    match arguments.json {
        true => print_line(&serde_json::to_string(&scale)?),
        false => table::lines(&scale).iter().for_each(|line| print_line(line)),
    }
    if let Some(plot) = &arguments.plot {
        let written = disk::replace(plot, picture::svg(&scale).as_bytes());
        written.with_context(|| plot.display().to_string()).or_exit(Exit::Failed)?;
    }
    let is_whole = scale.series.iter().all(|series| series.failed.is_empty());
    Ok(if is_whole { Exit::Done } else { Exit::Failed })
}

/// What all points share.
struct Scaling {
    config: Config,
    /// The config as the child processes read it.
    file: NamedTempFile,
    models: Vec<ModelSizes>,
    sizes: Sizes,
    runs: usize,
    device: Device,
    /// By number of threads; none for a GPU.
    limits: Vec<Limits>,
    /// The highest peak that a child measured, by its threads, in GFLOP/s.
    peaks: BTreeMap<usize, f64>,
}

impl Scaling {
    /// Opens the models and measures the machine.
    fn prepare(mut config: Config, arguments: &ScaleArguments) -> Result<Self, CommandError> {
        let device = config.model.device.open().or_exit(Exit::Usage)?;
        let own = [config.model.source.clone()];
        let sources = if arguments.model.is_empty() { &own[..] } else { &arguments.model };
        let models = sources.iter().map(|source| opened(&config, source, &device));
        let models = models.collect::<Result<Vec<_>, _>>()?;
        let sizes = sizes(arguments, models[0].spec.context_tokens).or_exit(Exit::Usage)?;
        // Room for the widest trees.
        let engine = &mut config.engine;
        engine.sequences_max = engine.sequences_max.max(plan::TREE_MAX);
        engine.step_tokens_max = engine.step_tokens_max.max(engine.sequences_max);
        let mut file = NamedTempFile::with_suffix(".toml")?;
        file.write_all(config.to_toml().as_bytes())?;
        let mut scaling = Self {
            config,
            file,
            models,
            sizes,
            runs: arguments.runs.unwrap_or(if arguments.quick { 1 } else { 3 }),
            device,
            limits: Vec::new(),
            peaks: BTreeMap::new(),
        };
        if scaling.device.is_cpu() {
            tracing::info!("measuring the machine's peak and bandwidth");
            let by_threads = arguments.only.is_empty() || arguments.only.contains(&Group::Threads);
            scaling.limits = scaling.threads(by_threads).into_iter().map(limits).collect::<anyhow::Result<_>>()?;
        }
        Ok(scaling)
    }

    /// The numbers of threads that points have.
    fn threads(&self, by_threads: bool) -> Vec<usize> {
        let points = if by_threads { self.sizes.points(Series::Threads, &[]) } else { Vec::new() };
        let mut threads: Vec<usize> = points.into_iter().filter_map(|point| point.threads).collect();
        threads.push(self.sizes.threads_max);
        threads.dedup();
        threads
    }

    /// Measures one series, point by point.
    fn measure(&mut self, series: Series) -> MeasuredSeries {
        let mut measured = MeasuredSeries::new(series);
        let parameters: Vec<usize> = self.models.iter().map(|model| model.spec.parameters()).collect();
        for planned in self.sizes.points(series, &parameters) {
            let (size, model) = (planned.size, &self.models[planned.model]);
            if let Some(reason) = self.lacks_memory(&planned) {
                tracing::warn!(series = series.title(), size, reason, "skipped");
                measured.skipped.push(MissingPoint { size, reason });
                continue;
            }
            match child::measure(&planned.workload, &model.source, planned.threads, self.file.path(), self.runs) {
                Ok(found) => {
                    let point = point(size, model, &found);
                    let peak = self.peaks.entry(found.threads).or_default();
                    *peak = peak.max(found.peak_gflops_per_second);
                    tracing::info!(
                        series = series.title(),
                        size,
                        value = point.value,
                        unit = series.unit(),
                        "measured"
                    );
                    measured.points.push(point);
                }
                Err(reason) => {
                    tracing::warn!(series = series.title(), size, reason, "failed");
                    measured.failed.push(MissingPoint { size, reason });
                }
            }
        }
        measured.fitted()
    }

    /// Why a point does not fit the memory, if it does not.
    fn lacks_memory(&self, planned: &PlannedPoint) -> Option<String> {
        let needed = planned.workload.bytes(&self.models[planned.model], &self.config, &self.device);
        let available = device::available_bytes(&self.device).filter(|available| *available < needed)?;
        Some(format!("needs {:.0} MiB of memory, {:.0} MiB are available", mib(needed), mib(available)))
    }

    /// Measures the machine again, keeps the best, and computes the limits of all points: other work holds the machine for a
    /// while, and no limit is below what a child reached.
    fn limit(&mut self, series: &mut [MeasuredSeries]) -> anyhow::Result<()> {
        for kept in &mut self.limits {
            let again = limits(kept.threads)?;
            let peak = kept.peak_gflops_per_second.max(again.peak_gflops_per_second);
            let of_children = self.peaks.get(&kept.threads).copied().unwrap_or(0.0);
            kept.peak_gflops_per_second = peak.max(of_children);
            kept.memory_gigabytes_per_second = kept.memory_gigabytes_per_second.max(again.memory_gigabytes_per_second);
        }
        let points = series.iter_mut().flat_map(|series| &mut series.points);
        points.for_each(|point| point.limit_by(&self.limits));
        Ok(())
    }
}

fn point(size: f64, model: &ModelSizes, found: &Measurement) -> Point {
    Point {
        size,
        value: found.seconds_per_episode.unwrap_or(found.tokens_per_second),
        arithmetic_limit: None,
        memory_limit: None,
        peak_memory_bytes: found.peak_memory_bytes,
        model: model.source.clone(),
        threads: found.threads,
        gflops_per_second: found.gflops_per_second,
        gigabytes_per_second: found.gigabytes_per_second,
        engine_seconds: found.writing_seconds_per_episode,
    }
}

/// The sizes of all series for a model with a context of `model_context` tokens.
fn sizes(arguments: &ScaleArguments, model_context: usize) -> anyhow::Result<Sizes> {
    let quick = usize::from(arguments.quick);
    let context_max = arguments.max_context.unwrap_or(CONTEXT_MAX[quick].min(model_context));
    anyhow::ensure!(
        context_max <= model_context,
        "--max-context: expected at most the model's {model_context}, got {context_max}"
    );
    Ok(Sizes {
        quick: arguments.quick,
        sequences_max: arguments.max_sequences.unwrap_or(SEQUENCES_MAX[quick]),
        context_max,
        model_context,
        threads_max: rayon::current_num_threads(),
    })
}

/// The sizes of the model `source`.
fn opened(config: &Config, source: &str, device: &Device) -> Result<ModelSizes, CommandError> {
    let mut config = config.clone();
    source.clone_into(&mut config.model.source);
    let model = crate::formats::open(&fetch_model(&config)?).or_exit(Exit::Model)?;
    let bytes = |score| model.bytes(device, node::precisions(&config, score));
    let (engine_bytes, both_bytes) = (bytes(false), bytes(true));
    Ok(ModelSizes { source: source.to_owned(), spec: model.spec, engine_bytes, both_bytes })
}

/// Measures what the processor and its memory reach on `threads` threads.
fn limits(threads: usize) -> anyhow::Result<Limits> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    Ok(pool.install(|| Limits {
        threads,
        peak_gflops_per_second: peak::flops_per_second() / 1e9,
        memory_gigabytes_per_second: bandwidth::bytes_per_second(BANDWIDTH_BYTES) / 1e9,
    }))
}
