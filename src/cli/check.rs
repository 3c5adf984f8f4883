//! `rco-node check`: validates the config, prints it resolved and checks that the model fits this machine.

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::model::fetch_model;
use crate::cli::output::print_line;
use crate::config::Config;
use crate::formats;
use crate::formats::OpenedModel;
use crate::formats::source::Source;
use crate::kernels::PassPrecisions;
use crate::node;
use crate::node::memory_plan::{MemoryPlan, check_context, check_memory, mib};
use crate::telemetry::{self, metrics::MemoryOwner};
use crate::transformer::decode::{BLOCK_TOKENS, Decoder};
use crate::transformer::device;
use crate::types::{ChatRole, Turn};
use crate::verify::sandbox::Protection;
use clap::Args;
use data::DataCheck;
use gpu::CardChoice;
use std::path::PathBuf;

mod data;
mod gpu;

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// Does not open the model: plans no memory and counts no tokens.
    #[arg(long)]
    offline: bool,
    /// Checks a prompt file instead: counts, token lengths, repeated and held-out prompts, and every invalid line.
    #[arg(long, value_name = "FILE", group = "reported")]
    data: Option<PathBuf>,
    /// Prompts that must not be in that file [default: every bundled held-out file].
    #[arg(long, value_name = "FILE", requires = "data")]
    held_out: Option<String>,
    /// Says instead, by a model and without a GPU, what a node would need and reach on this card: the config's own model
    /// (not with --offline) and three others.
    #[arg(long, value_name = "CARD", group = "reported")]
    plan_gpu: Option<CardChoice>,
    /// Prints one JSON object.
    #[arg(long, requires = "reported")]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the config is invalid, the model cannot be opened, or the memory plan does not fit.
pub(super) fn run(config: &Config, arguments: &CheckArguments) -> Result<Exit, CommandError> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    if let Some(file) = &arguments.data {
        let CheckArguments { offline, held_out, json, .. } = arguments;
        return data::run(&DataCheck { config, file, held_out: held_out.as_deref(), offline: *offline, json: *json });
    }
    if let Some(card) = arguments.plan_gpu {
        return gpu::run(config, card, arguments.offline, arguments.json);
    }
    print_line(&config.to_toml());
    let protections = node::check(config).or_exit(Exit::Usage)?;
    print_protections(&protections);
    if arguments.offline {
        return Ok(Exit::Done);
    }
    let device = config.model.device.open().or_exit(Exit::Usage)?;
    node::check_device(config, device.location()).or_exit(Exit::Usage)?;
    let path = fetch_model(config)?;
    let opened = formats::open(&path).or_exit(Exit::Model)?;
    try_template(&opened).or_exit(Exit::Model)?;
    let weights = opened.bytes(&device, node::precisions(config, true));
    let spec = opened.spec.clone();
    let mut plan = MemoryPlan::new(&spec, weights, config, &device);
    let judge = judge(config).or_exit(Exit::Model)?;
    if let Some(judge) = &judge {
        let engine = config.judge_engine();
        plan = plan.with_judge(
            &judge.spec,
            judge.bytes(&device, PassPrecisions::decode_only(engine.weights)),
            &engine,
            &device,
        );
        check_context(&judge.spec, &engine, &device, "judge.kv_cache_mib").or_exit(Exit::Usage)?;
    }
    let asked = judge.as_ref().map_or((&opened.template, &opened.tokenizer), |own| (&own.template, &own.tokenizer));
    node::check_judge(config, asked.0, asked.1).or_exit(Exit::Usage)?;
    print_line(&format!("# device: {}", device::name(&device)));
    print_line("# Memory plan in MiB");
    for (name, bytes) in &plan.parts {
        print_line(&format!("# {name:<12} {:>8.1}", mib(*bytes)));
    }
    print_line(&format!("# {:<12} {:>8.1}", "total", mib(plan.total())));
    if device.is_cpu() {
        let caches = plan.by_owner().filter(|(owner, _)| *owner == MemoryOwner::KvCache);
        let rest = plan.total() - caches.map(|(_, bytes)| bytes).sum::<usize>();
        print_line(&format!(
            "# {:<12} {:>8.1}: keys and values take memory as they are written",
            "without KV",
            mib(rest)
        ));
        let (base, matmul) = (config.learner.base_precision(), config.learner.matmul().supported());
        print_line(&format!("# learner: base in {base}, matrix products in {}", matmul.name()));
    }
    let blocks = (config.engine.kv_cache_mib << 20) / Decoder::block_bytes(&spec, config.engine.kv_kind(), &device);
    print_line(&format!("# KV cache: {} tokens", blocks * BLOCK_TOKENS));
    check_memory(&plan, &spec, config, &device, 0).or_exit(Exit::Usage)?;
    Ok(Exit::Done)
}

/// One row for each protection of the sandbox for code.
fn print_protections(protections: &[Protection]) {
    for Protection { name, holds, detail, .. } in protections {
        print_line(&format!("# sandbox: {name:<40} {:<4} {detail}", if *holds { "yes" } else { "NO" }));
    }
}

/// The judge's own model, if it has one.
fn judge(config: &Config) -> Result<Option<OpenedModel>, formats::Error> {
    let Some(source) = config.judge_model() else { return Ok(None) };
    let judge = formats::open(&Source::parse(source)?.fetch()?)?;
    try_template(&judge)?;
    Ok(Some(judge))
}

/// Renders what every role begins with: a template that refuses it, or takes too much for it, serves none.
fn try_template(opened: &OpenedModel) -> Result<(), formats::Error> {
    opened.template.render(&[Turn::new(ChatRole::User, "x")], true).map(drop)
}
