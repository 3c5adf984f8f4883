//! `rco-node groups`: what a run scored, as a file.

use super::{Exit, Failure, OrExit, complain, say};
use crate::config::Config;
use crate::{groups, telemetry};
use clap::Args;
use std::path::PathBuf;

/// What `groups` takes.
#[derive(Debug, Args)]
pub struct GroupsArguments {
    /// A run directory, or a file of groups.
    #[arg(long, value_name = "RUN|FILE")]
    from: PathBuf,
    /// The file to write: .jsonl has one group a line, .safetensors flat arrays.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// Where the groups cannot be read, or the file cannot be written.
pub fn run(config: &Config, arguments: &GroupsArguments) -> Result<Exit, Failure> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    let groups = groups::read(&arguments.from).or_exit(Exit::Usage)?;
    tell_skipped(&groups);
    groups::write(&arguments.to, &groups.groups).or_exit(Exit::Usage)?;
    let flat = groups.groups.iter().filter(|recorded| recorded.group.is_flat(config.learner.objective)).count();
    complain(&format!("{} groups, {flat} of them flat", groups.groups.len()));
    say(&arguments.to.display().to_string());
    Ok(Exit::Done)
}

/// Says what of the files does not count.
pub(super) fn tell_skipped(groups: &groups::Groups) {
    if groups.torn > 0 {
        complain(&format!("skipped {} torn lines at the end", groups.torn));
    }
    if groups.replaced > 0 {
        complain(&format!("skipped {} groups whose episodes were run again later", groups.replaced));
    }
}
