//! `rco-node generate`: generates texts for prompts, in any role, with or without a critic's weights.

use crate::cli::critic_source::CriticSource;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::model::load_model;
use crate::cli::output::{print_line, print_note};
use crate::cli::parse::at_least_one;
use crate::config::Config;
use crate::engine::{Engine, Policy, Request, RequestId};
use crate::formats::conversation;
use crate::prompts;
use crate::roles::{generator::Generator, judge::Judge, refiner::Refiner};
use crate::transformer::decode::Decoder;
use crate::transformer::load::Loaded;
use crate::types::Completion;
use crate::types::{CriticVersion, Prompt, Turn};
use crate::{engine::sampler::SamplingConfig, node, telemetry};
use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub(super) struct GenerateArguments {
    /// One prompt.
    #[arg(long, value_name = "TEXT", required_unless_present = "prompts", conflicts_with = "prompts")]
    prompt: Option<String>,
    /// A JSONL file of {"prompt", "id"?, "response"?, "critique"?, "first"?, "second"?}, generated in one batch.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// The role whose template and sampling are used.
    #[arg(long, value_enum, default_value_t = Role::Generator)]
    role: Role,
    /// The critic to use: folder of a PEFT adapter, of a checkpoint or of a run (its newest), RUN@STEP or RUN@best.
    #[arg(long, value_name = "DIR")]
    adapter: Option<String>,
    /// Maximum length in tokens [default: the role's].
    #[arg(long, value_parser = at_least_one)]
    max_tokens: Option<usize>,
    /// Sampling temperature; 0 is greedy [default: the role's].
    #[arg(long)]
    temperature: Option<f32>,
    /// Sampling seed; each prompt has its own random stream.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Texts per prompt.
    #[arg(long, short, default_value_t = 1)]
    n: usize,
    /// Uses the prompt as it is: no role template, no chat template.
    #[arg(long)]
    raw: bool,
    /// Ignores stop tokens and stop strings: always generates --max-tokens.
    #[arg(long)]
    ignore_stop: bool,
    /// Prints one JSON object per line: text, token ids, log-probabilities.
    #[arg(long)]
    json: bool,
}

/// A role of RCO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Answers the prompt.
    Generator,
    /// Criticises `response`.
    Critic,
    /// Refines `response` by `critique`.
    Refiner,
    /// Compares `first` with `second`.
    Judge,
}

/// One line of a prompts file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    id: Option<String>,
    prompt: String,
    response: Option<String>,
    critique: Option<String>,
    first: Option<String>,
    second: Option<String>,
    // Accepted so that a node's prompt files work here too.
    #[serde(rename = "task")]
    _task: Option<String>,
    #[serde(rename = "answer")]
    _answer: Option<String>,
}

/// One line of `--json`.
#[derive(Serialize)]
struct Output<'a> {
    id: &'a str,
    text: &'a str,
    prompt_ids: &'a [u32],
    token_ids: &'a [u32],
    log_probs: &'a [f32],
    finish: crate::types::FinishReason,
}

