//! `rco-node bench learn`: learner steps on groups of a given shape, without any rollout.
//!
//! Prefixes and critiques are slices of real prompts; utilities differ within a group. The first step of a run computes
//! the reference log-probabilities, as the first use of a group does; later steps reuse them.

use super::figures::median;
use super::harness::{Bench, Common};
use super::machine::{Machine, peak_memory_bytes};
use super::prompts;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::output::print_line;
use crate::cli::parse::at_least_one;
use crate::engine::StepCost;
use crate::engine::{Counters, StepWork};
use crate::learner::{Learner, Mode};
use crate::node::memory_plan::MemoryPlan;
use crate::types::{Completion, CriticVersion, CritiqueGroup, EpisodeId, FinishReason, ScoredCritique};
use clap::Args;
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// The arguments of `bench learn`.
#[derive(Debug, Args)]
pub(super) struct LearnArguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Groups of a step [default: the config's].
    #[arg(long, value_parser = at_least_one)]
    groups: Option<usize>,
    /// N: critiques of a group [default: the config's].
    #[arg(long, value_parser = at_least_one)]
    n: Option<usize>,
    /// Tokens of a group's common prefix.
    #[arg(long, default_value_t = 256, value_parser = at_least_one)]
    prefix: usize,
    /// Tokens of a critique.
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    max_tokens: usize,
    /// Steps of a run.
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    steps: usize,
    /// Tokens of one micro-batch of learning [default: the config's].
    #[arg(long, value_parser = at_least_one)]
    micro_batch: Option<usize>,
    /// Keep each layer's input alone and compute the rest again.
    #[arg(long)]
    checkpoint_layers: bool,
}

/// The result.
#[derive(Serialize)]
struct LearnResult {
    bench: &'static str,
    model: String,
    groups: usize,
    n: usize,
    prefix: usize,
    max_tokens: usize,
    micro_batch_tokens: usize,
    checkpoint_layers: bool,
    mode: Mode,
    /// Rank of the adapter; 0 if all weights are trained.
    rank: usize,
    /// Critique tokens per second of the median step that reuses its references.
    tokens_per_second: f64,
    /// Prefix and critique tokens per second of the same step.
    rows_per_second: f64,
    /// Critique tokens per second of the median step that computes its references.
    tokens_per_second_with_references: f64,
    step_seconds: f64,
    /// Critique tokens per second of every step that reuses its references.
    runs: Vec<f64>,
    gflops_per_second: f64,
    peak_share: f64,
    /// Seconds of the longest micro-batch.
    #[serde(rename = "piece_seconds_max")]
    micro_batch_seconds_max: f64,
    trainable_parameters: usize,
    #[serde(flatten)]
    machine: Machine,
    peak_memory_bytes: Option<u64>,
    planned_memory_bytes: u64,
}

/// Runs the bench.
pub(super) fn run(mut bench: Bench, arguments: &LearnArguments) -> Result<Exit, CommandError> {
    let LearnArguments { common, prefix, max_tokens, .. } = arguments;
    let config = &mut bench.config;
    config.learner.checkpoint_layers |= arguments.checkpoint_layers;
    config.learner.micro_batch_tokens = arguments.micro_batch.unwrap_or(config.learner.micro_batch_tokens);
    let groups = arguments.groups.unwrap_or(config.learner.groups_per_step);
    let n = arguments.n.unwrap_or(config.rollout.critiques);
    let groups = make_groups(&bench, arguments, groups, n).or_exit(Exit::Usage)?;
    let (critique_tokens, rows) = (groups.len() * n * max_tokens, groups.len() * (prefix + n * max_tokens));
    let (mut first, mut later, mut micro_batch_max, mut trainable) = (vec![], vec![], 0.0, 0);
    for run in 1..=common.runs {
        tracing::info!(run, runs = common.runs, groups = groups.len(), "begins");
        let temperature = bench.config.critic.sampling.temperature;
        let model = bench.model.transformer.clone();
        let mut learner = Learner::new(model, bench.config.learner.clone(), temperature, common.seed)?;
        trainable = learner.parameters();
        for step in 0..=arguments.steps {
            let (seconds, micro_batch) = one(&mut learner, &groups)?;
            micro_batch_max = f64::max(micro_batch_max, micro_batch);
            if step == 0 { &mut first } else { &mut later }.push(critique_tokens as f64 / seconds);
        }
    }
    let (config, transformer) = (&bench.config, &bench.model.transformer);
    let (rate, with_references) = (later[median(&later)], first[median(&first)]);
    let step_seconds = critique_tokens as f64 / rate;
    let gflops = flops(&bench, &groups) / step_seconds / 1e9;
    let plan = MemoryPlan::of_learning(
        transformer.spec(),
        transformer.bytes(),
        &config.learner,
        critique_tokens.min(config.learner.micro_batch_tokens),
        &transformer.device(),
    );
    let result = LearnResult {
        bench: "learn",
        model: config.model.source.clone(),
        groups: groups.len(),
        n,
        prefix: *prefix,
        max_tokens: *max_tokens,
        micro_batch_tokens: config.learner.micro_batch_tokens,
        checkpoint_layers: config.learner.checkpoint_layers,
        mode: config.learner.mode,
        rank: if config.learner.mode == Mode::Full { 0 } else { config.learner.lora.rank },
        tokens_per_second: rate,
        rows_per_second: rows as f64 / step_seconds,
        tokens_per_second_with_references: with_references,
        step_seconds,
        runs: later,
        gflops_per_second: gflops,
        peak_share: gflops / bench.machine.peak_gflops_per_second,
        micro_batch_seconds_max: micro_batch_max,
        trainable_parameters: trainable,
        machine: bench.machine,
        peak_memory_bytes: peak_memory_bytes(&transformer.device()),
        planned_memory_bytes: plan.total() as u64,
    };
    result.print(common.json);
    Ok(Exit::Done)
}

