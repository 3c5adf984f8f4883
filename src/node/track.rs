//! Begins the files beside a run that say what it was and how it went: its resolved config, its processes, its figures.

use super::error::Error;
use crate::actors::run_context::RunContext;
use crate::disk;
use crate::run::figures::Figures;
use crate::tracking::{self, ENVIRONMENT_FILE, Environment, FigureWriter, TrackingConfig};
use crate::transformer::device;
use std::path::Path;

/// The resolved config of a run's newest process, in the run directory.
pub(crate) const RESOLVED_CONFIG: &str = "resolved-config.toml";

/// Begins the files of the run in the directory `run` for this process, whose resolved config is `text` and which goes on from the
/// step `resumed_from` if it is a resume.
pub(super) fn track(
    context: &RunContext,
    run: &Path,
    config: &TrackingConfig,
    text: &str,
    resumed_from: Option<u64>,
) -> Result<(), Error> {
    let device = device::name(&context.models.model.transformer.device());
    let process = Environment { resumed_from, device, ..Environment::of_process("start", &context.base) };
    note_process(run, text, &process)?;
    if let Some(writer) = FigureWriter::open(run, config, resumed_from)? {
        context.events.track(Figures::new(writer, resumed_from.unwrap_or_default()));
    }
    Ok(())
}

/// Writes the resolved config `text` of the run in the directory `run`, and a line for this process.
///
/// # Errors
/// If the disk fails.
pub(crate) fn note_process(run: &Path, text: &str, process: &Environment) -> Result<(), tracking::Error> {
    let io = |name: &str| {
        let path = run.join(name);
        |source| tracking::Error::Io { path, source }
    };
    disk::replace(&run.join(RESOLVED_CONFIG), text.as_bytes()).map_err(io(RESOLVED_CONFIG))?;
    process.append(run).map_err(io(ENVIRONMENT_FILE))
}
