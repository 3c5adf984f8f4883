//! Fetching and loading the config's model.

use super::exit::{CommandError, Exit, OrExit};
use crate::config::Config;
use crate::formats::source::Source;
use crate::kernels::PassPrecisions;
use crate::transformer::{device, load, load::Loaded};
use anyhow::Context as _;
use std::path::PathBuf;

/// Fetches the config's model and returns its path.
pub(crate) fn fetch_model(config: &Config) -> Result<PathBuf, CommandError> {
    let key = "model.source";
    Source::parse(&config.model.source).context(key).or_exit(Exit::Usage)?.fetch().context(key).or_exit(Exit::Model)
}

/// Fetches and loads the config's model as the passes read it; first opens the device, which may be missing.
pub(crate) fn load_model(config: &Config, precisions: PassPrecisions) -> Result<Loaded, CommandError> {
    let device = config.model.device.open().or_exit(Exit::Usage)?;
    let path = fetch_model(config)?;
    tracing::info!(path = %path.display(), device = device::name(&device), "loading model");
    load::load_on(&path, &device, precisions).or_exit(Exit::Model)
}
