//! `rco-node serve`: the node's API without training, for a trained critic in production.

use crate::checkpoint;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::served::Up;
use crate::cli::{device_watch, listener, served, signals};
use crate::config::Config;
use crate::formats::source;
use crate::http::{Api, HeldCritics, Served};
use crate::node::note_peak;
use crate::run::events::EventBus;
use crate::telemetry::{Telemetry, logs};
use crate::types::ModelId;
use clap::Args;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArguments {
    /// The critic to serve: folder of a PEFT adapter, of a checkpoint or of a run (its newest), RUN@STEP or RUN@best [default:
    /// the base model].
    #[arg(long, value_name = "DIR")]
    critic: Option<String>,
}

/// Serves until it is told to stop.
///
/// # Errors
/// If there is no address, a model cannot be loaded, or the device ends.
pub(super) fn run(config: &Config, arguments: &ServeArguments) -> Result<Exit, CommandError> {
    let _live = logs::install(config.telemetry.log_format).or_exit(Exit::Usage)?;
    if config.telemetry.address.is_empty() {
        return Err(anyhow::anyhow!("telemetry.address: expected an address to serve at, got \"\""))
            .or_exit(Exit::Usage);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let exit = runtime.block_on(serve(config, arguments));
    // A download or a device thread that never ends must not keep the process alive.
    runtime.shutdown_background();
    exit
}

async fn serve(config: &Config, arguments: &ServeArguments) -> Result<Exit, CommandError> {
    let telemetry = Telemetry::install()?;
    let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
    signals::watch(stop.clone())?;
    let api = Api::new(telemetry.clone());
    let serving = listener::listen(config, &telemetry, None, api.clone(), ended.clone()).await?;
    telemetry.wait_for("the model to load");
    let exit = tokio::select! {
        biased;
        exit = hold(config, arguments, &telemetry, &api) => exit,
        () = stop.cancelled() => Ok(Exit::Done),
    };
    telemetry.wait_for("the process to end");
    ended.cancel();
    serving.stopped().await;
    exit
}

/// Loads the models and serves them until the device ends or stands still.
async fn hold(
    config: &Config,
    arguments: &ServeArguments,
    telemetry: &Telemetry,
    api: &Api,
) -> Result<Exit, CommandError> {
    let events = EventBus::new(None);
    let Up { models, device, base_digest, version, digest, weights } =
        served::start(config, arguments.critic.as_deref(), &events).await?;
    note_peak(&models);
    let up = device.clone();
    let base = ModelId { name: config.model.source.clone(), sha256: base_digest.clone() };
    let spec = models.model.transformer.spec().clone();
    let read = Arc::new(move |path: &Path| {
        let weights = checkpoint::read_offer(path, &spec, &base).map_err(|error| error.to_string())?;
        Ok((weights, source::digest(path).ok()))
    });
    let held = Arc::new(HeldCritics::new(device.clone(), read, (version, digest, weights)));
    let (kept, stored) = (held.clone(), held.clone());
    api.open(Served {
        models,
        device: Box::new(move || Some(up.clone())),
        base_digest: Some(base_digest),
        critics: Box::new(move || kept.kept()),
        weights: Box::new(move |version| stored.weights(version)),
        held: Some(held),
    });
    telemetry.ready();
    tracing::info!(critic_version = version.0, "serving");
    let stall = config.device.stall();
    let told = |busy| {
        let since = Instant::now().checked_sub(busy).filter(|_| busy > stall / 2);
        telemetry.set_stalled(since);
    };
    tokio::select! {
        text = device.ended() => {
            let why = text.unwrap_or_else(|| "it was stopped".to_owned());
            Err(anyhow::anyhow!("the device thread ended: {why}")).or_exit(Exit::Device)
        }
        error = device_watch::stalled(&device, stall, told) => Err(error),
    }
}
