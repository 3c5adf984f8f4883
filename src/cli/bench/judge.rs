//! `rco-node bench judge`: the model compares pairs of texts in both orders.
//!
//! Prompts are the node's own. By log-probabilities a verdict costs the prompt and one row of logits; what both orders begin
//! with is computed once. Texts are cut from the prompts, so that pairs have one length.

use super::figures::{BenchResult, Figures, median};
use super::harness::{Bench, Common};
use super::prompts;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::parse::at_least_one;
use crate::engine::StepCost;
use crate::engine::sampler::SamplingConfig;
use crate::engine::{Policy, Request};
use crate::episode::judge::model::ModelJudge;
use crate::formats::conversation;
use crate::roles::judge::{Judge, VerdictMethod};
use clap::{Args, ValueEnum};
use serde::Serialize;

/// The arguments of `bench judge`.
#[derive(Debug, Args)]
pub(super) struct JudgeArguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Pairs of texts, all asked at once, in both orders.
    #[arg(long, default_value_t = 16, value_parser = at_least_one)]
    pairs: usize,
    /// Tokens of each of the two texts.
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    text_tokens: usize,
    /// How a verdict is read: from the first token's log-probabilities, or from a text as long as the config says.
    #[arg(long, value_enum, default_value_t = Reading::Logprob)]
    read: Reading,
}

/// How a verdict is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Reading {
    /// From log-probabilities.
    Logprob,
    /// From a text.
    Text,
}

/// The workload, as it appears in the result.
#[derive(Serialize)]
struct Workload {
    pairs: usize,
    text_tokens: usize,
    read: Reading,
    prompt_tokens: usize,
}

/// The main figures.
#[derive(Serialize)]
struct Summary {
    /// Prompt tokens of all orders over the time, those that were shared among them.
    tokens_per_second: f64,
    /// Pairs that were judged in both orders.
    pairs_per_second: f64,
}

/// Runs the bench.
pub(super) fn run(bench: &Bench, arguments: &JudgeArguments) -> Result<Exit, CommandError> {
    let JudgeArguments { common, pairs, text_tokens, read } = arguments;
    let requests = requests(bench, arguments).or_exit(Exit::Usage)?;
    let prompts: Vec<Vec<u32>> = requests.iter().map(|asked| asked.prompt.clone()).collect();
    let written = requests.first().map_or(1, |asked| asked.sampling.max_tokens);
    let engine = bench.engine_for(&prompts, written);
    let prompt_tokens: usize = prompts.iter().map(Vec::len).sum();
    let runs = bench.fresh_runs(&engine, &requests, written * requests.len(), common.runs)?;
    let rates: Vec<f64> = runs.iter().map(|run| prompt_tokens as f64 / run.seconds).collect();
    let middle = median(&rates);
    let (cost, plan) = (StepCost::new(&bench.model.transformer, engine.kv, None), bench.plan(&engine));
    let figures = Figures::new(bench, &runs[middle], runs[middle].seconds, &cost, &plan);
    let pairs_per_second = *pairs as f64 / runs[middle].seconds;
    let head = vec![
        ("judge", format!("{pairs_per_second:.2} pairs/s in both orders, {:.1} prompt tokens/s", rates[middle])),
        ("workload", format!("{pairs} pairs of texts of {text_tokens} tokens, {prompt_tokens} prompt tokens")),
    ];
    let workload = Workload { pairs: *pairs, text_tokens: *text_tokens, read: *read, prompt_tokens };
    let summary = Summary { tokens_per_second: rates[middle], pairs_per_second };
    let model = bench.config.model.source.clone();
    BenchResult { bench: "judge", model, workload, summary, runs: rates, figures }.print(common.json, head);
    Ok(Exit::Done)
}

/// Both orders of each pair.
fn requests(bench: &Bench, arguments: &JudgeArguments) -> anyhow::Result<Vec<Request>> {
    let JudgeArguments { common, pairs, text_tokens, read } = arguments;
    let (template, tokenizer) = (prompts::template(&bench.model, common), &bench.model.tokenizer);
    let method = if *read == Reading::Text { VerdictMethod::Text } else { VerdictMethod::Logprob };
    let mut role = Judge::new(&bench.config.judge.role)?;
    role.method = method;
    let judge = ModelJudge::new(role, &template, tokenizer)?;
    let loaded = prompts::load(&bench.config, common)?;
    let all = tokenizer.encode(&loaded.iter().map(|prompt| prompt.text.as_str()).collect::<Vec<_>>().join(" "))?;
    let text = |index: usize| {
        let ids: Vec<u32> =
            all.iter().cycle().skip(index * text_tokens % all.len()).take(*text_tokens).copied().collect();
        tokenizer.decode(&ids)
    };
    let mut requests = Vec::with_capacity(2 * pairs);
    for pair in 0..*pairs {
        let prompt = &loaded[pair % loaded.len()];
        let [one, other] = [text(2 * pair)?, text(2 * pair + 1)?];
        for turns in judge.orders(prompt, &one, &other) {
            let ids = conversation::ids(&template, tokenizer, &turns)?;
            // Stop ids are ignored, so that all runs do the same work. A row of logits is what one greedy token costs.
            let sampling = match read {
                Reading::Text => bench.config.judge.sampling.clone(),
                Reading::Logprob => SamplingConfig::greedy(1),
            };
            requests.push(Request::new(ids, 1, sampling, vec![], common.seed).with_policy(Policy::Base));
        }
    }
    Ok(requests)
}
