//! `rco-node score`: log-probabilities of given token ids, by either forward pass.

use crate::cli::critic_source::CriticSource;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::model::load_model;
use crate::cli::output::print_line;
use crate::config::Config;
use crate::kernels::{KvPrecision, PassPrecisions};
use crate::node;
use crate::prompts;
use crate::telemetry;
use crate::transformer::Transformer;
use crate::transformer::decode::{BLOCK_TOKENS, Batch, Decoder, Forward};
use crate::transformer::full_weights::{CriticWeights, FullWeights};
use crate::transformer::{score, score::Packed, score::ScoreAdapter, score::ScoreBatch};
use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments of `score`.
#[derive(Debug, Args)]
pub(super) struct ScoreArguments {
    /// JSONL of {"prompt_ids", "completion_ids"}; `-` is standard input.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// The forward pass to use.
    #[arg(long, value_enum, default_value_t = Pass::Score)]
    pass: Pass,
    /// The critic to use: folder of a PEFT adapter, of a checkpoint or of a run (its newest), RUN@STEP or RUN@best.
    #[arg(long, value_name = "DIR")]
    adapter: Option<String>,
    /// Computes log-probabilities under softmax(logits / temperature).
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
}

/// The forward passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pass {
    /// The engine's: paged KV cache, one token at a time.
    Decode,
    /// The learner's: differentiable, all tokens at once.
    Score,
}

/// One line of the input.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    prompt_ids: Vec<u32>,
    completion_ids: Vec<u32>,
}

/// One line of the result.
#[derive(Debug, Serialize)]
struct Output {
    log_probs: Vec<f32>,
    sum: f64,
}

/// Runs the command.
///
/// # Errors
/// If a line is malformed, an id is unknown, the model cannot be loaded, or its log-probs are not finite.
pub(super) fn run(config: &Config, arguments: &ScoreArguments) -> Result<Exit, CommandError> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    let inputs = inputs(arguments).or_exit(Exit::Usage)?;
    if !(arguments.temperature > 0.0 && arguments.temperature.is_finite()) {
        let got = arguments.temperature;
        return Err(anyhow::anyhow!("--temperature: expected a number above 0, got {got}")).or_exit(Exit::Usage);
    }
    // Decoding is as in a node; what it is held against is in f32, whatever the learner reads.
    let precisions = match arguments.pass {
        Pass::Decode => node::precisions(config, false),
        Pass::Score => PassPrecisions::F32,
    };
    let model = load_model(config, precisions)?.transformer;
    let load = |argument: &str| CriticSource::find(argument)?.load(model.spec());
    let critic = arguments.adapter.as_deref().map(load).transpose()?;
    for (line, input) in inputs.iter().enumerate() {
        let scored = match arguments.pass {
            Pass::Decode => by_decoding(&model, config.engine.kv, input, critic.as_ref(), arguments.temperature),
            Pass::Score => by_scoring(&model, input, critic.as_ref(), arguments.temperature),
        };
        let log_probs = scored.with_context(|| format!("line {}", line + 1)).or_exit(Exit::Usage)?;
        if let Some(at) = log_probs.iter().position(|p| !p.is_finite()) {
            let why = format!(
                "line {}: expected finite log-probs, got {} for completion id {}",
                line + 1,
                log_probs[at],
                at + 1
            );
            return Err(anyhow::anyhow!("{why}; weights or an adapter beyond the range of f32 cause this"))
                .or_exit(Exit::Model);
        }
        let sum = log_probs.iter().map(|&p| f64::from(p)).sum();
        print_line(&serde_json::to_string(&Output { log_probs, sum }).expect("finite numbers serialize"));
    }
    Ok(Exit::Done)
}

fn inputs(arguments: &ScoreArguments) -> anyhow::Result<Vec<Input>> {
    let mut text = String::new();
    let name = arguments.file.display().to_string();
    match name.as_str() {
        "-" => std::io::stdin().read_to_string(&mut text).context("standard input")?,
        _ => {
            text = prompts::read(&arguments.file).context(name.clone())?;
            text.len()
        }
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let input: Input = serde_json::from_str(line).with_context(|| format!("{name}, line {}", index + 1))?;
            let whole = !input.prompt_ids.is_empty() && !input.completion_ids.is_empty();
            anyhow::ensure!(whole, "{name}, line {}: expected at least one prompt id and one completion id", index + 1);
            Ok(input)
        })
        .collect()
}

fn by_scoring(
    model: &Transformer,
    input: &Input,
    critic: Option<&CriticWeights>,
    temperature: f32,
) -> crate::transformer::Result<Vec<f32>> {
    let own = critic.and_then(CriticWeights::full).map(FullWeights::transformer);
    let model = own.as_ref().unwrap_or(model);
    let branches =
        critic.and_then(CriticWeights::adapter).map(|adapter| ScoreAdapter::new(model, adapter)).transpose()?;
    let packed = [Packed { prefix: &input.prompt_ids, texts: vec![&input.completion_ids] }];
    Ok(score::score(model, ScoreBatch { packed: &packed, temperature }, branches.as_ref())?.log_probs)
}

/// Prefills the prompt, then feeds the completion token by token, as the engine does.
fn by_decoding(
    model: &Arc<Transformer>,
    kv: KvPrecision,
    input: &Input,
    critic: Option<&CriticWeights>,
    temperature: f32,
) -> crate::transformer::Result<Vec<f32>> {
    let tokens = input.prompt_ids.len() + input.completion_ids.len();
    let blocks: Vec<u32> = (0..tokens.div_ceil(BLOCK_TOKENS) as u32).collect();
    let mut decoder = Decoder::with_kv(model.clone(), kv, blocks.len())?;
    let critic = critic.map(|critic| model.pack(critic)).transpose()?.map(Arc::new);
    let (mut batch, mut logits) = (Batch::default(), vec![]);
    let mut cached = 0;
    let mut next: &[u32] = &input.prompt_ids;
    let mut found = vec![];
    for id in &input.completion_ids {
        batch.clear();
        batch.push(next, cached, &blocks, critic.as_ref(), 1);
        decoder.step(&batch, &mut logits)?;
        cached += next.len();
        if *id as usize >= logits.len() {
            return Err(crate::transformer::Error::TokenId { id: *id, vocab: logits.len() });
        }
        found.push(crate::kernels::ops::log_prob(&logits, *id, 1.0 / temperature));
        next = std::slice::from_ref(id);
    }
    Ok(found)
}
