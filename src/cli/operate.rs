//! What an operator asks of a running node: `swap`, `rollback`, `pin`, `unpin`, `pause`, `resume`, `checkpoint`, `drain`.
//!
//! Each is one request to the node's listener, found by its run directory or named by --node.

use crate::checkpoint::acquire;
use crate::cli::critic_source::CriticSource;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::node_client::{NodeArguments, NodeClient};
use crate::cli::output::print_line;
use crate::config::Config;
use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::path::Path;

/// Arguments of `swap`.
#[derive(Debug, Args)]
pub(super) struct SwapArguments {
    /// The folder of a checkpoint or PEFT adapter, a version such as 12, RUN, RUN@STEP or RUN@best.
    critic: String,
    /// Puts it into service without looking at what it says.
    #[arg(long)]
    no_canary: bool,
    /// Tries it on this share of the episodes first [default: swap.canary_share].
    #[arg(long, value_name = "SHARE")]
    share: Option<f64>,
    #[command(flatten)]
    node: NodeArguments,
}

/// Arguments of `rollback` and `pin`.
#[derive(Debug, Args)]
pub(super) struct VersionArguments {
    /// The version [default: for rollback the parent of the critic in service, for pin that critic].
    #[arg(value_name = "VERSION")]
    number: Option<u64>,
    #[command(flatten)]
    node: NodeArguments,
}

/// What can be paused.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum What {
    /// No episode begins.
    Rollout,
    /// No batch is learned.
    Learner,
    /// Both.
    All,
}

/// Arguments of `pause` and `resume`.
#[derive(Debug, Args)]
pub(super) struct PauseArguments {
    /// What.
    #[arg(value_enum, default_value_t = What::All)]
    what: What,
    #[command(flatten)]
    node: NodeArguments,
}

/// Runs `swap`.
///
/// # Errors
/// If there is no such critic, no node, or the node refuses it.
pub(super) fn swap(config: &Config, arguments: &SwapArguments) -> Result<Exit, CommandError> {
    let mut body = offer(&arguments.critic)?;
    body["canary"] = json!(!arguments.no_canary);
    body["by"] = json!(operator());
    if let Some(share) = arguments.share {
        body["share"] = json!(share);
    }
    let answer = NodeClient::find(config, &arguments.node)?.post("/admin/swap", &body)?;
    print_outcome(&answer);
    Ok(Exit::Done)
}

/// The body of a swap to `critic`: a version, or what names a folder.
pub(super) fn offer(critic: &str) -> Result<Value, CommandError> {
    Ok(match critic.parse::<u64>() {
        Ok(version) if !Path::new(critic).exists() => json!({ "version": version }),
        _ => json!({ "path": folder(critic)? }),
    })
}

/// The folder of the critic that `argument` names, as the node can open it from its own working directory.
fn folder(argument: &str) -> Result<std::path::PathBuf, CommandError> {
    let path = match CriticSource::find(argument)? {
        CriticSource::Peft(folder) => folder,
        CriticSource::Checkpoint(listed) => {
            // Kept from being pruned until it is locked: long enough to say clearly that it is whole.
            acquire(&listed.path).or_exit(Exit::Checkpoint)?;
            listed.path
        }
    };
    let unusable = || format!("{}: expected a folder with a checkpoint or PEFT's two files", path.display());
    std::path::absolute(&path).ok().filter(|path| path.is_dir()).with_context(unusable).or_exit(Exit::Usage)
}

/// Who asks, for the registry.
pub(super) fn operator() -> String {
    std::env::var("USER").ok().filter(|user| !user.trim().is_empty()).unwrap_or_else(|| "operator".to_owned())
}

/// Runs `rollback`.
///
/// # Errors
/// If there is no node, or it refuses.
pub(super) fn rollback(config: &Config, arguments: &VersionArguments) -> Result<Exit, CommandError> {
    let body = json!({ "version": arguments.number, "by": operator() });
    let answer = NodeClient::find(config, &arguments.node)?.post("/admin/rollback", &body)?;
    print_outcome(&answer);
    Ok(Exit::Done)
}

