//! `rco-node bench decode`: many sequences generated at once, prompts included; stop ids are ignored.

use super::figures::{BenchResult, Figures, median};
use super::harness::{Bench, Common, Progress, Run};
use super::prompts;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::parse::at_least_one;
use crate::engine::Request;
use crate::engine::StepCost;
use crate::engine::sampler::SamplingConfig;
use clap::Args;
use serde::Serialize;

/// The arguments of `bench decode`.
#[derive(Debug, Args)]
pub(super) struct DecodeArguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Sequences at once, each with its own prompt.
    #[arg(long, default_value_t = 32, value_parser = at_least_one)]
    sequences: usize,
    /// Tokens that each sequence generates.
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    max_tokens: usize,
    /// Cut or extend every prompt to this many tokens.
    #[arg(long, value_parser = at_least_one)]
    context: Option<usize>,
    /// One engine for all runs, after a warm-up run that is not reported: every run finds its prompts in the cache, like
    /// a server that receives the same prompts again.
    #[arg(long)]
    warm: bool,
    /// Sampling temperature; 0 is greedy.
    #[arg(long, default_value_t = 0.7)]
    temperature: f32,
}

/// The workload, as it appears in the result.
#[derive(Serialize)]
struct Workload {
    sequences: usize,
    max_tokens: usize,
    prompt_tokens: usize,
    warm: bool,
}

/// The main figures.
#[derive(Serialize)]
struct Summary {
    tokens_per_second: f64,
}

/// Runs the bench.
pub(super) fn run(bench: &Bench, arguments: &DecodeArguments) -> Result<Exit, CommandError> {
    let DecodeArguments { common, sequences, max_tokens, context, warm, temperature } = arguments;
    let sampling = SamplingConfig { temperature: *temperature, ..SamplingConfig::greedy(*max_tokens) };
    let complaints = crate::config::sampling_complaints("bench", &sampling);
    if !complaints.is_empty() {
        return Err(anyhow::anyhow!(complaints.join("\n"))).or_exit(Exit::Usage);
    }
    let prompts = prompts::ids(&bench.config, common, &bench.model, *sequences, *context).or_exit(Exit::Usage)?;
    let mut engine = bench.engine_for(&prompts, *max_tokens);
    if *warm {
        // Room for the blocks of the run before and those of this run.
        engine.kv_cache_mib *= 2;
    }
    let workload = Workload {
        sequences: *sequences,
        max_tokens: *max_tokens,
        prompt_tokens: prompts.iter().map(Vec::len).sum(),
        warm: *warm,
    };
    let request = |(index, prompt): (u64, Vec<u32>)| {
        Request::new(prompt, 1, sampling.clone(), vec![], common.seed.wrapping_add(index))
    };
    let requests: Vec<Request> = (0..).zip(prompts).map(request).collect();
    let mut runs = Vec::with_capacity(common.runs);
    let mut kept = None;
    // Run 0 is the warm-up, which fills the cache.
    for run in usize::from(!warm)..=common.runs {
        let mut writer = match kept.take() {
            Some(writer) => writer,
            None => bench.engine(&engine)?,
        };
        let done = Run::of(&mut writer, &requests, Progress::new(run, common.runs, sequences * max_tokens))?;
        if run > 0 {
            runs.push(done);
        }
        kept = warm.then_some(writer);
    }
    let rates: Vec<f64> = runs.iter().map(|run| run.counters.sampled_tokens as f64 / run.seconds).collect();
    let middle = median(&rates);
    let (cost, plan) = (StepCost::new(&bench.model.transformer, engine.kv, None), bench.plan(&engine));
    let figures = Figures::new(bench, &runs[middle], runs[middle].seconds, &cost, &plan);
    let head = vec![
        ("decode", format!("{:.1} tokens/s", rates[middle])),
        (
            "workload",
            format!(
                "{sequences} sequences, {max_tokens} tokens each behind {} prompt tokens{}",
                workload.prompt_tokens,
                if *warm { " found in the cache" } else { "" }
            ),
        ),
    ];
    let summary = Summary { tokens_per_second: rates[middle] };
    let model = bench.config.model.source.clone();
    BenchResult { bench: "decode", model, workload, summary, runs: rates, figures }.print(common.json, head);
    Ok(Exit::Done)
}
