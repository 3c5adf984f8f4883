//! `/openapi.json`: the document of the very routes that are served.

use axum::routing::get;
use axum::{Json, Router};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApi};
use utoipa_axum::router::OpenApiRouter;

/// The address of the document.
const PATH: &str = "/openapi.json";

/// `routes` and their document.
pub(super) fn documented(routes: OpenApiRouter) -> Router {
    let (routes, mut document) = routes.split_for_parts();
    describe(&mut document);
    routes.route(PATH, get(move || async move { Json(document) }))
}

fn describe(document: &mut OpenApi) {
    let text = "The API of a node: OpenAI's for texts, and its own for critiques. What changes the node needs the token; \
                beyond loopback everything does.";
    document.info =
        InfoBuilder::new().title("rco-node").version(env!("CARGO_PKG_VERSION")).description(Some(text)).build();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
}
