//! The command line: what was typed, what it means, and the exit code it ends with.
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
mod score;
mod signals;
mod start;

use crate::config::Config;
use clap::{Parser, Subcommand};
use exit::{CommandError, Exit, OrExit};
use output::print_note;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Trains an LLM critic on one device: RCO with asynchronous off-policy DRO.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = EXIT_CODES)]
struct Arguments {
    /// Config file; what it leaves out is as in the built-in quickstart.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one key, such as `learner.beta=0.2`; may be repeated.
    #[arg(long = "set", global = true, value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
    /// Where the model runs: auto, cpu or cuda:N; short for --set model.device=...
    #[arg(long, global = true)]
    device: Option<String>,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 usage, config or input file; 3 model could not be fetched or \
loaded; 4 actors failed too often; 5 device broken; 6 checkpoint could not be written or read";

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the node: rollout and learning at once, until Ctrl-C.
    Start(start::StartArguments),
    /// Validates the config, prints it resolved and plans the memory.
    Check(check::CheckArguments),
    /// Writes texts for prompts.
    Generate(generate::GenerateArguments),
    /// Log-probabilities of given token ids.
    Score(score::ScoreArguments),
    /// Measures how fast this machine writes, beside what it could do.
    Bench(bench::BenchArguments),
    /// Writes the critic as a PEFT adapter, a merged Hugging Face folder or a llama.cpp LoRA file.
    Export(export::ExportArguments),
    /// Puts held-out prompts through several critics, side by side.
    Eval(eval::EvalArguments),
    /// Learns from recorded groups, without any rollout.
    Learn(learn::LearnArguments),
    /// Writes the groups that a run scored to a file.
    Groups(groups::GroupsArguments),
    /// Fetches the model into the cache and prints its path.
    Fetch,
}

/// Reads the command line, runs the command and tells how it ended.
pub fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(CommandError { exit, error }) => {
            print_note(&format!("error: {}", in_one_line(&error)));
            ExitCode::from(exit as u8)
        }
    }
}

/// The error and its causes; many of our errors say their cause themselves, and nothing is said twice.
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

/// The config that `file` and `sets` make of the built-in one.
fn resolve(file: Option<&Path>, sets: &[String]) -> anyhow::Result<Config> {
    let text = file.map(|path| std::fs::read_to_string(path).map_err(|e| anyhow::anyhow!("{}: {e}", path.display())));
    let text = text.transpose()?;
    Ok(Config::resolve(file.zip(text.as_deref()), sets)?)
}
