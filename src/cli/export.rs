//! `rco-node export`: writes the critic in formats that other programs read.

mod card;

use crate::cli::critic_source::{self, CriticSource};
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::output::print_line;
use crate::config::Config;
use crate::export::{self, Dtype, MergedLayout, ModelCard};
use crate::formats;
use crate::formats::OpenedModel;
use crate::formats::source::Source;
use crate::telemetry;
use crate::transformer::full_weights::CriticWeights;
use crate::types::ModelId;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// Arguments of `export`.
#[derive(Debug, Args)]
pub(super) struct ExportArguments {
    /// Output format.
    #[arg(long, value_enum)]
    to: Format,
    /// The folder or file to write; it must not exist.
    out: PathBuf,
    /// A PEFT adapter folder, or a checkpoint's folder of full weights. Without this and --run, `merged` writes the base
    /// model.
    #[arg(long, value_name = "DIR", conflicts_with = "run")]
    adapter: Option<PathBuf>,
    /// A run directory: exports the critic of its newest whole checkpoint; RUN@best exports the best one.
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Uses the run's checkpoint of this learner step.
    #[arg(long, value_name = "K", requires = "run")]
    step: Option<u64>,
    /// The base model [default: the run's, else model.source].
    #[arg(long, value_name = "SOURCE")]
    model: Option<String>,
    /// Name of the base model in the output [default: the model's source].
    #[arg(long, value_name = "NAME")]
    base_name: Option<String>,
    /// The licence of the weights on the model card, such as Apache-2.0.
    #[arg(long, value_name = "SPDX")]
    licence: Option<String>,
    /// Data type of the merged weights.
    #[arg(long, value_enum, default_value_t = DType::F32)]
    dtype: DType,
    /// Largest file of merged weights, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    shard_mib: u32,
}

/// Output formats.
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
    /// Its name on the command line.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Data types of merged weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DType {
    F32,
    Bf16,
    F16,
}

/// Runs the command.
///
/// # Errors
/// If the checkpoint, adapter or model does not exist, if they do not fit together, or if the output cannot be written.
pub(super) fn run(config: &Config, arguments: &ExportArguments) -> Result<Exit, CommandError> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    if arguments.to != Format::Merged && arguments.adapter.is_none() && arguments.run.is_none() {
        let to = arguments.to.name();
        return Err(anyhow::anyhow!("--to {to}: expected --adapter or --run, got neither")).or_exit(Exit::Usage);
    }
    if arguments.out.symlink_metadata().is_ok() {
        return Err(failure(export::Error::Taken(arguments.out.clone())));
    }
    let critic = match (&arguments.run, &arguments.adapter) {
        (Some(run), _) => Some(CriticSource::Checkpoint(critic_source::checkpoint_of_run(run, arguments.step)?)),
        (None, Some(adapter)) if !adapter.is_dir() => {
            let why = format!("--adapter: expected the folder of a PEFT adapter, got {adapter:?}, which is none");
            return Err(anyhow::anyhow!(why)).or_exit(Exit::Usage);
        }
        (None, Some(adapter)) => Some(CriticSource::Peft(adapter.clone())),
        (None, None) => None,
    };
    let trained_on = critic.as_ref().map(CriticSource::trained_on).transpose()?.flatten();
    let named = arguments.model.clone().or(trained_on).unwrap_or_else(|| config.model.source.clone());
    let source = Source::parse(&named).or_exit(Exit::Usage)?;
    let path = source.fetch().or_exit(Exit::Model)?;
    let opened = formats::open(&path).or_exit(Exit::Model)?;
    let card = match &critic {
        Some(CriticSource::Checkpoint(listed)) => card::of_checkpoint(listed, arguments.licence.clone())?,
        _ => ModelCard { licence: arguments.licence.clone(), ..ModelCard::default() },
    };
    let critic = critic.map(|critic| critic.load(&opened.spec)).transpose()?;
    let base = base(arguments, &source, &path)?;
    if arguments.to != Format::Merged && critic.as_ref().is_some_and(|critic| critic.full().is_some()) {
        let why =
            "expected an adapter, got a critic with full weights (learner.mode full), which only --to merged exports";
        return Err(anyhow::anyhow!("--to {}: {why}", arguments.to.name())).or_exit(Exit::Usage);
    }
    write(arguments, &path, &opened, critic.as_ref(), (&base, &card)).map_err(failure)?;
    print_line(&arguments.out.display().to_string());
    Ok(Exit::Done)
}

fn write(
    arguments: &ExportArguments,
    path: &Path,
    opened: &OpenedModel,
    critic: Option<&CriticWeights>,
    (base, card): (&ModelId, &ModelCard),
) -> export::Result<()> {
    let dtype = match arguments.dtype {
        DType::F32 => Dtype::F32,
        DType::Bf16 => Dtype::Bf16,
        DType::F16 => Dtype::F16,
    };
    match (arguments.to, critic.and_then(CriticWeights::adapter)) {
        (Format::Peft, Some(adapter)) => export::write_peft(&arguments.out, adapter, &opened.spec, base, card),
        (Format::GgufLora, Some(adapter)) => export::write_lora_gguf(&arguments.out, adapter, &opened.spec, base),
        _ => {
            let layout = MergedLayout { dtype, shard_bytes: (arguments.shard_mib as usize) << 20 };
            export::write_merged(&arguments.out, path, critic, (base, card), layout)
        }
    }
}

fn failure(error: export::Error) -> CommandError {
    let exit = match error {
        export::Error::Taken(_)
        | export::Error::NoName(_)
        | export::Error::AdapterMismatch { .. }
        | export::Error::Ends
        | export::Error::Fused { .. } => Exit::Usage,
        export::Error::Model(_) | export::Error::Unrepresentable { .. } => Exit::Model,
        _ => Exit::Failed,
    };
    CommandError { exit, error: error.into() }
}

/// Name and digest of the base model, for the output.
fn base(arguments: &ExportArguments, source: &Source, path: &Path) -> Result<ModelId, CommandError> {
    let name = match (&arguments.base_name, source) {
        (Some(name), _) => name.clone(),
        // Readers of these formats expect the bare Hub name.
        (None, Source::Hub { model }) => model.clone(),
        (None, other) => other.to_string(),
    };
    let sha256 = source.digest(path).or_exit(Exit::Model)?;
    Ok(ModelId { name, sha256 })
}