/// Groups of the shape that the arguments give.
fn make_groups(
    bench: &Bench,
    arguments: &LearnArguments,
    groups: usize,
    n: usize,
) -> anyhow::Result<Vec<Arc<CritiqueGroup>>> {
    let LearnArguments { common, prefix, max_tokens, .. } = arguments;
    let prefixes = prompts::ids(&bench.config, common, &bench.model, groups, Some(*prefix))?;
    let texts = prompts::ids(&bench.config, common, &bench.model, groups * n, Some(*max_tokens))?;
    let critique = |(index, ids): (usize, &Vec<u32>)| ScoredCritique {
        completion: Completion {
            text: String::new(),
            ids: ids.clone(),
            log_probs: vec![0.0; ids.len()],
            version: CriticVersion::BASE,
            finish: FinishReason::Length,
        },
        utility: index as f32 / n as f32,
        verdicts: vec![],
    };
    let group = |(index, (prefix, texts)): (usize, (Vec<u32>, &[Vec<u32>]))| {
        Arc::new(CritiqueGroup {
            episode: EpisodeId(index as u64),
            prompt_id: index.to_string(),
            task: "bench".to_owned(),
            prefix_ids: prefix,
            critiques: texts.iter().enumerate().map(critique).collect(),
            preferences: vec![],
        })
    };
    Ok(prefixes.into_iter().zip(texts.chunks(n)).enumerate().map(group).collect())
}

/// Runs one step. Returns its seconds and those of its longest micro-batch.
fn one(learner: &mut Learner, groups: &[Arc<CritiqueGroup>]) -> Result<(f64, f64), CommandError> {
    let started = Instant::now();
    let (mut longest, mut last) = (0.0f64, started);
    learner.step_on_with(learner.step() + 1, groups.to_vec(), || {
        longest = longest.max(last.elapsed().as_secs_f64());
        last = Instant::now();
    })?;
    Ok((started.elapsed().as_secs_f64(), longest))
}

/// Operations of one step that reuses its references; a multiply-add counts as two. The forward pass and the gradient of
/// the activations cost the same; trained weights add their own gradient, and a trained head its logit rows once more.
fn flops(bench: &Bench, groups: &[Arc<CritiqueGroup>]) -> f64 {
    let mut counters = Counters::default();
    for group in groups {
        let (prefix, mut work) = (group.prefix_ids.len() as u64, StepWork::default());
        work.tokens = prefix;
        work.attended_pairs = prefix * (prefix + 1) / 2;
        for critique in &group.critiques {
            let tokens = critique.completion.ids.len() as u64;
            work.tokens += tokens;
            work.logit_rows += tokens;
            work.attended_pairs += tokens * prefix + tokens * (tokens + 1) / 2;
        }
        counters.work.tokens += work.tokens;
        counters.work.logit_rows += work.logit_rows;
        counters.work.attended_pairs += work.attended_pairs;
    }
    let cost_with = |lora| StepCost::new(&bench.model.transformer, bench.config.engine.kv, lora);
    let cost = cost_with(None);
    let base = cost.flops(&counters.work);
    if bench.config.learner.mode == Mode::Full {
        // Attention has no weights.
        let pairs = Counters {
            work: StepWork { attended_pairs: counters.work.attended_pairs, ..StepWork::default() },
            ..Counters::default()
        };
        let rows = Counters {
            work: StepWork { logit_rows: counters.work.logit_rows, ..StepWork::default() },
            ..Counters::default()
        };
        return 3.0 * base - cost.flops(&pairs.work) + cost.flops(&rows.work);
    }
    counters.work.adapted_tokens = counters.work.tokens;
    let adapted = cost_with(Some(&bench.config.learner.lora)).flops(&counters.work) - base;
    2.0 * base + 3.0 * adapted
}

impl LearnResult {
    fn print(&self, json: bool) {
        if json {
            return print_line(&serde_json::to_string(self).expect("strings and finite numbers serialize"));
        }
        let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
        let rows = [
            ("learn", format!("{:.1} critique tokens/s", self.tokens_per_second)),
            ("workload", format!("{} groups of {} x {} behind {}", self.groups, self.n, self.max_tokens, self.prefix)),
            ("with references", format!("{:.1} critique tokens/s", self.tokens_per_second_with_references)),
            ("rows", format!("{:.1} tokens/s", self.rows_per_second)),
            ("every step", self.runs.iter().map(|rate| format!("{rate:.1}")).collect::<Vec<_>>().join(", ")),
            ("step", format!("{:.2} s, longest micro-batch {:.2} s", self.step_seconds, self.micro_batch_seconds_max)),
            (
                "arithmetic",
                format!(
                    "{:.1} GFLOP/s, {:.1} % of the f32 peak of {:.1} on {} threads",
                    self.gflops_per_second,
                    100.0 * self.peak_share,
                    self.machine.peak_gflops_per_second,
                    self.machine.threads
                ),
            ),
            ("trainable", format!("{} parameters, mode {}, rank {}", self.trainable_parameters, self.mode, self.rank)),
            (
                "peak memory",
                format!(
                    "{}, planned {}",
                    self.peak_memory_bytes.map_or_else(|| "unknown".to_owned(), mib),
                    mib(self.planned_memory_bytes)
                ),
            ),
        ];
        rows.iter().for_each(|(name, value)| print_line(&format!("{name:<20} {value}")));
    }
}