/// Runs the command.
///
/// # Errors
/// If an input is malformed, the model cannot be loaded, or a prompt does not fit.
pub(super) fn run(config: &Config, arguments: &GenerateArguments) -> Result<Exit, CommandError> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    let inputs = inputs(arguments).or_exit(Exit::Usage)?;
    let texts = texts(config, arguments, &inputs).or_exit(Exit::Usage)?;
    let sampling = sampling(config, arguments);
    // The config's own values are right, so what is wrong here was given as an argument.
    let complaints = crate::config::sampling_complaints("generate", &sampling).join("\n");
    if !complaints.is_empty() {
        return Err(anyhow::anyhow!(complaints.replace("generate.sampling.", "--"))).or_exit(Exit::Usage);
    }
    let critic = arguments.adapter.as_deref();
    let critic = critic.map(|critic| CriticSource::find_existing("--adapter", critic)).transpose()?;
    let model = load_model(config, node::precisions(config, false))?;
    let prompts = texts.iter().map(|text| text.ids(&model)).collect::<Result<Vec<_>, _>>()?;
    let mut engine = engine(config, &model)?;
    if let Some(critic) = &critic {
        let critic = critic.load(model.transformer.spec())?;
        engine.install(CriticVersion(1), Some(Arc::new(model.transformer.pack(&critic)?)));
    }
    let policy = if critic.is_some() { Policy::Serving } else { Policy::Base };
    let mut places: HashMap<RequestId, usize> = HashMap::new();
    for (index, prompt) in prompts.iter().enumerate() {
        let stop_ids = if arguments.ignore_stop { vec![] } else { model.tokenizer.stop_ids().to_vec() };
        let seed = arguments.seed.wrapping_add(index as u64);
        let request = Request::new(prompt.clone(), arguments.n, sampling.clone(), stop_ids, seed).with_policy(policy);
        let name = inputs[index].id.clone().unwrap_or_else(|| (index + 1).to_string());
        let id = engine.submit(request).with_context(|| format!("prompt {name}")).or_exit(Exit::Usage)?;
        places.insert(id, index);
    }
    let started = Instant::now();
    let mut written: Vec<Vec<Completion>> = vec![vec![]; inputs.len()];
    let mut told = Instant::now();
    while !engine.is_idle() {
        engine.step()?;
        for (id, completions) in engine.take_finished() {
            written[places[&id]] = completions;
        }
        if told.elapsed().as_secs() >= 5 {
            told = Instant::now();
            let ended = written.iter().filter(|texts| !texts.is_empty()).count();
            tracing::info!(finished = ended, total = inputs.len(), "generating");
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    report(arguments, &inputs, &prompts, &written);
    let tokens: usize = written.iter().flatten().map(|text| text.ids.len()).sum();
    let texts: usize = written.iter().map(Vec::len).sum();
    print_note(&format!("{tokens} tokens in {texts} texts, {seconds:.2} s, {:.1} tokens/s", tokens as f64 / seconds));
    Ok(Exit::Done)
}

fn report(arguments: &GenerateArguments, inputs: &[Input], prompts: &[Vec<u32>], written: &[Vec<Completion>]) {
    for (index, (input, completions)) in inputs.iter().zip(written).enumerate() {
        let number = (index + 1).to_string();
        let id = input.id.as_deref().unwrap_or(&number);
        for completion in completions {
            let Completion { ids, log_probs, text, finish, .. } = completion;
            if arguments.json {
                let output =
                    Output { id, text, prompt_ids: &prompts[index], token_ids: ids, log_probs, finish: *finish };
                print_line(&serde_json::to_string(&output).expect("strings and finite numbers serialize"));
            } else if inputs.len() == 1 && completions.len() == 1 {
                print_line(text);
            } else {
                print_line(&format!("[{id}] {text}"));
            }
        }
    }
}

/// The engine of the config over a loaded model.
fn engine(config: &Config, model: &Loaded) -> crate::transformer::Result<Engine<Decoder>> {
    let decoder = Decoder::sized(model.transformer.clone(), config.engine.kv, config.engine.kv_cache_mib)?;
    Ok(Engine::new(decoder, model.tokenizer.clone(), config.engine.clone()))
}

/// What the model continues.
enum Text {
    Raw(String),
    Conversation(Vec<Turn>),
}

impl Text {
    fn ids(&self, model: &Loaded) -> crate::formats::Result<Vec<u32>> {
        match self {
            Self::Raw(text) => model.tokenizer.encode_document(text),
            Self::Conversation(turns) => conversation::ids(&model.template, &model.tokenizer, turns),
        }
    }
}

fn inputs(arguments: &GenerateArguments) -> anyhow::Result<Vec<Input>> {
    let Some(path) = &arguments.prompts else {
        return Ok(vec![Input { prompt: arguments.prompt.clone().unwrap_or_default(), ..Input::default() }]);
    };
    let text = prompts::read(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let inputs = lines
        .map(|(index, line)| {
            serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), index + 1))
        })
        .collect::<anyhow::Result<Vec<Input>>>()?;
    anyhow::ensure!(!inputs.is_empty(), "{}: expected at least one prompt, got none", path.display());
    Ok(inputs)
}

fn texts(config: &Config, arguments: &GenerateArguments, inputs: &[Input]) -> anyhow::Result<Vec<Text>> {
    if arguments.raw {
        return Ok(inputs.iter().map(|input| Text::Raw(input.prompt.clone())).collect());
    }
    let generator = Generator::new(&config.generator.role)?;
    let critic = crate::roles::critic::Critic::new(&config.critic.role)?.with_reasoning(config.roles.reasoning);
    let refiner = Refiner::new(&config.refiner.role)?.with_reasoning(config.roles.reasoning);
    let judge = Judge::new(&config.judge.role)?.with_reasoning(config.roles.reasoning);
    let conversation = |(index, input): (usize, &Input)| -> anyhow::Result<Text> {
        let need = |key: &str, value: &Option<String>| {
            value
                .clone()
                .with_context(|| format!("prompt {}: role {:?} needs the key {key:?}", index + 1, arguments.role))
        };
        let prompt = Prompt {
            id: String::new(),
            task: String::new(),
            text: input.prompt.clone(),
            turns: Vec::new(),
            answer: None,
            verifier: None,
        };
        Ok(Text::Conversation(match arguments.role {
            Role::Generator => generator.conversation(&prompt),
            Role::Critic => critic.conversation(&prompt, &need("response", &input.response)?),
            Role::Refiner => {
                let (response, critique) = (need("response", &input.response)?, need("critique", &input.critique)?);
                refiner.conversation(&generator.conversation(&prompt), &response, &critique)
            }
            Role::Judge => judge.conversation(&prompt, &need("first", &input.first)?, &need("second", &input.second)?),
        }))
    };
    inputs.iter().enumerate().map(conversation).collect()
}

fn sampling(config: &Config, arguments: &GenerateArguments) -> SamplingConfig {
    let mut sampling = match arguments.role {
        Role::Generator => &config.generator.sampling,
        Role::Critic => &config.critic.sampling,
        Role::Refiner => &config.refiner.sampling,
        Role::Judge => &config.judge.sampling,
    }
    .clone();
    sampling.max_tokens = arguments.max_tokens.unwrap_or(sampling.max_tokens);
    sampling.temperature = arguments.temperature.unwrap_or(sampling.temperature);
    if arguments.ignore_stop {
        sampling.stop.clear();
    }
    sampling
}
