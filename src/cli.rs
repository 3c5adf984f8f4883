//! The command line: parses the arguments, dispatches to a command and returns its exit code.
//!
//! Commands share the files beside them (`exit`, `model`, `output`, ...) and never import each other or this file.

mod bench;
mod check;
mod critic_source;
mod critics;
mod critique;
mod dashboards;
mod device_watch;
mod episodes;
mod eval;
mod exit;
mod export;
mod fetch;
mod generate;
mod groups;
mod learn;
mod listener;
mod made_files;
mod model;
mod monitor;
mod node_client;
mod operate;
mod output;
mod parse;
mod report;
mod score;
mod serve;
mod served;
mod signals;
mod start;
mod status;
mod terminal_text;
mod top;
mod verify;

use crate::checkpoint as checkpoints;
use crate::config::Config;
use crate::disk;
use crate::telemetry::logs;
use clap::{Parser, Subcommand};
use exit::{CommandError, Exit, OrExit};
use output::{LOG_PATIENCE, print_note};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Trains an LLM critic on one device: RCO with asynchronous off-policy DRO.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = exit_codes())]
struct Arguments {
    /// Config file; keys that it leaves out keep the built-in quickstart's values.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one config key, such as `learner.beta=0.2`; may be repeated.
    #[arg(long = "set", global = true, value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
    /// Where the model runs: auto, cpu or cuda:N; short for `--set model.device=...`.
    #[arg(long, global = true)]
    device: Option<String>,
    #[command(subcommand)]
    command: Command,
}

/// The exit codes as `--help` lists them.
fn exit_codes() -> String {
    let line = |exit: &Exit| format!("  {}  {}", *exit as u8, exit.meaning().replace('`', ""));
    format!("Exit codes:\n{}", Exit::ALL.iter().map(line).collect::<Vec<_>>().join("\n"))
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Trains a critic: rollout and learning at once, until Ctrl-C.
    Start(start::StartArguments),
    /// Serves the API without training, with a trained critic or the base.
    Serve(serve::ServeArguments),
    /// Criticises one response, and tries the critiques.
    Critique(critique::CritiqueArguments),
    /// Validates the config, prints it resolved and checks that the model fits into memory.
    Check(check::CheckArguments),
    /// Generates texts for prompts, in any role.
    Generate(generate::GenerateArguments),
    /// Computes the log-probabilities of given token ids.
    Score(score::ScoreArguments),
    /// Measures speed on this machine beside the hardware's limits.
    Bench(bench::BenchArguments),
    /// Exports the critic as a PEFT adapter, a merged Hugging Face folder or a llama.cpp LoRA file.
    Export(export::ExportArguments),
    /// Compares critics on held-out prompts.
    Eval(eval::EvalArguments),
    /// Trains a critic on recorded groups, without rollout.
    Learn(learn::LearnArguments),
    /// Writes a run's critique groups to a file.
    Groups(groups::GroupsArguments),
    /// Writes a run as one page of HTML: curves, evaluations, critics, critiques, settings.
    Report(report::ReportArguments),
    /// Shows the episodes of a run: a list, one tree, or a page for a browser.
    #[command(disable_version_flag = true)]
    Episodes(episodes::EpisodesArguments),
    /// Scores texts by their prompts' verifiers, and says how each was read.
    Verify(verify::VerifyArguments),
    /// Downloads the model into the cache and prints its path.
    Fetch,
    /// Says what a running node does.
    Status(status::StatusArguments),
    /// Shows a running node in the terminal, with keys that change it.
    Top(top::TopArguments),
    /// Writes dashboards, rules and alerts for Grafana and Prometheus.
    Dashboards(dashboards::DashboardsArguments),
    /// Writes the same for a running node, and says how to start the services.
    Monitor(monitor::MonitorArguments),
    /// Lists the critics of a run: state, origin, and what they earned.
    Critics(critics::CriticsArguments),
    /// Puts a critic into service on a running node.
    Swap(operate::SwapArguments),
    /// Takes the critic in service back.
    Rollback(operate::VersionArguments),
    /// Keeps a critic in service whatever the learner publishes.
    Pin(operate::VersionArguments),
    /// Lets the learner's publications serve again.
    Unpin(node_client::NodeArguments),
    /// Pauses rollout, learner or both.
    Pause(operate::PauseArguments),
    /// Resumes what was paused.
    Resume(operate::PauseArguments),
    /// Changes settings of a running node.
    Configure(operate::ConfigureArguments),
    /// Writes a checkpoint of a running node.
    Checkpoint(node_client::NodeArguments),
    /// Lets a running node finish its work, write a checkpoint and end.
    Drain(node_client::NodeArguments),
}

