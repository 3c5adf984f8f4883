//! `rco-node export`: the critic in the formats of other programs.

use super::{Exit, Failure, OrExit, say};
use crate::checkpoint::{self, Listed};
use crate::config::Config;
use crate::export::{self, Base, Kind, Shape};
use crate::model::source::Source;
use crate::model::whole::CriticWeights;
use crate::model::{self, Opened};
use crate::telemetry;
use anyhow::Context;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// What `export` takes.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// What to make.
    #[arg(long, value_enum)]
    to: Format,
    /// The folder or file to write; nothing may be there yet.
    out: PathBuf,
    /// A PEFT adapter folder, or a checkpoint's folder of all weights; with neither this nor --run, `merged` writes the base
    /// alone.
    #[arg(long, value_name = "DIR", conflicts_with = "run")]
    adapter: Option<PathBuf>,
    /// A run directory: its newest whole checkpoint's critic, on the model it was trained on.
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// The run's checkpoint of this learner step.
    #[arg(long, value_name = "K", requires = "run")]
    step: Option<u64>,
    /// The base model [default: the run's, else model.source].
    #[arg(long, value_name = "SOURCE")]
    model: Option<String>,
    /// What the output calls its base [default: the model's source].
    #[arg(long, value_name = "NAME")]
    base_name: Option<String>,
    /// Type of the merged weights.
    #[arg(long, value_enum, default_value_t = DType::F32)]
    dtype: DType,
    /// Longest file of merged weights, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    shard_mib: u32,
}

/// What other programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// PEFT's adapter folder.
    Peft,
    /// A whole model as a Hugging Face folder.
    Merged,
    /// llama.cpp's LoRA file.
    GgufLora,
}

impl Format {
    /// As it is typed.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Types of merged weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DType {
    F32,
    Bf16,
    F16,
}

/// Runs the command.
///
/// # Errors
/// Where there is no such checkpoint, adapter or model, they do not belong together, or the output cannot be written.
pub fn run(config: &Config, arguments: &ExportArguments) -> Result<Exit, Failure> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    if arguments.to != Format::Merged && arguments.adapter.is_none() && arguments.run.is_none() {
        let to = arguments.to.name();
        return Err(anyhow::anyhow!("--to {to}: expected --adapter or --run, got neither")).or_exit(Exit::Usage);
    }
    let listed = arguments.run.as_deref().map(|run| checkpoint_of(run, arguments.step)).transpose()?;
    let trained_on = listed.as_ref().map(trained_on).transpose().or_exit(Exit::Checkpoint)?;
    let named = arguments.model.clone().or(trained_on).unwrap_or_else(|| config.model.source.clone());
    let source = Source::parse(&named).or_exit(Exit::Usage)?;
    let path = source.fetch().or_exit(Exit::Model)?;
    let opened = model::open(&path).or_exit(Exit::Model)?;
    let critic = match (&listed, &arguments.adapter) {
        (Some(listed), _) => Some(checkpoint::load(&listed.path, &opened.spec).or_exit(Exit::Checkpoint)?.critic),
        (None, Some(folder)) => Some(CriticWeights::load(folder, &opened.spec).or_exit(Exit::Usage)?),
        (None, None) => None,
    };
    let base = base(arguments, &source, &path)?;
    if arguments.to != Format::Merged && critic.as_ref().is_some_and(|critic| critic.whole().is_some()) {
        let why = "expected an adapter, got a critic of its own weights (learner.mode full): it goes with --to merged";
        return Err(anyhow::anyhow!("--to {}: {why}", arguments.to.name())).or_exit(Exit::Usage);
    }
    write(arguments, &path, &opened, critic.as_ref(), &base).map_err(failure)?;
    say(&arguments.out.display().to_string());
    Ok(Exit::Done)
}

fn write(
    arguments: &ExportArguments,
    path: &Path,
    opened: &Opened,
    critic: Option<&CriticWeights>,
    base: &Base,
) -> export::Result<()> {
    let kind = match arguments.dtype {
        DType::F32 => Kind::F32,
        DType::Bf16 => Kind::Bf16,
        DType::F16 => Kind::F16,
    };
    match (arguments.to, critic.and_then(CriticWeights::adapter)) {
        (Format::Peft, Some(adapter)) => export::peft(&arguments.out, adapter, &opened.spec, base),
        (Format::GgufLora, Some(adapter)) => export::lora_gguf(&arguments.out, adapter, &opened.spec, base),
        _ => {
            let shape = Shape { kind, shard_bytes: (arguments.shard_mib as usize) << 20 };
            export::merged(&arguments.out, path, critic, base, shape)
        }
    }
}

fn failure(error: export::Error) -> Failure {
    let exit = match error {
        export::Error::Taken(_) | export::Error::NoName(_) | export::Error::Misfit { .. } => Exit::Usage,
        export::Error::Model(_) | export::Error::Unsayable { .. } => Exit::Model,
        _ => Exit::Failed,
    };
    Failure { exit, error: error.into() }
}

/// The newest whole checkpoint of `run`, or that of `step`.
fn checkpoint_of(run: &Path, step: Option<u64>) -> Result<Listed, Failure> {
    let root = run.join("checkpoints");
    let listed = checkpoint::list(&root).or_exit(Exit::Checkpoint)?;
    let mut broken = None;
    for listed in listed.into_iter().filter(|listed| step.is_none_or(|step| listed.step == step)) {
        match listed.verify() {
            Ok(()) => return Ok(listed),
            Err(error) => broken = Some(error),
        }
    }
    let which = step.map_or("no checkpoint".to_owned(), |step| format!("no checkpoint of step {step}"));
    let why = broken.map_or("none is there".to_owned(), |error| error.to_string());
    Err(anyhow::anyhow!("{}: expected a whole checkpoint, got {which}: {why}", root.display()))
        .or_exit(Exit::Checkpoint)
}

/// The source of the model that the checkpoint's run was on.
fn trained_on(listed: &Listed) -> anyhow::Result<String> {
    let path = listed.path.join(checkpoint::CONFIG);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let table: toml::Table = text.parse().with_context(|| path.display().to_string())?;
    let source = table.get("model").and_then(|model| model.get("source")).and_then(toml::Value::as_str);
    source.map(str::to_owned).with_context(|| format!("{}: expected model.source", path.display()))
}

/// What the output says of its base.
fn base(arguments: &ExportArguments, source: &Source, path: &Path) -> Result<Base, Failure> {
    let name = match (&arguments.base_name, source) {
        (Some(name), _) => name.clone(),
        // As everybody who reads these formats spells it.
        (None, Source::Hub { model }) => model.clone(),
        (None, other) => other.to_string(),
    };
    let sha256 = source.digest(path).or_exit(Exit::Model)?;
    Ok(Base { name, sha256 })
}
