//! Server-sent events: a generation as a body that ends with `[DONE]`, or with an error.

use super::generation::{Generation, Step};
use crate::http::problem::Problem;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::stream;
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;

/// Turns the steps of a generation into events.
pub(super) trait Events: Send + 'static {
    /// An event.
    type Event: Serialize;

    /// The events of a step; `generation` knows what has been used so far.
    ///
    /// # Errors
    /// If a token has no text.
    fn of_step(&mut self, step: Step, generation: &Generation) -> Result<Vec<Self::Event>, Problem>;

    /// The events after the last step.
    fn at_end(&mut self, generation: &Generation) -> Vec<Self::Event>;
}

struct Source<E> {
    /// None after the end or an error.
    generation: Option<Generation>,
    events: E,
    ready: VecDeque<Bytes>,
}

/// The stream of `generation` as `events` tells it. Dropping it cancels the generation.
pub(super) fn response<E: Events>(generation: Generation, events: E) -> Response {
    let source = Source { generation: Some(generation), events, ready: VecDeque::new() };
    let body = stream::unfold(source, |mut source| async move {
        while source.ready.is_empty() {
            source.advance().await?;
        }
        source.ready.pop_front().map(|bytes| (Ok::<_, Infallible>(bytes), source))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // A proxy that buffers would hold back the tokens.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl<E: Events> Source<E> {
    /// Makes the events of the next step ready; none if there is nothing more to say.
    async fn advance(&mut self) -> Option<()> {
        let generation = self.generation.as_mut()?;
        let told = match generation.next().await {
            Ok(Some(step)) => self.events.of_step(step, generation),
            Ok(None) => {
                let last = self.events.at_end(generation);
                self.ready.extend(last.iter().map(event));
                self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
                self.generation = None;
                return Some(());
            }
            Err(problem) => Err(problem),
        };
        match told {
            Ok(events) => self.ready.extend(events.iter().map(event)),
            Err(problem) => {
                tracing::debug!(why = problem.message(), "a stream broke off");
                self.ready.push_back(event(&problem.body()));
                self.generation = None;
            }
        }
        Some(())
    }
}

fn event(event: &impl Serialize) -> Bytes {
    let json = serde_json::to_string(event).expect("strings and finite numbers serialize");
    Bytes::from(format!("data: {json}\n\n"))
}
