//! `rco-node critique`: critiques of one response, with refinements and verdicts, by the node's own templates.

use crate::cli::device_watch;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::output::print_line;
use crate::cli::served::{self, Up};
use crate::config::Config;
use crate::episode::critique::{CritiqueRequest, TriedCritique, criticise};
use crate::run::events::EventBus;
use crate::telemetry;
use crate::types::{Completion, Prompt, Verdict};
use clap::Args;
use serde::Serialize;

/// Arguments of `critique`.
#[derive(Debug, Args)]
pub(super) struct CritiqueArguments {
    /// The prompt.
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// The response to criticise.
    #[arg(long, value_name = "TEXT")]
    response: String,
    /// The correct answer, which a verifier needs as judge; no role's prompt holds it.
    #[arg(long, value_name = "TEXT")]
    answer: Option<String>,
    /// The critic to use: folder of a PEFT adapter, of a checkpoint or of a run (its newest), RUN@STEP or RUN@best [default:
    /// the base model].
    #[arg(long, value_name = "DIR")]
    critic: Option<String>,
    /// Critiques.
    #[arg(long, short, default_value_t = 1)]
    n: usize,
    /// Refinements of each critique, which are judged too.
    #[arg(long, value_name = "M", default_value_t = 0)]
    refine: usize,
    /// Sampling seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Prints one JSON object per critique.
    #[arg(long)]
    json: bool,
}

/// One line of `--json`.
#[derive(Serialize)]
struct Output<'a> {
    critique: &'a str,
    critic_version: u64,
    refinements: Vec<&'a str>,
    verdicts: &'a [Verdict],
    utility: Option<f32>,
}

/// Runs the command.
///
/// # Errors
/// If a model or the critic cannot be loaded, or a text is refused.
pub(super) fn run(config: &Config, arguments: &CritiqueArguments) -> Result<Exit, CommandError> {
    telemetry::logs::install(config.telemetry.log_format).or_exit(Exit::Failed)?;
    if arguments.n == 0 {
        return Err(anyhow::anyhow!("-n: expected at least 1, got 0")).or_exit(Exit::Usage);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let tried = runtime.block_on(ask(config, arguments));
    runtime.shutdown_background();
    tried?.iter().for_each(|tried| print(tried, arguments.json));
    Ok(Exit::Done)
}

async fn ask(config: &Config, arguments: &CritiqueArguments) -> Result<Vec<TriedCritique>, CommandError> {
    let events = EventBus::new(None);
    let Up { models, device, .. } = served::start(config, arguments.critic.as_deref(), &events).await?;
    let CritiqueArguments { prompt, response, answer, n, refine, seed, .. } = arguments;
    let (id, task, text) = (String::new(), String::new(), prompt.clone());
    let request = CritiqueRequest {
        prompt: Prompt { id, task, text, turns: Vec::new(), answer: answer.clone(), verifier: None },
        response: response.clone(),
        critiques: *n,
        refinements: *refine,
        version: None,
        sampling: config.critic.sampling.clone(),
        seed: *seed,
    };
    let tried = tokio::select! {
        tried = criticise(&models, &device, request) => tried,
        error = device_watch::stalled(&device, config.device.stall(), |_| ()) => return Err(error),
    };
    device.stop();
    Ok(tried?)
}

fn print(tried: &TriedCritique, json: bool) {
    let TriedCritique { critique, refinements, verdicts } = tried;
    let refinements: Vec<&str> = refinements.iter().map(|Completion { text, .. }| text.as_str()).collect();
    if json {
        let (critic_version, utility) = (critique.version.0, tried.utility());
        let output = Output { critique: &critique.text, critic_version, refinements, verdicts, utility };
        print_line(&serde_json::to_string(&output).expect("strings and finite numbers serialize"));
        return;
    }
    print_line(&critique.text);
    refinements.iter().for_each(|text| print_line(&format!("  refined: {text}")));
    if let Some(utility) = tried.utility() {
        print_line(&format!("  utility: {utility:.3}"));
    }
}
