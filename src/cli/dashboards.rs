//! `rco-node dashboards`: dashboards, rules and alerts as files, for a node at the default address.

use super::exit::{CommandError, Exit, OrExit};
use super::made_files;
use super::output::print_line;
use crate::config::Config;
use crate::dashboards::{Target, files};
use anyhow::anyhow;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `dashboards`.
#[derive(Debug, Args)]
pub(super) struct DashboardsArguments {
    /// The folder to write into.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn run(config: &Config, arguments: &DashboardsArguments) -> Result<Exit, CommandError> {
    let address = &config.telemetry.address;
    if address.is_empty() {
        return Err(anyhow!("telemetry.address: expected an address to scrape, got \"\"")).or_exit(Exit::Usage);
    }
    let files = files(&Target::new(address));
    made_files::write(&arguments.out, &files)?;
    print_line(&format!("wrote {} files into {}", files.len(), arguments.out.display()));
    Ok(Exit::Done)
}
