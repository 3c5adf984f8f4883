//! The listener of a command that serves.

use super::exit::{CommandError, Exit, OrExit};
use crate::config::Config;
use crate::http::{Access, AccessError, Api, Node, NodeRoutes, Serving};
use crate::telemetry::Telemetry;
use std::path::Path;
use tokio_util::sync::CancellationToken;

/// Listens at the config's address, if it has one, until `ended`.
///
/// # Errors
/// If the address or the token cannot be used.
pub(super) async fn listen(
    config: &Config,
    telemetry: &Telemetry,
    node: Option<Node>,
    api: Api,
    ended: CancellationToken,
) -> Result<Serving, CommandError> {
    let routes = routes(config, node, api).or_exit(Exit::Usage)?;
    let serving = telemetry.serve(&config.telemetry, routes, async move { ended.cancelled().await }).await;
    let serving = serving.or_exit(Exit::Usage)?;
    if let Some(address) = serving.address() {
        tracing::info!(%address, "serving metrics, health and the API");
    }
    Ok(serving)
}

/// The routes of what is about to start, if there is a listener.
fn routes(config: &Config, node: Option<Node>, api: Api) -> Result<Option<NodeRoutes>, AccessError> {
    // A malformed address is the listener's to refuse.
    let Ok(address) = config.telemetry.address.parse() else { return Ok(None) };
    let access = Access::open(&config.http, address, Path::new(&config.node.run_directory))?;
    Ok(Some(NodeRoutes { access, config: config.http.clone(), node, api }))
}
