//! `rco-node fetch`: brings the model to this machine and says where it lies.

use super::{Exit, Failure, OrExit, say};
use crate::config::Config;
use crate::formats::source::Source;
use crate::telemetry;

/// Runs the command.
///
/// # Errors
/// Where the source is malformed, unreachable or not what its digest says.
pub fn run(config: &Config) -> Result<Exit, Failure> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    let path = Source::parse(&config.model.source).or_exit(Exit::Usage)?.fetch().or_exit(Exit::Model)?;
    say(&path.display().to_string());
    Ok(Exit::Done)
}
