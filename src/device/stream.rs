//! Streams of what the engine writes, from the device thread to whoever asked.

use super::error::Error;
use crate::engine::StreamEvent;
use tokio::sync::mpsc;

/// The device thread's end of a stream. It never waits: a request has a bounded number of tokens.
pub(super) type StreamSender = mpsc::UnboundedSender<Result<StreamEvent, Error>>;

/// What is written for one request, in order. Dropping it cancels the request.
pub struct CompletionStream(mpsc::UnboundedReceiver<Result<StreamEvent, Error>>);

impl CompletionStream {
    pub(super) fn new() -> (StreamSender, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self(receiver))
    }

    /// The next event; none after the last continuation has ended. An error is the last event.
    pub async fn next(&mut self) -> Option<Result<StreamEvent, Error>> {
        self.0.recv().await
    }
}
