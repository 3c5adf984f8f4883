//! What a client is told when its request is not served: OpenAI's error body, with its status and code.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// OpenAI's error body.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    /// The error.
    pub(super) error: ErrorFields,
}

/// An error as clients of OpenAI's API read it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ErrorFields {
    /// What is wrong, in words.
    pub(super) message: String,
    /// The kind of error.
    pub(super) r#type: &'static str,
    /// The field that is at fault, if one is.
    pub(super) param: Option<String>,
    /// Names the error for programs.
    pub(super) code: Option<&'static str>,
}

/// Why a request is not served.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    status: StatusCode,
    fields: ErrorFields,
    retry_after_seconds: Option<u32>,
}

/// A problem with the field `name`, unless its value fits.
pub(super) fn expect(name: &str, fits: bool, expected: &str, got: impl std::fmt::Debug) -> Result<(), Problem> {
    let message = || format!("{name}: expected {expected}, got {got:?}");
    if fits { Ok(()) } else { Err(Problem::invalid(name, message())) }
}

impl Problem {
    /// A refusal with `status`, whose kind follows from it.
    pub(super) fn new(status: StatusCode, code: &'static str, message: &str) -> Self {
        let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
        Self::typed(status, kind, Some(code), message)
    }

    /// The request itself is wrong.
    pub(super) fn bad_request(code: &'static str, message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    fn typed(status: StatusCode, r#type: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        let fields = ErrorFields { message: message.into(), r#type, param: None, code };
        Self { status, fields, retry_after_seconds: None }
    }

    /// The request's field `param` cannot be used.
    pub(super) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::request(message).about(param)
    }

    /// The request cannot be used.
    pub(super) fn request(message: impl Into<String>) -> Self {
        Self::typed(StatusCode::BAD_REQUEST, "invalid_request_error", None, message)
    }

    /// The request's field `param` is one that this API does not have.
    pub(super) fn unsupported(param: &str, message: impl Into<String>) -> Self {
        let code = Some("unsupported_parameter");
        Self::typed(StatusCode::BAD_REQUEST, "invalid_request_error", code, message).about(param)
    }

    /// Prompt and answer do not fit the context.
    pub(super) fn too_long(param: &str, message: impl Into<String>) -> Self {
        let code = Some("context_length_exceeded");
        Self::typed(StatusCode::BAD_REQUEST, "invalid_request_error", code, message).about(param)
    }

    /// The body is too large.
    pub(super) fn body_too_large() -> Self {
        let message = "the body is larger than http.body_mib_max allows";
        Self::typed(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", Some("request_too_large"), message)
    }

    /// There is no model of this name.
    pub(super) fn no_model(message: impl Into<String>) -> Self {
        let code = Some("model_not_found");
        Self::typed(StatusCode::NOT_FOUND, "invalid_request_error", code, message).about("model")
    }

    /// There is no such address.
    pub(super) fn no_route(message: impl Into<String>) -> Self {
        Self::typed(StatusCode::NOT_FOUND, "invalid_request_error", Some("unknown_url"), message)
    }

    /// The address has other methods.
    pub(super) fn no_method(message: impl Into<String>) -> Self {
        Self::typed(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", Some("method_not_allowed"), message)
    }

    /// As many requests are in flight as are allowed.
    pub(super) fn busy(requests_max: usize) -> Self {
        let message = format!("{requests_max} requests are in flight, as many as http.requests_max allows");
        let code = Some("rate_limit_exceeded");
        Self::typed(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", code, message).retry_after(1)
    }

    /// The node does not serve now.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::typed(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("unavailable"), message).retry_after(1)
    }

    /// The answer took too long.
    pub(super) fn deadline(seconds: u64) -> Self {
        let message = format!("the answer took longer than http.request_deadline_seconds ({seconds}) allows");
        Self::typed(StatusCode::GATEWAY_TIMEOUT, "server_error", Some("deadline"), message)
    }

    /// The node failed.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::typed(StatusCode::INTERNAL_SERVER_ERROR, "server_error", None, message)
    }

    /// The same, about the field `param`.
    pub(super) fn about(mut self, param: &str) -> Self {
        self.fields.param = Some(param.to_owned());
        self
    }

    /// The same; what is said about the field `prompt` is about `param`.
    pub(super) fn renamed(self, param: &str) -> Self {
        if self.fields.param.as_deref() == Some("prompt") { self.about(param) } else { self }
    }

    fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after_seconds: Some(seconds), ..self }
    }

    /// The body.
    pub(super) fn body(&self) -> ErrorBody {
        ErrorBody { error: self.fields.clone() }
    }

    /// What is wrong, in words.
    pub(super) fn message(&self) -> &str {
        &self.fields.message
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
