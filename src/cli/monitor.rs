//! `rco-node monitor`: the files of a monitoring stack for one running node, and the commands that start it.

use super::exit::{CommandError, Exit, OrExit};
use super::made_files;
use super::node_client::NodeArguments;
use super::output::print_line;
use crate::config::Config;
use crate::dashboards::{RUNBOOK, Target, commands, files};
use crate::http::TOKEN_FILE;
use anyhow::{Context, anyhow};
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf, absolute};

/// Arguments of `monitor`.
#[derive(Debug, Args)]
pub(super) struct MonitorArguments {
    /// The folder to write into.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where the runbook is served; alerts link to its sections.
    #[arg(long, value_name = "URL", default_value = RUNBOOK)]
    runbook: String,
    #[command(flatten)]
    node: NodeArguments,
}

/// Runs the command.
///
/// # Errors
/// If no node is found, or a file cannot be written.
pub(super) fn run(config: &Config, arguments: &MonitorArguments) -> Result<Exit, CommandError> {
    let url = arguments.node.url(config)?;
    let mut target = Target::of_url(&url).map_err(|why| anyhow!("--node: {why}")).or_exit(Exit::Usage)?;
    target.runbook.clone_from(&arguments.runbook);
    if arguments.node.is_open(config) || !is_loopback(&target.address) {
        target.token_file = Some(token_file(&target.address, &arguments.node.run(config)).or_exit(Exit::Usage)?);
    }
    let folder = absolute(&arguments.out).with_context(|| arguments.out.display().to_string()).or_exit(Exit::Usage)?;
    let files = files(&target);
    made_files::write(&folder, &files)?;
    print_line(&format!("wrote {} files into {}, for the node at {url}", files.len(), folder.display()));
    print_line("");
    print_line(&format!("with Docker:    docker compose -f {}/compose.yaml up", folder.display()));
    print_line("without it:");
    commands(&folder).iter().for_each(|command| print_line(&format!("  {command}")));
    Ok(Exit::Done)
}

/// The file of the token that Prometheus has to show to a node that listens beyond loopback.
fn token_file(address: &str, run: &Path) -> anyhow::Result<PathBuf> {
    let file = run.join(TOKEN_FILE);
    anyhow::ensure!(
        file.exists(),
        "{address}: expected a token for a node beyond loopback in {}; name its run directory with --run",
        file.display()
    );
    absolute(&file).with_context(|| file.display().to_string())
}

/// Whether `address` is on this machine alone.
fn is_loopback(address: &str) -> bool {
    let is_local = address.strip_prefix("localhost").is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
    is_local || address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_node_beyond_loopback_is_asked_with_the_token_of_its_run() {
        let run = tempfile::tempdir().unwrap();
        assert!(["127.0.0.1:9464", "[::1]:9464", "localhost:9464", "localhost"].iter().all(|local| is_loopback(local)));
        assert!(["10.0.0.7:9464", "0.0.0.0:9464", "localhost.example:9464"].iter().all(|open| !is_loopback(open)));
        let error = token_file("10.0.0.7:9464", run.path()).unwrap_err().to_string();
        assert!(error.contains("10.0.0.7:9464") && error.contains("--run"), "{error}");
        std::fs::write(run.path().join(TOKEN_FILE), "0123456789abcdef").unwrap();
        assert_eq!(token_file("10.0.0.7:9464", run.path()).unwrap(), run.path().join(TOKEN_FILE));
    }
}
