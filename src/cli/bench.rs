//! `rco-node bench`: how fast this machine writes, beside what it could do.
//!
//! Every run has an engine of its own, so that none finds what the one before it cached, and the first is cold, unless
//! `decode --warm` asks for the contrary. All runs are reported; the figures beside them are those of the median run.

mod decode;
mod episode;
mod figures;
mod learn;
mod machine;
mod participants;
mod prefill;
mod prompts;

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::memory_plan::MemoryPlan;
use crate::cli::model::load_model;
use crate::config::Config;
use crate::engine::distinct::Distinct;
use crate::engine::{Counters, Engine, EngineConfig, Request, RequestId};
use crate::kernels::Precision;
use crate::telemetry;
use crate::transformer::decode::{BLOCK_TOKENS, Decoder};
use crate::transformer::load::Loaded;
use crate::types::Completion;
use clap::{Args, Subcommand};
use machine::Machine;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What `bench` takes.
#[derive(Debug, Args)]
pub(super) struct BenchArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Many sequences at once, prompts included: generated tokens a second.
    Decode(decode::DecodeArguments),
    /// One prompt to its first logits: prompt tokens a second.
    Prefill(prefill::PrefillArguments),
    /// Whole trees of N critiques and N x M refinements, and what is learned from them: seconds an episode.
    Episode(episode::EpisodeArguments),
    /// Learner steps on groups of a given shape: critique tokens a second.
    Learn(learn::LearnArguments),
}

/// What every bench takes.
#[derive(Debug, Args)]
struct Common {
    /// The model: a path, `hf:owner/name` or `pip:...` [default: the config's].
    #[arg(long, value_name = "SOURCE")]
    model: Option<String>,
    /// How the decode pass keeps the weights: f32, bf16 or int8 [default: the config's].
    #[arg(long)]
    weights: Option<Precision>,
    /// Prompts: JSONL of {"prompt"}, or one JSON object of {"prompts": [...]} [default: the config's].
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Bare ChatML instead of the model's own chat template.
    #[arg(long)]
    chatml: bool,
    /// How often to measure; the first run is cold.
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    runs: usize,
    /// Seed of the sampling, the same in every run.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
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
/// Where the prompts cannot be read or do not fit, or the model cannot be loaded.
pub(super) fn run(config: Config, arguments: &BenchArguments) -> Result<Exit, CommandError> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    match &arguments.what {
        What::Decode(arguments) => decode::run(&Bench::new(config, &arguments.common, false)?, arguments),
        What::Prefill(arguments) => prefill::run(&Bench::new(config, &arguments.common, false)?, arguments),
        What::Episode(arguments) => episode::run(&Bench::new(config, &arguments.common, true)?, arguments),
        What::Learn(arguments) => {
            let mut config = config;
            // One copy of the weights, unless another beside it is asked for.
            config.engine.weights = Precision::F32;
            learn::run(Bench::new(config, &arguments.common, true)?, arguments)
        }
    }
}

/// What all runs of a bench share.
struct Bench {
    config: Config,
    model: Loaded,
    machine: Machine,
}

impl Bench {
    /// Loads the model, for scoring too if `score`.
    fn new(mut config: Config, common: &Common, score: bool) -> Result<Self, CommandError> {
        if let Some(source) = &common.model {
            config.model.source.clone_from(source);
        }
        config.engine.weights = common.weights.unwrap_or(config.engine.weights);
        let model = load_model(&config, config.engine.weights, score)?;
        tracing::info!("measuring the machine's peak");
        Ok(Self { config, model, machine: Machine::measure() })
    }

    /// A fresh engine.
    fn engine(&self, config: &EngineConfig) -> crate::formats::Result<Engine<Decoder>> {
        let decoder = Decoder::sized(self.model.transformer.clone(), config.kv_cache_mib)?;
        Ok(Engine::new(decoder, self.model.tokenizer.clone(), config.clone()))
    }

    /// What `check` would plan for an engine that writes.
    fn plan(&self, engine: &EngineConfig) -> MemoryPlan {
        let model = &self.model.transformer;
        MemoryPlan::of_writing(model.spec(), model.bytes(), engine, &model.device())
    }

    /// The config's engine with room for these prompts and `max_tokens` behind each, all at once.
    fn engine_for(&self, prompts: &[Vec<u32>], max_tokens: usize) -> EngineConfig {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) + max_tokens;
        let blocks: usize = prompts.iter().map(|prompt| (prompt.len() + max_tokens).div_ceil(BLOCK_TOKENS)).sum();
        let model = &self.model.transformer;
        let bytes = blocks * Decoder::block_bytes(model.spec(), model.precision(), &model.device());
        let sequences = prompts.len().max(1);
        EngineConfig {
            step_tokens_max: self.config.engine.step_tokens_max.max(sequences),
            sequences_max: sequences,
            context_tokens_max: longest,
            kv_cache_mib: bytes.div_ceil(1 << 20),
            weights: self.config.engine.weights,
        }
    }
}

/// What one run did.
struct Run {
    seconds: f64,
    counters: Counters,
    distinct: u64,
}

impl Run {
    /// Writes what `requests` ask for; what the engine did before is not counted.
    fn of(engine: &mut Engine<Decoder>, requests: &[Request], mut told: Progress) -> Result<Self, CommandError> {
        engine.take_counters();
        let begun = Instant::now();
        let mut places: HashMap<RequestId, usize> = HashMap::new();
        for (index, request) in requests.iter().enumerate() {
            places.insert(engine.submit(request.clone()).or_exit(Exit::Usage)?, index);
        }
        let mut done: Vec<(usize, Vec<Completion>)> = Vec::with_capacity(requests.len());
        while !engine.is_idle() {
            engine.step()?;
            done.extend(engine.take_finished().into_iter().map(|(id, texts)| (places[&id], texts)));
            told.tell(engine.counters().sampled_tokens);
        }
        let seconds = begun.elapsed().as_secs_f64();
        let mut distinct = Distinct::default();
        for (index, texts) in &done {
            texts.iter().for_each(|text| distinct.add(text.version, &requests[*index].prompt, &text.ids));
        }
        Ok(Self { seconds, counters: engine.take_counters(), distinct: distinct.tokens() })
    }
}

/// Says on the log how far a run is, every few seconds.
struct Progress {
    run: usize,
    runs: usize,
    /// Tokens to write in all.
    tokens: u64,
    last: Instant,
}

impl Progress {
    const INTERVAL: Duration = Duration::from_secs(5);

    fn new(run: usize, runs: usize, tokens: usize) -> Self {
        tracing::info!(run, runs, tokens, "begins");
        Self { run, runs, tokens: tokens as u64, last: Instant::now() }
    }

    fn tell(&mut self, written: u64) {
        if self.last.elapsed() >= Self::INTERVAL {
            self.last = Instant::now();
            tracing::info!(run = self.run, runs = self.runs, written, of = self.tokens, "writing");
        }
    }
}
