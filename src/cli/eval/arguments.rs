//! The arguments of `rco-node eval`.

use crate::cli::parse::at_least_one;
use clap::Args;
use std::path::PathBuf;

/// The arguments of `eval`.
#[derive(Debug, Args)]
pub(crate) struct EvalArguments {
    /// A critic, as WHICH or NAME=WHICH: base, empty, self, oracle, an adapter's, a checkpoint's or a run's folder,
    /// RUN@STEP or RUN@best; may be repeated, and the others are compared with the first [default: base, empty, self, and oracle
    /// where answers are known].
    #[arg(long = "critic", value_name = "CRITIC")]
    pub(crate) critics: Vec<String>,
    /// Held-out prompts: a JSONL file or bundled:NAME [default: eval.file, else the held-out twin of prompts.file].
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<String>,
    /// Only the first so many prompts.
    #[arg(long, value_name = "PROMPTS", value_parser = at_least_one)]
    pub(crate) limit: Option<usize>,
    /// N: critiques of a response [default: eval.critiques].
    #[arg(long, value_parser = at_least_one)]
    pub(crate) n: Option<usize>,
    /// M: refinements of a critique [default: eval.refinements].
    #[arg(long, value_parser = at_least_one)]
    pub(crate) m: Option<usize>,
    /// Rounds of refinement: each criticises and refines the first refinement of the round before.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub(crate) rounds: usize,
    /// Of all that is drawn, resamples included.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// One line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Keep a line for every finished prompt in this folder, and go on from what is there.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Draw utilities and accuracies with their intervals, as SVG.
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
}
