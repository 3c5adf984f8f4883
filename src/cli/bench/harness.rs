//! What all benches share: the model under measurement, its config, a run's counters and its progress.

use super::machine::Machine;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::model::load_model;
use crate::cli::parse::at_least_one;
use crate::config::Config;
use crate::engine::distinct::DistinctTokens;
use crate::engine::{Counters, Engine, EngineConfig, Request, RequestId};
use crate::kernels::{KvPrecision, Precision};
use crate::node;
use crate::node::memory_plan::MemoryPlan;
use crate::transformer::decode::{BLOCK_TOKENS, Decoder};
use crate::transformer::load::Loaded;
use crate::types::Completion;
use clap::Args;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The arguments that all benches share.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// The model: a path, `hf:owner/name` or `pip:...` [default: the config's].
    #[arg(long, value_name = "SOURCE")]
    pub(super) model: Option<String>,
    /// How the decode pass keeps the weights: f32, bf16 or int8 [default: the config's].
    #[arg(long)]
    pub(super) weights: Option<Precision>,
    /// How the KV cache keeps keys and values: auto, f32, bf16 or int8 [default: the config's].
    #[arg(long)]
    pub(super) kv: Option<KvPrecision>,
    /// Prompts: JSONL of {"prompt"}, or one JSON object of {"prompts": [...]} [default: the config's].
    #[arg(long, value_name = "FILE")]
    pub(super) prompts: Option<PathBuf>,
    /// Bare ChatML instead of the model's own chat template.
    #[arg(long)]
    pub(super) chatml: bool,
    /// How often to measure; the first run is cold.
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    pub(super) runs: usize,
    /// Seed of the sampling, the same in every run.
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
    /// One line of JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// What all runs of a bench share.
pub(super) struct Bench {
    pub(super) config: Config,
    pub(super) model: Loaded,
    pub(super) machine: Machine,
}

impl Bench {
    /// Loads the model; with `score`, also for scoring.
    pub(super) fn new(mut config: Config, common: &Common, score: bool) -> Result<Self, CommandError> {
        if let Some(source) = &common.model {
            config.model.source.clone_from(source);
        }
        config.engine.weights = common.weights.unwrap_or(config.engine.weights);
        config.engine.kv = common.kv.unwrap_or(config.engine.kv);
        let model = load_model(&config, node::precisions(&config, score))?;
        tracing::info!("measuring the machine's peak");
        Ok(Self { config, model, machine: Machine::measure() })
    }

    /// A fresh engine.
    pub(super) fn engine(&self, config: &EngineConfig) -> crate::transformer::Result<Engine<Decoder>> {
        let decoder = Decoder::sized(self.model.transformer.clone(), config.kv, config.kv_cache_mib)?;
        Ok(Engine::new(decoder, self.model.tokenizer.clone(), config.clone()))
    }

    /// Runs of `requests`, which generate `tokens` tokens, each on a fresh engine.
    pub(super) fn fresh_runs(
        &self,
        engine: &EngineConfig,
        requests: &[Request],
        tokens: usize,
        runs: usize,
    ) -> Result<Vec<Run>, CommandError> {
        (1..=runs).map(|run| Run::of(&mut self.engine(engine)?, requests, Progress::new(run, runs, tokens))).collect()
    }

    /// The memory plan of `check` for an engine that generates.
    pub(super) fn plan(&self, engine: &EngineConfig) -> MemoryPlan {
        let model = &self.model.transformer;
        MemoryPlan::of_writing(model.spec(), model.bytes(), engine, &model.device())
    }

    /// The config's engine with room for all these prompts at once, each with `max_tokens` generated tokens.
    pub(super) fn engine_for(&self, prompts: &[Vec<u32>], max_tokens: usize) -> EngineConfig {
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.len() + max_tokens).collect();
        let model = &self.model.transformer;
        let block = Decoder::block_bytes(model.spec(), self.config.engine.kv_kind(), &model.device());
        sized_engine(&self.config.engine, block, &lengths)
    }
}

/// `engine` with room for sequences of these `lengths` at once, in cache blocks of `block_bytes`.
pub(super) fn sized_engine(engine: &EngineConfig, block_bytes: usize, lengths: &[usize]) -> EngineConfig {
    let blocks: usize = lengths.iter().map(|length| length.div_ceil(BLOCK_TOKENS)).sum();
    let sequences = lengths.len().max(1);
    EngineConfig {
        step_tokens_max: engine.step_tokens_max.max(sequences),
        sequences_max: sequences,
        context_tokens_max: lengths.iter().copied().max().unwrap_or(0),
        kv_cache_mib: (blocks * block_bytes).div_ceil(1 << 20),
        versions_max: engine.versions_max,
        weights: engine.weights,
        kv: engine.kv,
    }
}

/// Time and counters of one run.
pub(super) struct Run {
    pub(super) seconds: f64,
    pub(super) counters: Counters,
    pub(super) distinct: u64,
}

impl Run {
    /// Generates all `requests`. Earlier work of the engine is not counted.
    pub(super) fn of(
        engine: &mut Engine<Decoder>,
        requests: &[Request],
        mut progress: Progress,
    ) -> Result<Self, CommandError> {
        engine.take_counters();
        let started = Instant::now();
        let mut indices: HashMap<RequestId, usize> = HashMap::new();
        for (index, request) in requests.iter().enumerate() {
            indices.insert(engine.submit(request.clone()).or_exit(Exit::Usage)?, index);
        }
        let mut done: Vec<(usize, Vec<Completion>)> = Vec::with_capacity(requests.len());
        while !engine.is_idle() {
            engine.step()?;
            done.extend(engine.take_finished().into_iter().map(|(id, texts)| (indices[&id], texts)));
            progress.report(engine.counters().sampled_tokens);
        }
        let seconds = started.elapsed().as_secs_f64();
        let mut distinct = DistinctTokens::default();
        for (index, texts) in &done {
            texts.iter().for_each(|text| distinct.add(text.version, &requests[*index].prompt, &text.ids));
        }
        Ok(Self { seconds, counters: engine.take_counters(), distinct: distinct.tokens() })
    }
}

/// Logs how far a run is, every few seconds.
pub(super) struct Progress {
    pub(super) run: usize,
    pub(super) runs: usize,
    /// Tokens to generate in total.
    pub(super) tokens: u64,
    pub(super) last: Instant,
}

impl Progress {
    const INTERVAL: Duration = Duration::from_secs(5);

    pub(super) fn new(run: usize, runs: usize, tokens: usize) -> Self {
        tracing::info!(run, runs, tokens, "begins");
        Self { run, runs, tokens: tokens as u64, last: Instant::now() }
    }

    pub(super) fn report(&mut self, written: u64) {
        if self.last.elapsed() >= Self::INTERVAL {
            self.last = Instant::now();
            tracing::info!(run = self.run, runs = self.runs, written, of = self.tokens, "writing");
        }
    }
}
