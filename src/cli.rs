//! The command line: parses the arguments, dispatches to a command and returns its exit code.
//!
//! Commands share the files beside them (`exit`, `model`, `output`, ...) and never import each other or this file.

mod bench;
mod check;
mod critic_source;
mod eval;
mod exit;
mod export;
mod fetch;
mod generate;
mod groups;
mod learn;
mod memory_plan;
mod model;
mod output;
mod parse;
mod score;
mod signals;
mod start;

use crate::checkpoint;
use crate::config::Config;
use crate::disk;
use clap::{Parser, Subcommand};
use exit::{CommandError, Exit, OrExit};
use output::print_note;
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
    /// Downloads the model into the cache and prints its path.
    Fetch,
}

/// Reads the command line, runs the command and returns its exit code.
pub fn main() -> ExitCode {
    match (run(Arguments::parse()), output::failure()) {
        (Ok(_), Some(why)) => {
            print_note(&format!("error: standard output: {why}"));
            ExitCode::from(Exit::Failed as u8)
        }
        (Ok(exit), None) => ExitCode::from(exit as u8),
        (Err(CommandError { exit, error }), _) => {
            print_note(&format!("error: {}", in_one_line(&error)));
            ExitCode::from(exit as u8)
        }
    }
}

/// The error and its causes on one line. Many errors already contain their cause, which is then not repeated.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.contains(&cause) {
            line += if line.is_empty() { "" } else { ": " };
            line += &cause;
        }
    }
    line
}

fn run(arguments: Arguments) -> Result<Exit, CommandError> {
    let device = arguments.device.map(|device| format!("model.device={device}"));
    let sets: Vec<String> = arguments.sets.into_iter().chain(device).collect();
    let config = resolve(arguments.config.as_deref(), &sets).or_exit(Exit::Usage)?;
    match arguments.command {
        Command::Start(start) => start::run(config, &start),
        Command::Check(check) => check::run(&config, &check),
        Command::Generate(generate) => generate::run(&config, &generate),
        Command::Score(score) => score::run(&config, &score),
        Command::Bench(bench) => bench::run(config, &bench),
        Command::Export(export) => export::run(&config, &export),
        Command::Eval(eval) => eval::run(&config, &eval),
        Command::Learn(learn) => learn::run(config, &learn),
        Command::Groups(groups) => groups::run(&config, &groups),
        Command::Fetch => fetch::run(&config),
    }
}

/// The built-in config overlaid with `file` and `sets`.
fn resolve(file: Option<&Path>, sets: &[String]) -> anyhow::Result<Config> {
    let text = file.map(|path| {
        disk::read_text(path, checkpoint::CONFIG_BYTES_MAX).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
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
