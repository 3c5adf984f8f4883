//! `rco-node fetch`: downloads the model and prints its path.

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::model::fetch_model;
use crate::cli::output::print_line;
use crate::config::Config;
use crate::telemetry;

/// Runs the command.
///
/// # Errors
/// If the source is malformed or unreachable, or its digest does not match.
pub(super) fn run(config: &Config) -> Result<Exit, CommandError> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    let path = fetch_model(config)?;
    print_line(&path.display().to_string());
    Ok(Exit::Done)
}
