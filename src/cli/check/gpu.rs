//! `rco-node check --plan-gpu`: what a node would need and reach on a GPU, without one.

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::model::fetch_model;
use crate::cli::output::{grouped, print_line};
use crate::config::Config;
use crate::formats;
use crate::node::gpu_plan::card::{CARDS, Card};
use crate::node::gpu_plan::shapes::references;
use crate::node::gpu_plan::workload::Workload;
use crate::node::gpu_plan::{DECODED, Figure, GpuPlan};
use crate::node::memory_plan::mib;
use clap::ValueEnum;
use serde::Serialize;

/// The card to plan for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum CardChoice {
    /// NVIDIA A100, 40 GB.
    #[value(name = "a100-40")]
    A100,
    /// NVIDIA H100 SXM, 80 GB.
    #[value(name = "h100-80")]
    H100,
    /// NVIDIA GeForce RTX 4090, 24 GB.
    #[value(name = "rtx4090")]
    Rtx4090,
    /// NVIDIA H200 SXM, 141 GB.
    #[value(name = "h200-141")]
    H200,
    /// Each of them.
    All,
}

impl CardChoice {
    fn cards(self) -> Vec<Card> {
        let name = self.to_possible_value().map(|value| value.get_name().to_owned());
        CARDS.into_iter().filter(|card| self == Self::All || Some(card.name) == name.as_deref()).collect()
    }
}

/// The result, with `--json`.
#[derive(Serialize)]
struct Report<'a> {
    /// It is a model, never a measurement.
    measured: bool,
    attention: &'static str,
    workload: &'a Workload,
    /// Why the config's own model is not among the models, if it is not.
    own_model_left_out: Option<String>,
    cards: Vec<CardReport>,
}

#[derive(Serialize)]
struct CardReport {
    #[serde(flatten)]
    card: Card,
    models: Vec<GpuPlan>,
}

/// Runs the check for `choice`. Without `offline` the config's own model is planned too, by its header alone.
pub(super) fn run(config: &Config, choice: CardChoice, offline: bool, json: bool) -> Result<Exit, CommandError> {
    let workload = Workload::new(config);
    let mut models: Vec<_> = references().into_iter().map(|(name, spec)| (name.to_owned(), spec)).collect();
    let mut left_out = offline.then(|| "offline".to_owned());
    if !offline {
        let spec = formats::open(&fetch_model(config)?).or_exit(Exit::Model)?.spec;
        match spec.runs_on_gpus() {
            true => models.insert(0, ("own model".to_owned(), spec)),
            false => left_out = Some(format!("models of the family {} run on the CPU only", spec.family.name())),
        }
    }
    let report = Report {
        measured: false,
        attention: workload.attention.name(),
        workload: &workload,
        own_model_left_out: left_out,
        cards: choice
            .cards()
            .into_iter()
            .map(|card| {
                let plan = |(name, spec): &(String, _)| GpuPlan::new(name, spec, &card, &workload);
                CardReport { card, models: models.iter().map(plan).collect() }
            })
            .collect(),
    };
    if json {
        print_line(&serde_json::to_string(&report).or_exit(Exit::Failed)?);
        return Ok(Exit::Done);
    }
    head(&report, config).iter().for_each(|line| print_line(line));
    for card in &report.cards {
        table(card).iter().for_each(|line| print_line(line));
    }
    Ok(Exit::Done)
}

/// What all tables have in common.
fn head(report: &Report<'_>, config: &Config) -> Vec<String> {
    let work = report.workload;
    let mut lines = vec![
        "A model, not a measurement: data sheets and counted operations; docs/gpu.md says what is assumed.".to_owned(),
        format!(
            "N = {}, M = {}, {} episodes in flight, {} sequences at most, context {}, LoRA rank {}, attention {}",
            work.critiques,
            work.refinements,
            work.episodes,
            work.sequences,
            work.context_tokens,
            work.lora.rank,
            report.attention
        ),
        format!(
            "tokens: prompt {}, response {}, critique {}, refinement {}; {} cached on average; engine step {}, micro-batch {}, layers {}",
            work.prompt_tokens,
            work.response_tokens,
            work.critique_tokens,
            work.refinement_tokens,
            work.mean_context(),
            work.step_tokens,
            work.micro_batch_tokens,
            if work.checkpoint_layers { "computed again" } else { "kept" }
        ),
    ];
    lines.push(match &report.own_model_left_out {
        Some(why) => format!("own model: left out ({why})"),
        None => format!("own model: {}", config.model.source),
    });
    lines
}

