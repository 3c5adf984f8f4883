//! `rco-node bench prefill`: one prompt to its first logits.

use super::figures::{Figures, Result as Whole, median};
use super::harness::{Bench, Common, Progress, Run};
use super::machine::Cost;
use super::prompts;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::parse::at_least_one;
use crate::engine::Request;
use crate::engine::sampler::SamplingConfig;
use clap::Args;
use serde::Serialize;

/// What `bench prefill` takes.
#[derive(Debug, Args)]
pub(super) struct PrefillArguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 512, value_parser = at_least_one)]
    context: usize,
}

/// What was asked, in the result.
#[derive(Serialize)]
struct Asked {
    context: usize,
    step_tokens_max: usize,
}

/// What it comes to.
#[derive(Serialize)]
struct Headline {
    tokens_per_second: f64,
}

/// Runs the bench.
pub(super) fn run(bench: &Bench, arguments: &PrefillArguments) -> Result<Exit, CommandError> {
    let PrefillArguments { common, context } = arguments;
    let prompts = prompts::ids(&bench.config, common, &bench.model, 1, Some(*context)).or_exit(Exit::Usage)?;
    let engine = bench.engine_for(&prompts, 1);
    let request = |prompt| Request {
        prompt,
        n: 1,
        sampling: SamplingConfig::greedy(1),
        stop_ids: vec![],
        seed: common.seed,
        critic: false,
    };
    let requests: Vec<Request> = prompts.into_iter().map(request).collect();
    let mut runs = Vec::with_capacity(common.runs);
    for run in 1..=common.runs {
        runs.push(Run::of(&mut bench.engine(&engine)?, &requests, Progress::new(run, common.runs, 1))?);
    }
    let rates: Vec<f64> = runs.iter().map(|run| *context as f64 / run.seconds).collect();
    let middle = median(&rates);
    let (cost, plan) = (Cost::new(&bench.model.transformer, None), bench.plan(&engine));
    let figures = Figures::new(bench, &runs[middle], runs[middle].seconds, &cost, &plan);
    let head = vec![
        ("prefill", format!("{:.1} tokens/s", rates[middle])),
        ("asked", format!("{context} tokens, at most {} a step", engine.step_tokens_max)),
    ];
    let asked = Asked { context: *context, step_tokens_max: engine.step_tokens_max };
    let headline = Headline { tokens_per_second: rates[middle] };
    let model = bench.config.model.source.clone();
    Whole { bench: "prefill", model, asked, headline, runs: rates, figures }.say(common.json, head);
    Ok(Exit::Done)
}
