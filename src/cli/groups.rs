//! `rco-node groups`: writes a run's critique groups to a file, as they are or as rows that other trainers learn from.

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::model::fetch_model;
use crate::cli::output::{note_skipped, print_line, print_note};
use crate::config::Config;
use crate::formats;
use crate::formats::source::Source;
use crate::groups::trl::{self, Pairs, TrlFormat};
use crate::groups::{Groups, PromptTexts};
use crate::{groups, telemetry};
use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Arguments of `groups`.
#[derive(Debug, Args)]
pub(super) struct GroupsArguments {
    /// A run directory, or a file of groups.
    #[arg(long, value_name = "RUN|FILE")]
    from: PathBuf,
    /// The file to write. Groups: .jsonl holds one per line, .safetensors flat arrays. Rows: .jsonl or .parquet.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// What to write: groups, which `learn` reads, or rows for a trainer of TRL.
    #[arg(long, value_enum, default_value = "groups")]
    format: Format,
    /// Writes rows as conversations instead of texts; their trainer then applies the model's chat template.
    #[arg(long)]
    conversational: bool,
    /// The critiques of a group that a row of trl-preference compares.
    #[arg(long, value_enum, default_value = "best-worst")]
    pairs: PairsArgument,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Critique groups with everything that was recorded.
    Groups,
    /// Prompt, chosen and rejected critique: for DPO.
    TrlPreference,
    /// Prompt, critique, and whether it made responses better: for KTO.
    TrlUnpaired,
    /// Prompt and the best critique of each group: for supervised fine-tuning.
    TrlPromptCompletion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PairsArgument {
    /// The one of the highest utility and the one of the lowest.
    BestWorst,
    /// Each two of different utilities.
    All,
    /// Those that the judge compared directly (judge.critique_preferences).
    Judge,
}

impl GroupsArguments {
    /// The format of rows; none for groups.
    fn rows(&self) -> Option<TrlFormat> {
        Some(match self.format {
            Format::Groups => return None,
            Format::TrlPreference => TrlFormat::Preference(match self.pairs {
                PairsArgument::BestWorst => Pairs::BestWorst,
                PairsArgument::All => Pairs::All,
                PairsArgument::Judge => Pairs::Judge,
            }),
            Format::TrlUnpaired => TrlFormat::Unpaired,
            Format::TrlPromptCompletion => TrlFormat::PromptCompletion,
        })
    }
}

/// Runs the command.
///
/// # Errors
/// If the groups cannot be read or the file cannot be written.
pub(super) fn run(config: &Config, arguments: &GroupsArguments) -> Result<Exit, CommandError> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    if arguments.rows().is_some() {
        trl::check_name(&arguments.to).context("--to").or_exit(Exit::Usage)?;
    }
    let groups = groups::read(&arguments.from).context("--from").or_exit(Exit::Usage)?;
    note_skipped(&groups);
    match arguments.rows() {
        Some(format) => write_rows(config, arguments, format, &groups)?,
        None if arguments.conversational => {
            return Err(anyhow!("--conversational: expected --format of rows beside it, such as trl-preference"))
                .or_exit(Exit::Usage);
        }
        None => groups::write(&arguments.to, &groups.groups).or_exit(Exit::Usage)?,
    }
    let zero_variance =
        groups.groups.iter().filter(|recorded| recorded.group.is_zero_variance(config.learner.objective)).count();
    print_note(&format!("{} groups, {zero_variance} of them with zero variance", groups.groups.len()));
    print_line(&arguments.to.display().to_string());
    Ok(Exit::Done)
}

/// Writes rows; their prompts are read with the tokenizer and the chat template of the config's model.
fn write_rows(
    config: &Config,
    arguments: &GroupsArguments,
    format: TrlFormat,
    groups: &Groups,
) -> Result<(), CommandError> {
    let source = Source::parse(&config.model.source).or_exit(Exit::Usage)?;
    let path = fetch_model(config)?;
    let sha256 = source.digest(&path).or_exit(Exit::Model)?;
    if let Some(other) = groups.groups.iter().find(|recorded| recorded.model.sha256 != sha256) {
        let (from, model) = (arguments.from.display(), &other.model);
        let error = anyhow!("{from}: expected groups of model.source {source} (sha256 {sha256}), got some of {model}");
        return Err(error).or_exit(Exit::Usage);
    }
    let opened = formats::open(&path).or_exit(Exit::Model)?;
    let texts =
        PromptTexts::new(&opened.tokenizer, &opened.template, &config.critic.role.system).or_exit(Exit::Model)?;
    let rows = trl::rows(&groups.groups, format, &texts, arguments.conversational).or_exit(Exit::Usage)?;
    trl::write_rows(&arguments.to, &rows).or_exit(Exit::Usage)?;
    print_note(&format!("{} rows", rows.len()));
    Ok(())
}