/// Runs `pin`.
///
/// # Errors
/// If there is no node, or it refuses.
pub(super) fn pin(config: &Config, arguments: &VersionArguments) -> Result<Exit, CommandError> {
    let body = json!({ "version": arguments.number, "by": operator() });
    let answer = NodeClient::find(config, &arguments.node)?.post("/admin/pin", &body)?;
    print_outcome(&answer);
    Ok(Exit::Done)
}

/// Runs `unpin`.
///
/// # Errors
/// If there is no node.
pub(super) fn unpin(config: &Config, arguments: &NodeArguments) -> Result<Exit, CommandError> {
    let answer = NodeClient::find(config, arguments)?.post("/admin/unpin", &json!({}))?;
    print_outcome(&answer);
    Ok(Exit::Done)
}

/// Runs `pause`, or `resume` if not `paused`.
///
/// # Errors
/// If there is no node.
pub(super) fn set_paused(config: &Config, arguments: &PauseArguments, paused: bool) -> Result<Exit, CommandError> {
    let what = arguments.what.to_possible_value().map(|what| what.get_name().to_owned());
    let path = if paused { "/admin/pause" } else { "/admin/resume" };
    let answer = NodeClient::find(config, &arguments.node)?.post(path, &json!({ "what": what }))?;
    let state = |part: &str| if answer[part] == json!(true) { "paused" } else { "running" };
    print_line(&format!("rollout {}, learner {}", state("rollout"), state("learner")));
    Ok(Exit::Done)
}

/// Arguments of `configure`.
#[derive(Debug, Args)]
pub(super) struct ConfigureArguments {
    /// Settings, such as learner.beta=0.2; of the log's filter, log=debug.
    #[arg(required = true, value_name = "KEY=VALUE")]
    settings: Vec<String>,
    #[command(flatten)]
    node: NodeArguments,
}

/// Runs `configure`.
///
/// # Errors
/// If a setting is not KEY=VALUE, there is no node, or it refuses.
pub(super) fn configure(config: &Config, arguments: &ConfigureArguments) -> Result<Exit, CommandError> {
    let mut body = serde_json::Map::new();
    for setting in &arguments.settings {
        let malformed = || format!("{setting}: expected KEY=VALUE");
        let (key, value) = setting.split_once('=').with_context(malformed).or_exit(Exit::Usage)?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        body.insert(key.trim().to_owned(), value);
    }
    let answer = NodeClient::find(config, &arguments.node)?.post("/admin/config", &Value::Object(body))?;
    let lines = answer["set"].as_array().into_iter().flatten().filter_map(Value::as_str);
    lines.for_each(print_line);
    Ok(Exit::Done)
}

/// Runs `checkpoint`.
///
/// # Errors
/// If there is no node, or the checkpoint is not written.
pub(super) fn checkpoint(config: &Config, arguments: &NodeArguments) -> Result<Exit, CommandError> {
    NodeClient::find(config, arguments)?.post("/admin/checkpoint", &json!({}))?;
    print_line("wrote a checkpoint");
    Ok(Exit::Done)
}

/// Runs `drain`.
///
/// # Errors
/// If there is no node.
pub(super) fn drain(config: &Config, arguments: &NodeArguments) -> Result<Exit, CommandError> {
    NodeClient::find(config, arguments)?.post("/admin/drain", &json!({}))?;
    print_line("the node finishes the work under way, writes a checkpoint and ends");
    Ok(Exit::Done)
}

fn print_outcome(answer: &Value) {
    print_line(&outcome(answer));
}

/// What became of a swap, in a line.
pub(super) fn outcome(answer: &Value) -> String {
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    format!("critic v{}: {} ({})", answer["version"], text("state"), text("why"))
}