/// Width of a row's name, of a figure, and of what stands behind it.
const WIDTHS: [usize; 3] = [27, 13, 8];

/// The table of one card, a column for each model.
fn table(report: &CardReport) -> Vec<String> {
    let CardReport { card, models } = report;
    let title = format!(
        "{}: {} (compute capability {}, {} GiB at {} GB/s, {} TFLOP/s bf16, {} f32)",
        card.name,
        card.title,
        card.compute_capability,
        card.memory_gib,
        card.bandwidth_gb_s,
        card.bf16_tflops,
        card.f32_tflops
    );
    let heads = row(models, "", |plan| (plan.model.clone(), ""));
    let mut lines = vec![String::new(), title, heads];
    lines.extend(memory_rows(models));
    lines.extend(speed_rows(models));
    lines
}

/// One row: for each model a figure and a word behind it.
fn row(models: &[GpuPlan], name: &str, cell: impl Fn(&GpuPlan) -> (String, &'static str)) -> String {
    let [names, figures, words] = WIDTHS;
    let line = models
        .iter()
        .map(cell)
        .fold(format!("{name:<names$}"), |line, (figure, word)| format!("{line} {figure:>figures$} {word:<words$}"));
    line.trim_end().to_owned()
}

fn memory_rows(models: &[GpuPlan]) -> Vec<String> {
    let size = |bytes: usize| (grouped(mib(bytes)), "");
    let parts = models.first().map_or(&[][..], |plan| &plan.memory.parts);
    let mut lines = vec!["memory, MiB".to_owned()];
    for (index, part) in parts.iter().enumerate() {
        lines.push(row(models, &format!("  {}", part.name), |plan| size(plan.memory.parts[index].bytes)));
    }
    lines.push(row(models, "  total", |plan| size(plan.memory.total_bytes)));
    lines.push(row(models, "  usable", |plan| size(plan.memory.usable_bytes)));
    lines.push(row(models, "  left, or missing", |plan| {
        let (difference, _) = size(plan.memory.usable_bytes.abs_diff(plan.memory.total_bytes));
        (difference, if plan.memory.fits { "fits" } else { "MISSING" })
    }));
    lines
        .push(row(models, "KV cache, KiB a token", |plan| (decimal(plan.memory.kv_bytes_a_token as f64 / 1024.0), "")));
    lines.push(row(models, "  tokens, if it gets all", |plan| (grouped(plan.memory.kv_tokens as f64), "")));
    lines
}

fn speed_rows(models: &[GpuPlan]) -> Vec<String> {
    let mut lines = vec!["tokens/s, and what binds".to_owned()];
    lines.push(row(models, "  prefill of a prompt", |plan| cell(plan.speed.prefill_tokens_per_second)));
    for (index, sequences) in DECODED.iter().enumerate() {
        let name = format!("  decode, {sequences} sequence{}", if *sequences == 1 { "" } else { "s" });
        lines.push(row(models, &name, |plan| cell(plan.speed.decode_tokens_per_second[index].1)));
    }
    lines.push(row(models, "  learn", |plan| cell(plan.speed.learn_tokens_per_second)));
    lines.push("an episode, s of the device".to_owned());
    lines.push(row(models, "  writing", |plan| cell(plan.speed.writing_seconds)));
    lines.push(row(models, "  learning its group once", |plan| cell(plan.speed.learning_seconds)));
    lines.push(row(models, "  both", |plan| cell(plan.speed.episode_seconds)));
    lines.push(row(models, "episodes an hour", |plan| (grouped(plan.speed.episodes_per_hour), "")));
    lines.push(row(models, "launches a layer, decoding", |plan| (grouped(plan.speed.launches_a_layer), "")));
    lines.push(row(models, "launches a step", |plan| (grouped(plan.speed.launches_a_step), "")));
    lines
}

/// A figure and what binds it.
fn cell(figure: Figure) -> (String, &'static str) {
    let Figure { value, bound } = figure;
    (if value < 100.0 { decimal(value) } else { grouped(value) }, bound.name())
}

fn decimal(value: f64) -> String {
    if value < 10.0 { format!("{value:.3}") } else { format!("{value:.1}") }
}
