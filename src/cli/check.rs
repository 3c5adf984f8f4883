//! `rco-node check`: is the config right, what does it come to, and does it fit this machine?

use super::{Exit, Failure, OrExit, say};
use crate::config::Config;
use crate::engine::EngineConfig;
use crate::formats;
use crate::formats::Opened;
use crate::formats::source::Source;
use crate::formats::spec::ModelSpec;
use crate::kernels::{Precision, Weight};
use crate::learner::{LearnerConfig, Mode};
use crate::node;
use crate::telemetry;
use crate::transformer::decode::Decoder;
use crate::transformer::dense::decode::DenseDecoder;
use crate::transformer::device;
use crate::transformer::score::activation_floats;
use candle_core::Device;
use clap::Args;
use std::path::PathBuf;

mod data;

/// What `check` takes.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The model is neither fetched nor opened: no memory is planned, and no tokens are counted.
    #[arg(long)]
    offline: bool,
    /// Looks at a prompt file instead: counts, lengths in tokens, repeated and held-out prompts, and every bad line.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// What must not be in that file [default: all held-out files that come with the node].
    #[arg(long, value_name = "FILE", requires = "data")]
    held_out: Option<String>,
    /// The report as one JSON object.
    #[arg(long, requires = "data")]
    json: bool,
}

/// Where the memory goes, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Names and sizes, in the order they are printed.
    pub parts: Vec<(&'static str, usize)>,
}

const F32: usize = size_of::<f32>();
/// What a node takes before it has a model: code, tokenizer, templates, threads.
const PROGRAM: usize = 64 << 20;

impl MemoryPlan {
    /// The plan of an engine that writes on `device` and learns nothing; `weights` is what the model's take there, in bytes.
    pub fn of_writing(spec: &ModelSpec, weights: usize, engine: &EngineConfig, device: &Device) -> Self {
        // A step's rows through the widest place of a layer, and the logits of every row that samples.
        let widest = 2 * spec.hidden + 3 * spec.intermediate;
        let mut writing = engine.step_tokens_max * widest + engine.sequences_max * spec.vocab;
        if !device.is_cpu() {
            writing += DenseDecoder::attention_floats(spec, engine.sequences_max, engine.context_tokens_max);
        }
        Self {
            parts: vec![
                ("weights", weights),
                ("kv cache", engine.kv_cache_mib << 20),
                ("program", program(device)),
                ("activations", writing * F32),
            ],
        }
    }

    /// The plan of a node whose model runs on `device`, in that device's memory; `weights` is what the model's take there
    /// for both passes, in bytes.
    pub fn new(spec: &ModelSpec, weights: usize, config: &Config, device: &Device) -> Self {
        let targets = config.rollout.critiques * config.critic.sampling.max_tokens;
        let mut plan = Self::of_writing(spec, weights, &config.engine, device);
        let mut learning = Self::of_learning(spec, 0, &config.learner, targets, device).parts;
        if config.learner.mode == Mode::Full {
            // Around a publication: the critic that goes and the one that comes, as they are kept and as they are served, and
            // the moments on their way to the disk.
            learning.push(("in service", 2 * (spec.parameters() * F32 + served(spec, config.engine.weights))));
            learning.push(("optimizer", 2 * spec.parameters() * F32));
        }
        // A checkpoint is copied, and then copied once more as a file: the adapter and two moments. Like the program
        // itself, these copies lie in the host's memory.
        if let Some((_, bytes)) = learning.iter().find(|(name, _)| *name == "adapter").filter(|_| device.is_cpu()) {
            learning.push(("checkpoint", 2 * 3 * (bytes / 4)));
        }
        for (name, bytes) in learning.into_iter().filter(|(name, _)| *name != "program") {
            match plan.parts.iter_mut().find(|(known, _)| *known == name) {
                Some((_, size)) => *size += bytes,
                None => plan.parts.insert(plan.parts.len() - 1, (name, bytes)),
            }
        }
        plan
    }

    /// The plan of a learner alone, whose steps predict at most `targets` ids a group.
    pub fn of_learning(
        spec: &ModelSpec,
        weights: usize,
        learner: &LearnerConfig,
        targets: usize,
        device: &Device,
    ) -> Self {
        let targets = targets.min(learner.micro_batch_tokens);
        let rank = if learner.mode == Mode::Full { 0 } else { learner.lora.rank };
        let learning = activation_floats(spec, rank, learner.micro_batch_tokens, targets, learner.activation_policy());
        if learner.mode == Mode::Full {
            // The critic's weights, which the score pass reads as they lie; their gradient and two moments.
            let whole = spec.parameters() * F32;
            let parts =
                [("weights", weights), ("critic", whole), ("optimizer", 3 * whole), ("activations", learning * F32)];
            return Self { parts: [("program", program(device))].into_iter().chain(parts).collect() };
        }
        let lora = &learner.lora;
        let of_site = |site: &formats::lora::Projection| {
            let (inputs, outputs) = site.sizes(spec);
            lora.rank * (inputs + outputs)
        };
        let adapter = spec.layers * lora.targets.iter().map(of_site).sum::<usize>();
        // Gradient, a piece's gradient and two moments; beside a GPU the moments stay in the host's memory.
        let optimizer = if device.is_cpu() { 4 } else { 1 } * adapter * F32;
        let parts = vec![
            ("weights", weights),
            // The learner's, as the score pass reads them too, and two versions in service around a publication.
            ("adapter", 4 * adapter * F32),
            ("optimizer", optimizer),
            ("program", program(device)),
            ("activations", learning * F32),
        ];
        Self { parts }
    }

