//! OpenAI's API: models, chat completions and completions.

mod chat;
mod completions;
mod fields;
mod generation;
mod models;
mod shapes;
mod sse;
mod token_names;

use super::handles::Handles;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// OpenAI's routes.
pub(super) fn routes(handles: Handles) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(models::list))
        .routes(routes!(models::one))
        .routes(routes!(chat::chat))
        .routes(routes!(completions::completions))
        .with_state(handles)
}
