//! `rco-node bench prefill`: one prompt to its first logits.

use super::figures::{BenchResult, Figures, median};
use super::harness::{Bench, Common};
use super::prompts;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::parse::at_least_one;
use crate::engine::Request;
use crate::engine::StepCost;
use crate::engine::sampler::SamplingConfig;
use clap::Args;
use serde::Serialize;

/// The arguments of `bench prefill`.
#[derive(Debug, Args)]
pub(super) struct PrefillArguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 512, value_parser = at_least_one)]
    context: usize,
}

/// The workload, as it appears in the result.
#[derive(Serialize)]
struct Workload {
    context: usize,
    step_tokens_max: usize,
}

/// The main figures.
#[derive(Serialize)]
struct Summary {
    tokens_per_second: f64,
}

/// Runs the bench.
pub(super) fn run(bench: &Bench, arguments: &PrefillArguments) -> Result<Exit, CommandError> {
    let PrefillArguments { common, context } = arguments;
    let prompts = prompts::ids(&bench.config, common, &bench.model, 1, Some(*context)).or_exit(Exit::Usage)?;
    let engine = bench.engine_for(&prompts, 1);
    let request = |prompt| Request::new(prompt, 1, SamplingConfig::greedy(1), vec![], common.seed);
    let requests: Vec<Request> = prompts.into_iter().map(request).collect();
    let runs = bench.fresh_runs(&engine, &requests, 1, common.runs)?;
    let rates: Vec<f64> = runs.iter().map(|run| *context as f64 / run.seconds).collect();
    let middle = median(&rates);
    let (cost, plan) = (StepCost::new(&bench.model.transformer, engine.kv, None), bench.plan(&engine));
    let figures = Figures::new(bench, &runs[middle], runs[middle].seconds, &cost, &plan);
    let head = vec![
        ("prefill", format!("{:.1} tokens/s", rates[middle])),
        ("workload", format!("{context} tokens, at most {} a step", engine.step_tokens_max)),
    ];
    let workload = Workload { context: *context, step_tokens_max: engine.step_tokens_max };
    let summary = Summary { tokens_per_second: rates[middle] };
    let model = bench.config.model.source.clone();
    BenchResult { bench: "prefill", model, workload, summary, runs: rates, figures }.print(common.json, head);
    Ok(Exit::Done)
}