    /// With a judge's own model beside it, whose weights take so many bytes.
    pub fn with_judge(mut self, spec: &ModelSpec, weights: usize, engine: &EngineConfig, device: &Device) -> Self {
        for (name, bytes) in Self::of_writing(spec, weights, engine, device).parts {
            match name {
                "weights" => self.parts.push(("judge's", bytes)),
                "kv cache" => self.parts.push(("judge's kv", bytes)),
                // The engines take turns, so that the greater of the two is what is ever held.
                _ => self
                    .parts
                    .iter_mut()
                    .filter(|(known, _)| *known == name)
                    .for_each(|(_, own)| *own = bytes.max(*own)),
            }
        }
        self
    }

    /// All parts together.
    pub fn total(&self) -> usize {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Runs the command.
///
/// # Errors
/// Where the config is wrong, the model cannot be opened, or the plan does not fit.
pub fn run(config: &Config, arguments: &CheckArguments) -> Result<Exit, Failure> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    if let Some(file) = &arguments.data {
        return data::run(config, file, arguments);
    }
    say(&config.to_toml());
    node::check(config).or_exit(Exit::Usage)?;
    if arguments.offline {
        return Ok(Exit::Done);
    }
    let device = config.model.device.open().or_exit(Exit::Usage)?;
    node::check_device(config, &device).or_exit(Exit::Usage)?;
    let path = Source::parse(&config.model.source).or_exit(Exit::Usage)?.fetch().or_exit(Exit::Model)?;
    let opened = formats::open(&path).or_exit(Exit::Model)?;
    opened.template.present().or_exit(Exit::Model)?;
    let weights = opened.bytes(&device, config.engine.weights, true);
    let spec = opened.spec.clone();
    let mut plan = MemoryPlan::new(&spec, weights, config, &device);
    let judge = judge(config).or_exit(Exit::Model)?;
    if let Some(judge) = &judge {
        let engine = config.judge_engine();
        plan = plan.with_judge(&judge.spec, judge.bytes(&device, engine.weights, false), &engine, &device);
        can_hold(&judge.spec, &engine, &device, "judge.kv_cache_mib").or_exit(Exit::Usage)?;
    }
    let asked = judge.as_ref().map_or((&opened.template, &opened.tokenizer), |own| (&own.template, &own.tokenizer));
    node::check_judge(config, asked.0, asked.1).or_exit(Exit::Usage)?;
    say(&format!("# device: {}", device::name(&device)));
    say("# Memory plan of the device, in MiB");
    for (name, bytes) in &plan.parts {
        say(&format!("# {name:<12} {:>8.1}", mib(*bytes)));
    }
    say(&format!("# {:<12} {:>8.1}", "total", mib(plan.total())));
    let blocks = (config.engine.kv_cache_mib << 20) / Decoder::block_bytes(&spec, config.engine.weights, &device);
    say(&format!("# the kv cache holds {} tokens", blocks * crate::transformer::decode::BLOCK_TOKENS));
    fits(&plan, &spec, config, &device).or_exit(Exit::Usage)?;
    Ok(Exit::Done)
}

/// The judge's own model, where it has one.
fn judge(config: &Config) -> Result<Option<Opened>, formats::Error> {
    let Some(source) = config.judge_model() else { return Ok(None) };
    let judge = formats::open(&Source::parse(source)?.fetch()?)?;
    judge.template.present()?;
    Ok(Some(judge))
}

/// Refuses a context that the model or the cache cannot hold; `cache` names the cache's key.
fn can_hold(spec: &ModelSpec, engine: &EngineConfig, device: &Device, cache: &str) -> anyhow::Result<()> {
    anyhow::ensure!(
        engine.context_tokens_max <= spec.context_tokens,
        "engine.context_tokens_max: expected at most the model's {}, got {}",
        spec.context_tokens,
        engine.context_tokens_max
    );
    let block = Decoder::block_bytes(spec, engine.weights, device);
    let one = engine.context_tokens_max.div_ceil(crate::transformer::decode::BLOCK_TOKENS) * block;
    anyhow::ensure!(
        one <= engine.kv_cache_mib << 20,
        "{cache}: expected at least {} for one context of {} tokens, got {}",
        one.div_ceil(1 << 20),
        engine.context_tokens_max,
        engine.kv_cache_mib
    );
    Ok(())
}

/// Refuses what cannot work on this device.
///
/// # Errors
/// Names what does not fit, its size, and what there is.
pub fn fits(plan: &MemoryPlan, spec: &ModelSpec, config: &Config, device: &Device) -> anyhow::Result<()> {
    can_hold(spec, &config.engine, device, "engine.kv_cache_mib")?;
    if let Some(available) = device::available_bytes(device) {
        anyhow::ensure!(
            plan.total() <= available,
            "memory: the plan needs {:.0} MiB, {} has {:.0} MiB available",
            mib(plan.total()),
            device::name(device),
            mib(available)
        );
    }
    Ok(())
}

/// Bytes of a critic's own weights as the engine serves them beside those that are kept.
fn served(spec: &ModelSpec, precision: Precision) -> usize {
    let of_tensor = |(_, shape): &(String, Vec<usize>)| match shape[..] {
        // In f32 the kept ones are served.
        _ if precision == Precision::F32 => 0,
        [outputs, inputs] => Weight::planned_bytes(outputs, inputs, precision, false, false),
        _ => F32 * shape.iter().product::<usize>(),
    };
    spec.tensors().iter().map(of_tensor).sum()
}

/// What the program itself takes of the memory of `device`.
fn program(device: &Device) -> usize {
    if device.is_cpu() { PROGRAM } else { 0 }
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
