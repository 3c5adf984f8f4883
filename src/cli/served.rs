//! Models and a device without training, for the commands that serve a trained critic.

use super::critic_source::CriticSource;
use super::device_watch;
use super::exit::{CommandError, Exit, OrExit};
use crate::config::Config;
use crate::device::{CriticWeights, Device};
use crate::episode::models::Models;
use crate::formats::source::Source;
use crate::node::models;
use crate::run::events::EventBus;
use crate::types::CriticVersion;
use std::sync::Arc;

/// Models on a device.
pub(super) struct Up {
    pub(super) models: Arc<Models>,
    pub(super) device: Device,
    /// The sha256 of the base model.
    pub(super) base_digest: String,
    /// The critic in service: the base is version 0, and the one that was named version 1.
    pub(super) version: CriticVersion,
    /// The sha256 of its weights; the base has none of its own.
    pub(super) digest: Option<String>,
    /// Its weights; none are the base's.
    pub(super) weights: Option<CriticWeights>,
}

/// Loads the config's models and starts a device that serves the critic that `critic` names, or the base without one.
///
/// # Errors
/// If a model or the critic cannot be loaded, or the device cannot be started.
pub(super) async fn start(config: &Config, critic: Option<&str>, events: &EventBus) -> Result<Up, CommandError> {
    let (share, stall) = (config.http.share, config.device.stall());
    let (config, critic, bus) = (config.clone(), critic.map(str::to_owned), events.clone());
    let load = move || -> Result<_, CommandError> {
        let source = critic.as_deref().map(|critic| CriticSource::find_existing("--critic", critic)).transpose()?;
        let (models, path) = models(&config, &[], None, &bus, false)
            .map_err(|error| CommandError { exit: error.exit(), error: error.into() })?;
        let base = Source::parse(&config.model.source).and_then(|source| source.digest(&path)).or_exit(Exit::Model)?;
        let critic = match &source {
            Some(source) => Some((source.load(models.model.transformer.spec())?, source.digest()?)),
            None => None,
        };
        Ok((models, base, critic))
    };
    let (models, base_digest, critic) = match tokio::task::spawn_blocking(load).await {
        Ok(loaded) => loaded?,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let (served, digest) = critic.unzip();
    let version = if served.is_some() { CriticVersion(1) } else { CriticVersion::BASE };
    let device = device_watch::start(models.setup(None, version, served.clone()), stall).await?;
    device.set_share(share).await.or_exit(Exit::Device)?;
    Ok(Up { models: Arc::new(models), device, base_digest, version, digest, weights: served })
}
