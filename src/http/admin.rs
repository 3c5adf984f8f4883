//! What operators ask: the state of the node, its critics and events, swaps, pauses, a checkpoint, a stop.
//!
//! Reads are open on loopback; every change needs the token. A change that takes time runs to its end even if the client
//! leaves.

mod changes;
mod events;
mod status;

use super::access::{Access, require_token};
use super::admission::Admission;
use super::node::Node;
use axum::middleware;
use status::Seen;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes that read.
pub(super) fn reads(node: Node, admission: Admission) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(status::status))
        .routes(routes!(status::series))
        .routes(routes!(status::critics))
        .routes(routes!(status::critic))
        .routes(routes!(events::events))
        .routes(routes!(events::annotations))
        .with_state(Seen { node, admission })
}

/// The routes that change the node.
pub(super) fn changes(node: Node, access: Access) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(changes::swap))
        .routes(routes!(changes::rollback))
        .routes(routes!(changes::pin))
        .routes(routes!(changes::unpin))
        .routes(routes!(changes::pause))
        .routes(routes!(changes::resume))
        .routes(routes!(changes::configure))
        .routes(routes!(changes::checkpoint))
        .routes(routes!(changes::drain))
        .routes(routes!(changes::stop))
        .with_state(node)
        .layer(middleware::from_fn_with_state(access, require_token))
}