/// Reads the command line, runs the command and returns its exit code.
pub fn main() -> ExitCode {
    let ended = run(Arguments::parse());
    logs::flush(LOG_PATIENCE);
    match (ended, output::failure()) {
        (Ok(_), Some(why)) => {
            print_note(&format!("error: standard output: {why}"));
            ExitCode::from(Exit::Failed as u8)
        }
        (Ok(exit), None) => ExitCode::from(exit as u8),
        (Err(error), _) => {
            print_note(&format!("error: {}", error.in_one_line()));
            ExitCode::from(error.exit as u8)
        }
    }
}

fn run(arguments: Arguments) -> Result<Exit, CommandError> {
    let device = arguments.device.map(|device| format!("model.device={device}"));
    let sets: Vec<String> = arguments.sets.into_iter().chain(device).collect();
    let config = resolve(arguments.config.as_deref(), &sets).or_exit(Exit::Usage)?;
    match arguments.command {
        Command::Start(start) => start::run(config, &start),
        Command::Serve(serve) => serve::run(&config, &serve),
        Command::Critique(critique) => critique::run(&config, &critique),
        Command::Check(check) => check::run(&config, &check),
        Command::Generate(generate) => generate::run(&config, &generate),
        Command::Score(score) => score::run(&config, &score),
        Command::Bench(bench) => bench::run(config, &bench),
        Command::Export(export) => export::run(&config, &export),
        Command::Eval(eval) => eval::run(&config, &eval),
        Command::Learn(learn) => learn::run(config, &learn),
        Command::Groups(groups) => groups::run(&config, &groups),
        Command::Report(report) => report::run(&config, &report),
        Command::Episodes(episodes) => episodes::run(&config, &episodes),
        Command::Verify(verify) => verify::run(&config, &verify),
        Command::Fetch => fetch::run(&config),
        Command::Status(status) => status::run(&config, &status),
        Command::Top(top) => top::run(&config, &top),
        Command::Dashboards(dashboards) => dashboards::run(&config, &dashboards),
        Command::Monitor(monitor) => monitor::run(&config, &monitor),
        Command::Critics(critics) => critics::run(&config, &critics),
        Command::Swap(swap) => operate::swap(&config, &swap),
        Command::Rollback(rollback) => operate::rollback(&config, &rollback),
        Command::Pin(pin) => operate::pin(&config, &pin),
        Command::Unpin(node) => operate::unpin(&config, &node),
        Command::Pause(pause) => operate::set_paused(&config, &pause, true),
        Command::Resume(resume) => operate::set_paused(&config, &resume, false),
        Command::Configure(configure) => operate::configure(&config, &configure),
        Command::Checkpoint(node) => operate::checkpoint(&config, &node),
        Command::Drain(node) => operate::drain(&config, &node),
    }
}

/// The built-in config overlaid with `file` and `sets`.
fn resolve(file: Option<&Path>, sets: &[String]) -> anyhow::Result<Config> {
    let text = file.map(|path| {
        disk::read_text(path, checkpoints::CONFIG_BYTES_MAX)
            .map_err(|error| anyhow::anyhow!("--config: expected a TOML file, got {path:?}: {error}"))
    });
    let text = text.transpose()?;
    Ok(Config::resolve(file.zip(text.as_deref()), sets)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn help_lists_every_exit_code() {
        let help = Arguments::command().render_long_help().to_string();
        for exit in Exit::ALL {
            let line = format!("  {}  {}", *exit as u8, exit.meaning().replace('`', ""));
            assert!(help.contains(&line), "{line}: {help}");
        }
    }
}
