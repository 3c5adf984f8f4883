//! The command line: what was typed, what it means, and the exit code it ends with.

pub mod bench;
pub mod check;
mod critic;
pub mod eval;
pub mod export;
pub mod fetch;
pub mod generate;
pub mod groups;
pub mod learn;
pub mod score;
pub mod start;

use crate::config::Config;
use crate::formats;
use crate::formats::source::Source;
use crate::kernels::Precision;
use crate::transformer::{device, load::Loaded};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub use crate::node::Exit;

/// An error and the exit code it ends the process with.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What to tell the user.
    pub error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let exit = if error.is::<formats::Error>() { Exit::Model } else { Exit::Failed };
        Self { exit, error }
    }
}

/// Gives an error an exit code.
pub(crate) trait OrExit<T> {
    /// The value, or a failure that ends with `exit`.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure { exit, error: error.into() })
    }
}

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
        Err(Failure { exit, error }) => {
            complain(&format!("error: {}", in_one_line(&error)));
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

fn run(arguments: Arguments) -> Result<Exit, Failure> {
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

/// Fetches and loads the config's model, for a decode pass of `precision` alone or for scoring too.
pub(crate) fn load_model(config: &Config, precision: Precision, score: bool) -> Result<Loaded, Failure> {
    let path = Source::parse(&config.model.source).or_exit(Exit::Usage)?.fetch().or_exit(Exit::Model)?;
    let device = config.model.device.open().or_exit(Exit::Usage)?;
    tracing::info!(path = %path.display(), device = device::name(&device), "loading model");
    crate::transformer::load::load_on(&path, &device, precision, score).or_exit(Exit::Model)
}

/// A line of the command's result.
pub(crate) fn say(line: &str) {
    use std::io::Write;
    // A reader that closed the pipe has read what it wanted.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line beside the result.
#[allow(clippy::print_stderr)]
pub(crate) fn complain(line: &str) {
    eprintln!("{line}");
}
