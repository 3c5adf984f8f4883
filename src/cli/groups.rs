//! `rco-node groups`: writes a run's critique groups to a file.

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::output::{note_skipped, print_line, print_note};
use crate::config::Config;
use crate::{groups, telemetry};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `groups`.
#[derive(Debug, Args)]
pub(super) struct GroupsArguments {
    /// A run directory, or a file of groups.
    #[arg(long, value_name = "RUN|FILE")]
    from: PathBuf,
    /// The file to write: .jsonl holds one group per line, .safetensors flat arrays.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// If the groups cannot be read or the file cannot be written.
pub(super) fn run(config: &Config, arguments: &GroupsArguments) -> Result<Exit, CommandError> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    let groups = groups::read(&arguments.from).or_exit(Exit::Usage)?;
    note_skipped(&groups);
    groups::write(&arguments.to, &groups.groups).or_exit(Exit::Usage)?;
    let zero_variance =
        groups.groups.iter().filter(|recorded| recorded.group.is_zero_variance(config.learner.objective)).count();
    print_note(&format!("{} groups, {zero_variance} of them with zero variance", groups.groups.len()));
    print_line(&arguments.to.display().to_string());
    Ok(Exit::Done)
}
