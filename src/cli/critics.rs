//! `rco-node critics`: the critics of a run, whether a node runs there or not.

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::node_client::{NodeArguments, NodeClient};
use crate::cli::output::{print_line, print_note};
use crate::config::Config;
use crate::run::critics::{CriticEntry, Critics, Shape};
use crate::types::{CriticVersion, Label};
use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// Arguments of `critics`.
#[derive(Debug, Args)]
pub(super) struct CriticsArguments {
    #[command(subcommand)]
    show: Option<Show>,
    /// Prints JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Subcommand)]
enum Show {
    /// One version, with every change of its state.
    Show {
        /// Its number.
        #[arg(value_name = "VERSION")]
        number: u64,
    },
}

/// The critics of the run directory `run`.
fn read(run: &Path) -> Result<Critics, CommandError> {
    let critics = Critics::read(run).or_exit(Exit::Checkpoint)?;
    if critics.is_empty() {
        return Err(anyhow!("{}: expected a run directory with critics, got none", run.display())).or_exit(Exit::Usage);
    }
    Ok(critics)
}

/// The critics of a running node.
fn asked(client: &NodeClient) -> Result<Critics, CommandError> {
    let answer = client.get("/admin/critics")?;
    let unreadable = || anyhow!("the node's answer: expected a list of critics, got {answer}");
    let told: Told = serde_json::from_value(answer.clone()).map_err(|_| unreadable()).or_exit(Exit::Failed)?;
    Ok(Critics::of(told.critics, told.serving, told.pinned))
}

/// A node's critics, as it tells them.
#[derive(Deserialize)]
struct Told {
    critics: Vec<CriticEntry>,
    serving: CriticVersion,
    pinned: Option<CriticVersion>,
}

/// Runs the command.
///
/// # Errors
/// If the registry cannot be read, or has no such version.
pub(super) fn run(config: &Config, arguments: &CriticsArguments) -> Result<Exit, CommandError> {
    let critics = match arguments.node.names_an_address() {
        true => asked(&NodeClient::find(config, &arguments.node)?)?,
        false => read(&arguments.node.run(config))?,
    };
    match &arguments.show {
        Some(Show::Show { number }) => {
            let version = CriticVersion(*number);
            let unknown = || anyhow!("critic {version}: expected a version that `rco-node critics` lists");
            show(critics.entry(version).ok_or_else(unknown).or_exit(Exit::Usage)?, arguments.json);
        }
        None if arguments.json => {
            let entries: Vec<&CriticEntry> = critics.entries().collect();
            let all = json!({ "serving": critics.serving(), "pinned": critics.pinned(), "critics": entries });
            print_line(&all.to_string());
        }
        None => list(&critics),
    }
    Ok(Exit::Done)
}

/// A table with a line for each version.
fn list(critics: &Critics) {
    print_line(&format!(
        "{:>8}  {:<11}  {:<10}  {:>6}  {:>15}  {:>7}  {:<12}  {}",
        "version", "state", "shape", "groups", "CU", "eval CU", "digest", "origin"
    ));
    for entry in critics.entries() {
        let eval = entry.eval_cu.map_or("-".to_owned(), |cu| format!("{cu:.3}"));
        let pin = if critics.pinned() == Some(entry.version) { " (pinned)" } else { "" };
        print_line(&format!(
            "{:>8}  {:<11}  {:<10}  {:>6}  {:>15}  {:>7}  {:<12}  {}{pin}",
            entry.version.to_string(),
            entry.state.value(),
            shape(entry),
            entry.scores.groups,
            utility(entry),
            eval,
            entry.digest.get(..12).unwrap_or("-"),
            entry.origin
        ));
    }
    print_note("CU: mean utility of the groups in service, with half of its 95 % interval");
}

fn shape(entry: &CriticEntry) -> String {
    match &entry.shape {
        Shape::Base => "base".to_owned(),
        Shape::Lora { rank, .. } => format!("lora r{rank}"),
        Shape::Full => "full".to_owned(),
    }
}

fn utility(entry: &CriticEntry) -> String {
    match (entry.scores.mean(), entry.scores.half_width()) {
        (Some(mean), Some(half)) => format!("{mean:.3} +- {half:.3}"),
        (Some(mean), None) => format!("{mean:.3}"),
        (None, _) => "-".to_owned(),
    }
}

/// One version.
fn show(entry: &CriticEntry, as_json: bool) {
    if as_json {
        return print_line(&serde_json::to_string(entry).expect("strings and numbers are always JSON"));
    }
    let lines = [
        ("version", entry.version.to_string()),
        ("state", entry.state.value().to_owned()),
        ("parent", entry.parent.to_string()),
        ("origin", entry.origin.to_string()),
        ("shape", shape(entry)),
        ("digest", entry.digest.clone()),
        ("base", entry.base.clone()),
        ("weights", if entry.has_weights { "kept" } else { "not kept" }.to_owned()),
        ("groups", entry.scores.groups.to_string()),
        ("CU", utility(entry)),
        ("eval CU", entry.eval_cu.map_or("-".to_owned(), |cu| format!("{cu:.3}"))),
    ];
    lines.iter().for_each(|(name, value)| print_line(&format!("{name:<8}  {value}")));
    for change in &entry.changes {
        let at = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(change.at));
        print_line(&format!("{at}  {:<11}  by {}: {}", change.state.value(), change.by, change.why));
    }
}
