//! `rco-node start`: runs a node until it is told to stop, and shows its status.
//!
//! The first Ctrl-C or SIGTERM finishes running episodes and saves; a second one ends the process at once.

mod ending;

use crate::actors::control::Control;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::output::{LOG_PATIENCE, print_notes};
use crate::cli::{listener, signals};
use crate::config::Config;
use crate::http::{Api, Served};
use crate::node::presence::Presence;
use crate::node::{Node, Options};
use crate::run::events::{Activity, EventBus, Warning};
use crate::telemetry::{Telemetry, logs, status};
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Arguments of `start`.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct StartArguments {
    /// Resumes from the newest whole checkpoint in node.run_directory.
    #[arg(long)]
    pub(super) resume: bool,
    /// Stops after K learner steps, counting those before a resume. At least 1.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) learner_steps: Option<u64>,
}

/// Time between two updates of the status.
const LOOK: Duration = Duration::from_millis(500);
/// Time between two log lines of the status without a terminal.
const LINE: Duration = Duration::from_secs(10);
/// Runs a node; returns when it has ended.
///
/// # Errors
/// If it cannot be started.
pub(super) fn run(config: Config, arguments: &StartArguments) -> Result<Exit, CommandError> {
    let live = logs::install(config.telemetry.log_format).or_exit(Exit::Usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let exit = runtime.block_on(serve(config, arguments, &live));
    // A download or a device thread that never ends must not keep the process alive.
    runtime.shutdown_background();
    exit
}

async fn serve(config: Config, arguments: &StartArguments, live: &logs::LogTerminal) -> Result<Exit, CommandError> {
    let telemetry = Telemetry::install()?;
    let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
    signals::watch(stop.clone())?;
    let events = EventBus::new(None);
    let run = PathBuf::from(&config.node.run_directory);
    let options = Options {
        resume: arguments.resume,
        learner_steps: arguments.learner_steps,
        judge: None,
        stop: stop.clone(),
        events: Some(events.clone()),
    };
    let ((control, node), api) = (watch::channel(None), Api::new(telemetry.clone()));
    let serving = listener::listen(&config, &telemetry, Some(node), api.clone(), ended.clone()).await?;
    let reached = |reached: Control| {
        api.open(Served::of_node(reached.clone()));
        control.send_replace(Some(reached));
    };
    let exit = tokio::select! {
        exit = run_node(config, options, &stop, reached, serving.address()) => exit,
        never = show(&events, &telemetry, live) => match never {},
    };
    ended.cancel();
    serving.stopped().await;
    if let Ok(exit) = &exit {
        conclude(&events, &run, *exit);
    }
    exit
}

/// Starts the node, lets operators reach it and waits for its end. A stop request during the start cancels it.
async fn run_node(
    config: Config,
    options: Options,
    stop: &CancellationToken,
    reached: impl FnOnce(Control),
    address: Option<SocketAddr>,
) -> Result<Exit, CommandError> {
    let run = PathBuf::from(&config.node.run_directory);
    let node = tokio::select! {
        biased;
        started = Node::start(config, options) => started.map_err(|error| CommandError { exit: error.exit(), error: error.into() })?,
        () = stop.cancelled() => {
            tracing::info!("stopped before the node had started");
            return Ok(Exit::Done);
        }
    };
    // Whoever finds the node by its file is answered.
    reached(node.control());
    let _announced = address.map(|address| Presence::announce(&run, address)).transpose()?;
    #[cfg(feature = "faults")]
    stall_if_asked(&node).await;
    Ok(node.wait().await)
}

/// Lets the device thread stand still for as many seconds as the variable `RCO_FAULT_STALL_SECONDS` says, for tests.
#[cfg(feature = "faults")]
async fn stall_if_asked(node: &Node) {
    let seconds = std::env::var("RCO_FAULT_STALL_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    if let Some(seconds) = seconds {
        node.stall(Duration::from_secs(seconds)).await;
    }
}

/// Keeps the status line and `/readyz` up to date.
async fn show(events: &EventBus, telemetry: &Telemetry, live: &logs::LogTerminal) -> std::convert::Infallible {
    let mut line = status::StatusLine::new(live, LINE);
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        let progress = events.progress();
        match progress.activity {
            Activity::FirstEpisode | Activity::Running | Activity::Pacing => telemetry.ready(),
            waiting => telemetry.wait_for(waiting.words()),
        }
        telemetry.set_stalled(progress.device_stalled);
        let status = shown(&progress);
        let warnings = progress.warnings().into_iter().map(|warning| format!("warning: {warning}\n"));
        telemetry.set_detail(format!("{}\n{}", status.groups(), warnings.collect::<String>()));
        line.show(&status, Instant::now());
    }
}

fn shown(progress: &crate::run::events::Progress) -> status::Status {
    status::Status {
        episodes: progress.counters.episodes,
        groups_kept: progress.counters.groups - progress.counters.zero_variance,
        zero_variance: progress.counters.zero_variance,
        dropped: progress.counters.dropped,
        drop_reasons: progress.rollout.drop_reasons(),
        utility_mean: progress.counters.utility_mean,
        step: progress.step,
        loss: progress.loss,
        version: progress.version.0,
        tokens_per_second: progress.tokens_per_second as f32,
        waiting_for: (progress.activity != Activity::Running).then(|| progress.activity.words().to_owned()),
        warning: progress.warnings().first().map(Warning::brief),
    }
}

/// Logs the run's totals, then says in the last lines what they mean, where the adapter is and what to type next.
fn conclude(events: &EventBus, run: &Path, exit: Exit) {
    let progress = events.progress();
    tracing::info!(
        episodes = progress.counters.episodes,
        groups = progress.counters.groups,
        zero_variance = progress.counters.zero_variance,
        dropped = progress.counters.dropped,
        step = progress.step,
        critic_version = progress.version.0,
        restarts = progress.restarts,
        exit_code = exit as u8,
        "ended"
    );
    logs::flush(LOG_PATIENCE);
    let warnings = progress.warnings().into_iter().map(|warning| format!("warning: {warning}"));
    let lines = std::iter::once(shown(&progress).groups()).chain(warnings).chain(ending::last_lines(run));
    print_notes(lines.collect());
}
