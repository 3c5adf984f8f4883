//! `rco-node bench`: how fast this machine writes and learns, beside what it could do.
//!
//! Every run has a fresh engine and finds nothing that an earlier run cached, unless `decode --warm` asks for that. All runs
//! are reported; the other figures are the median run's.

mod decode;
mod episode;
mod figures;
mod harness;
mod learn;
mod machine;
mod participants;
mod prefill;
mod prompts;

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::config::Config;
use crate::kernels::Precision;
use crate::telemetry;
use clap::{Args, Subcommand};
use harness::Bench;

/// What `bench` takes.
#[derive(Debug, Args)]
pub(super) struct BenchArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Many sequences at once, prompts included: generated tokens a second.
    Decode(decode::DecodeArguments),
    /// One prompt to its first logits: prompt tokens a second.
    Prefill(prefill::PrefillArguments),
    /// Whole trees of N critiques and N x M refinements, and what is learned from them: seconds an episode.
    Episode(episode::EpisodeArguments),
    /// Learner steps on groups of a given shape: critique tokens a second.
    Learn(learn::LearnArguments),
}

/// Runs the command.
///
/// # Errors
/// Where the prompts cannot be read or do not fit, or the model cannot be loaded.
pub(super) fn run(config: Config, arguments: &BenchArguments) -> Result<Exit, CommandError> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    match &arguments.what {
        What::Decode(arguments) => decode::run(&Bench::new(config, &arguments.common, false)?, arguments),
        What::Prefill(arguments) => prefill::run(&Bench::new(config, &arguments.common, false)?, arguments),
        What::Episode(arguments) => episode::run(&Bench::new(config, &arguments.common, true)?, arguments),
        What::Learn(arguments) => {
            let mut config = config;
            // One copy of the weights, unless another beside it is asked for.
            config.engine.weights = Precision::F32;
            learn::run(Bench::new(config, &arguments.common, true)?, arguments)
        }
    }
}
