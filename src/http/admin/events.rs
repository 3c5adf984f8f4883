//! What happened: events for programs, and annotations for Grafana.

use crate::http::node::{Node, body, started};
use crate::http::problem::{ErrorBody, Problem};
use crate::run::events::EventRecord;
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::broadcast;
use utoipa::{IntoParams, ToSchema};

/// Where to begin.
#[derive(Deserialize, IntoParams)]
pub(super) struct After {
    /// The number of the last event that is known.
    #[serde(default)]
    after: u64,
}

/// The newest events as JSON, or, to a client that accepts `text/event-stream`, those and what follows.
#[utoipa::path(get, path = "/events", tag = "operation", params(After), responses(
    (status = 200, body = serde_json::Value), (status = 503, body = ErrorBody)
))]
pub(super) async fn events(
    State(node): State<Node>,
    Query(After { after }): Query<After>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let control = started(&node)?;
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if !accepts.contains("text/event-stream") {
        return Ok(Json(control.events().history().since(after)).into_response());
    }
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok()).unwrap_or(after);
    let following = control.events().history().follow();
    let known = control.events().history().since(resumed);
    let newest = known.last().map_or(0, |record| record.id);
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<SseEvent, Infallible>>(64);
    tokio::spawn(follow(known, newest, following, sender));
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|event| (event, receiver))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()).into_response())
}

type Sender = tokio::sync::mpsc::Sender<Result<SseEvent, Infallible>>;

/// Sends what is known, then what follows, until the client leaves or the node ends.
async fn follow(known: Vec<EventRecord>, newest: u64, mut following: broadcast::Receiver<EventRecord>, sender: Sender) {
    let event = |record: &EventRecord| {
        let data = serde_json::to_string(record).expect("strings and numbers are always JSON");
        Ok(SseEvent::default().id(record.id.to_string()).event(record.kind).data(data))
    };
    for record in known {
        if sender.send(event(&record)).await.is_err() {
            return;
        }
    }
    loop {
        let received = tokio::select! {
            () = sender.closed() => return,
            received = following.recv() => received,
        };
        let next = match received {
            Ok(record) if record.id <= newest => continue,
            Ok(record) => event(&record),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                Ok(SseEvent::default().event("lagged").data(missed.to_string()))
            }
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if sender.send(next).await.is_err() {
            return;
        }
    }
}

/// What Grafana asks a data source for annotations: the panel's range, and a query.
#[derive(Deserialize, ToSchema)]
pub(super) struct AnnotationsRequest {
    range: AnnotationRange,
    #[serde(default)]
    annotation: AnnotationQuery,
}

/// Both ends, as RFC 3339.
#[derive(Deserialize, ToSchema)]
struct AnnotationRange {
    from: String,
    to: String,
}

/// Which events.
#[derive(Default, Deserialize, ToSchema)]
struct AnnotationQuery {
    /// Kinds of events, separated by commas; all if it is empty.
    #[serde(default)]
    query: String,
}

/// An annotation as Grafana draws it.
#[derive(Serialize, ToSchema)]
pub(super) struct Annotation {
    /// When, in milliseconds since 1970.
    time: u64,
    title: String,
    text: String,
    tags: Vec<&'static str>,
}

/// Events as annotations, in the shape of Grafana's JSON data sources.
#[utoipa::path(post, path = "/annotations", tag = "operation", request_body = AnnotationsRequest, responses(
    (status = 200, body = Vec<Annotation>), (status = 400, body = ErrorBody), (status = 503, body = ErrorBody)
))]
pub(super) async fn annotations(
    State(node): State<Node>,
    given: Result<Json<AnnotationsRequest>, JsonRejection>,
) -> Result<Json<Vec<Annotation>>, Problem> {
    let (control, request) = (started(&node)?, body(given)?);
    let [from, to] =
        [("range.from", &request.range.from), ("range.to", &request.range.to)].map(|(name, at)| millis(name, at));
    let (from, to) = (from?, to?);
    let kinds: Vec<&str> = request.annotation.query.split(',').map(str::trim).filter(|kind| !kind.is_empty()).collect();
    let records = control.events().history().since(0).into_iter();
    let asked = records
        .filter(|record| (from..=to).contains(&record.time) && (kinds.is_empty() || kinds.contains(&record.kind)));
    let annotation = |record: EventRecord| Annotation {
        time: record.time,
        title: record.kind.to_owned(),
        text: record.text,
        tags: vec!["rco-node", record.kind],
    };
    Ok(Json(asked.map(annotation).collect()))
}

/// Milliseconds since 1970 of an RFC 3339 time.
fn millis(name: &str, at: &str) -> Result<u64, Problem> {
    let parsed = OffsetDateTime::parse(at, &Rfc3339)
        .ok()
        .and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok());
    let expected = || format!("{name}: expected a time such as 2026-01-31T12:00:00Z, got {at:?}");
    parsed.ok_or_else(|| Problem::invalid(name, expected()))
}
