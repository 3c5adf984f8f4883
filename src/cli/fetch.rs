//! `rco-node fetch`: brings the model to this machine and says where it lies.

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::model::fetch_model;
use crate::cli::output::print_line;
use crate::config::Config;
use crate::telemetry;

/// Runs the command.
///
/// # Errors
/// Where the source is malformed, unreachable or not what its digest says.
pub(super) fn run(config: &Config) -> Result<Exit, CommandError> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    let path = fetch_model(config)?;
    print_line(&path.display().to_string());
    Ok(Exit::Done)
}
