//! Request ids: the client's own `x-request-id`, or one that is made here; the answer carries it.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

const NAME: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id of a client.
const LENGTH_MAX: usize = 128;

/// A number that nobody can foresee and that is not drawn twice in practice.
pub(super) fn random() -> u64 {
    getrandom::u64().expect("the system gives random numbers: the node has drawn its token from them")
}

/// Gives the answer the request's id.
pub(super) async fn stamp(request: Request, next: Next) -> Response {
    let given = request.headers().get(NAME).filter(|id| id.len() <= LENGTH_MAX).cloned();
    let id = given.or_else(|| HeaderValue::from_str(&format!("req-{:016x}", random())).ok());
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    if let Some(id) = id {
        tracing::debug!(id = ?id, path, status = response.status().as_u16(), "answered a request");
        response.headers_mut().insert(NAME, id);
    }
    response
}
