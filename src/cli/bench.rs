//! `rco-node bench`: measures how fast this machine generates and learns, relative to its peak.
//!
//! Every run has a fresh engine with an empty cache, except with `decode --warm`. All runs are reported; the other figures
//! are those of the median run. `bench scale` runs the others, each point in a process of its own.

mod decode;
mod episode;
mod figures;
mod harness;
mod judge;
mod learn;
mod machine;
mod participants;
mod prefill;
mod prompts;
mod scale;

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::config::Config;
use crate::telemetry;
use clap::{Args, Subcommand};
use harness::Bench;

/// The arguments of `bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArguments {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Many sequences at once, prompts included: generated tokens a second.
    Decode(decode::DecodeArguments),
    /// One prompt to its first logits: prompt tokens a second.
    Prefill(prefill::PrefillArguments),
    /// Whole trees of N critiques and N x M refinements, and what is learned from them: seconds an episode.
    Episode(episode::EpisodeArguments),
    /// Pairs of texts that the model compares in both orders: pairs a second.
    Judge(judge::JudgeArguments),
    /// Learner steps on groups of a given shape: critique tokens a second.
    Learn(learn::LearnArguments),
    /// How each cost grows, with sequences, context, N and M, threads and model, beside the machine's limits.
    Scale(scale::ScaleArguments),
}

/// Runs the command.
///
/// # Errors
/// If the prompts cannot be read or do not fit, or the model cannot be loaded.
pub(super) fn run(config: Config, arguments: &BenchArguments) -> Result<Exit, CommandError> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    match &arguments.command {
        BenchCommand::Decode(arguments) => decode::run(&Bench::new(config, &arguments.common, false)?, arguments),
        BenchCommand::Prefill(arguments) => prefill::run(&Bench::new(config, &arguments.common, false)?, arguments),
        BenchCommand::Judge(arguments) => judge::run(&Bench::new(config, &arguments.common, false)?, arguments),
        BenchCommand::Episode(arguments) => episode::run(&Bench::new(config, &arguments.common, true)?, arguments),
        BenchCommand::Learn(arguments) => {
            let mut config = config;
            // One copy of the weights, unless another beside it is asked for.
            config.engine.weights = config.learner.base_precision();
            learn::run(Bench::new(config, &arguments.common, true)?, arguments)
        }
        BenchCommand::Scale(arguments) => scale::run(config, arguments),
    }
}
