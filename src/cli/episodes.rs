//! `rco-node episodes`: the episodes of a run, whether a node runs there or not: a list, one tree, or a page of their own.

mod text;

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::output::{print_line, print_note};
use crate::cli::terminal_text;
use crate::config::Config;
use crate::disk;
use crate::http::page;
use crate::records::{EpisodeStore, EpisodeSummary, Filter, Span, TextPattern};
use crate::types::{CriticVersion, EpisodeId};
use anyhow::{Context, anyhow};
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Episodes of a list, unless the user says otherwise.
const LIMIT: usize = 50;
/// Episodes of a page, unless the user says otherwise.
const HTML_LIMIT: usize = 1000;

/// Arguments of `episodes`.
#[derive(Debug, Args)]
pub(super) struct EpisodesArguments {
    /// The run directory [default: node.run_directory].
    #[arg(long, value_name = "RUN")]
    run: Option<PathBuf>,
    /// Episodes of this task.
    #[arg(long)]
    task: Option<String>,
    /// Episodes of the prompt with this id.
    #[arg(long, value_name = "ID")]
    prompt: Option<String>,
    /// Episodes in which a verdict is invalid, or a critique or the episode was dropped.
    #[arg(long)]
    invalid: bool,
    /// Episodes with a critique by this version of the critic.
    #[arg(long, value_name = "V")]
    version: Option<u64>,
    /// Episodes with a critique (by that version, if one is given) whose CU is at least this.
    #[arg(long, value_name = "CU", value_parser = utility)]
    min_cu: Option<f32>,
    /// ... and at most this.
    #[arg(long, value_name = "CU", value_parser = utility)]
    max_cu: Option<f32>,
    /// Episodes with this text in the prompt, the response, a critique or a refinement, whatever the case of letters.
    #[arg(long, value_name = "S")]
    text: Option<String>,
    /// Episodes at most, the newest first [default: 50; 1000 with --html].
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Shows the whole tree of one episode.
    #[arg(long, value_name = "ID", conflicts_with_all = ["html", "limit"])]
    show: Option<u64>,
    /// Writes the episodes and a viewer into one file for a browser, which needs nothing else.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Prints JSON, one line for each episode.
    #[arg(long, conflicts_with = "html")]
    json: bool,
}

/// A critique utility.
fn utility(text: &str) -> Result<f32, String> {
    let utility = text.parse().ok().filter(|utility| (0.0..=1.0).contains(utility));
    utility.ok_or_else(|| format!("expected a critique utility from 0 to 1, got {text:?}"))
}

/// Runs the command.
///
/// # Errors
/// If the run keeps no records, they cannot be read, or there is no such episode.
pub(super) fn run(config: &Config, arguments: &EpisodesArguments) -> Result<Exit, CommandError> {
    let folder = arguments.run.clone().unwrap_or_else(|| PathBuf::from(&config.node.run_directory));
    let filter = filter(arguments).or_exit(Exit::Usage)?;
    let (store, skipped) = EpisodeStore::read(&folder).or_exit(Exit::Usage)?;
    if skipped > 0 {
        print_note(&format!("skipped {skipped} lines that are no episode records"));
    }
    if let Some(id) = arguments.show {
        return show(&store, EpisodeId(id), arguments.json);
    }
    let default = if arguments.html.is_some() { HTML_LIMIT } else { LIMIT };
    let span = Span { before: None, limit: arguments.limit.unwrap_or(default), patience: Duration::MAX };
    let found = store.page(&filter, span)?;
    match &arguments.html {
        Some(path) => write_page(&store, &found.episodes, &folder, path)?,
        None if arguments.json => found.episodes.iter().for_each(|episode| print_json(episode)),
        None => list(&found.episodes),
    }
    if found.next.is_some() {
        print_note(&format!("the newest {} are shown: --limit shows more", found.episodes.len()));
    }
    Ok(Exit::Done)
}

fn filter(arguments: &EpisodesArguments) -> Result<Filter, anyhow::Error> {
    let text = arguments.text.as_ref().filter(|text| !text.is_empty());
    Ok(Filter {
        task: arguments.task.clone(),
        prompt_id: arguments.prompt.clone(),
        is_invalid: arguments.invalid,
        version: arguments.version.map(CriticVersion),
        cu_min: arguments.min_cu,
        cu_max: arguments.max_cu,
        text: text.map(|text| TextPattern::new(text)).transpose().context("--text")?,
    })
}

fn show(store: &EpisodeStore, id: EpisodeId, as_json: bool) -> Result<Exit, CommandError> {
    let unknown = || anyhow!("episode {id}: expected one that `rco-node episodes` lists");
    if as_json {
        let line = store.json(id)?.ok_or_else(unknown).or_exit(Exit::Usage)?;
        print_line(&terminal_text::json(String::from_utf8_lossy(&line).trim_end()));
    } else {
        let record = store.record(id)?.ok_or_else(unknown).or_exit(Exit::Usage)?;
        text::tree(&record).iter().for_each(|line| print_line(line));
    }
    Ok(Exit::Done)
}

fn print_json(episode: &EpisodeSummary) {
    print_line(&terminal_text::json(
        &serde_json::to_string(episode).expect("strings and finite numbers are always JSON"),
    ));
}

fn list(episodes: &[Arc<EpisodeSummary>]) {
    print_line(text::HEAD);
    episodes.iter().for_each(|episode| print_line(&text::row(episode)));
    print_note("CU: mean critique utility, and the least and the greatest of the critiques; -: no verdict is valid");
}

/// Writes `episodes` of the run in `folder` as one file.
fn write_page(
    store: &EpisodeStore,
    episodes: &[Arc<EpisodeSummary>],
    folder: &Path,
    path: &Path,
) -> Result<(), CommandError> {
    let mut records = Vec::with_capacity(episodes.len());
    for episode in episodes {
        // One that has left meanwhile is no loss to a page of the newest.
        records.extend(store.json(episode.id)?);
    }
    let file = page::viewer(&folder.display().to_string(), &records);
    disk::replace(path, &file).with_context(|| path.display().to_string()).or_exit(Exit::Usage)?;
    print_note(&format!("{} episodes", records.len()));
    print_line(&path.display().to_string());
    Ok(())
}
