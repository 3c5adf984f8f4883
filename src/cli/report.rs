//! `rco-node report`: a run as one page of HTML, whether a node runs there or not.

mod critiques;
mod evaluations;
mod settings;

use crate::checkpoint;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::output::{print_line, print_note};
use crate::config::Config;
use crate::disk;
use crate::node::presence;
use crate::report::{self, Contents, CriticRow};
use crate::run::critics::{CriticEntry, Critics};
use crate::telemetry;
use crate::tracking::{self, Environment};
use crate::types::{Label, unix_time};
use anyhow::{Context, anyhow};
use clap::Args;
use std::path::{Path, PathBuf};

/// Arguments of `report`.
#[derive(Debug, Args)]
pub(super) struct ReportArguments {
    /// A run directory, of `start` or `learn`.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The page to write; a page that is there is replaced.
    #[arg(long, value_name = "FILE")]
    html: PathBuf,
    /// A folder that `eval --out` wrote, for the table of its critics; may be repeated.
    #[arg(long, value_name = "DIR")]
    eval: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// If the folder is not that of a run, one of its files cannot be read, or the page cannot be written.
pub(super) fn run(config: &Config, arguments: &ReportArguments) -> Result<Exit, CommandError> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    let contents = gather(arguments)?;
    contents.notes.iter().for_each(|note| print_note(note));
    let page = report::html(&contents);
    disk::replace(&arguments.html, page.as_bytes())
        .with_context(|| arguments.html.display().to_string())
        .or_exit(Exit::Usage)?;
    print_line(&arguments.html.display().to_string());
    Ok(Exit::Done)
}

/// Reads what the run left.
fn gather(arguments: &ReportArguments) -> Result<Contents, CommandError> {
    let run = &arguments.run;
    let lines = tracking::read(run).or_exit(Exit::Usage)?.lines;
    let config = settings::read(run)?;
    if lines.is_empty() && config.is_none() {
        let why = format!("{}: expected the directory of a run, got neither figures nor a config", run.display());
        return Err(anyhow!(why)).or_exit(Exit::Usage);
    }
    let mut notes = Vec::new();
    if lines.is_empty() {
        notes.push("The run has no figures yet, or was told to write none (tracking.figures_mib).".to_owned());
    }
    let config = config.unwrap_or_default();
    let critics = Critics::read(run).or_exit(Exit::Checkpoint)?;
    let evaluations = arguments.eval.iter().map(|folder| evaluations::read(folder)).collect::<Result<Vec<_>, _>>()?;
    let processes = Environment::read(run).with_context(|| run.display().to_string()).or_exit(Exit::Usage)?;
    Ok(Contents {
        name: name(run),
        is_running: presence::is_held(run).unwrap_or(false),
        made: unix_time::now().as_secs_f64(),
        best_step: checkpoint::best(&run.join("checkpoints")).or_exit(Exit::Checkpoint)?.map(|best| best.step),
        evaluations,
        critics: critics.entries().map(row).collect(),
        critiques: critiques::read(run, &config, &mut notes),
        settings: settings::differences(&config),
        lines,
        config,
        processes,
        notes,
    })
}

/// The last part of the run's path.
fn name(run: &Path) -> String {
    let whole = run.canonicalize().unwrap_or_else(|_| run.to_owned());
    whole.file_name().unwrap_or(whole.as_os_str()).to_string_lossy().into_owned()
}

fn row(entry: &CriticEntry) -> CriticRow {
    let last = entry.changes.last();
    CriticRow {
        version: entry.version.to_string(),
        state: entry.state.value().replace('_', " "),
        origin: entry.origin.to_string(),
        groups: entry.scores.groups,
        utility: entry.scores.mean().map(|mean| (mean, entry.scores.half_width())),
        eval_utility: entry.eval_cu,
        changed: last.map_or(0, |change| change.at),
        why: last.map_or(String::new(), |change| change.why.clone()),
    }
}
