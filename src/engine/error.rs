//! Why the engine refuses a request or fails a step.

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request can never fit.
    #[error("prompt of {prompt} tokens: expected 1 to {max}")]
    PromptLength {
        /// Its length in tokens.
        prompt: usize,
        /// What fits.
        max: usize,
    },
    /// The model computed something that is no distribution; cancel the request.
    #[error("request {request}, continuation {index}: expected finite logits, got NaN, infinity or nothing above -inf")]
    Logits {
        /// The request's number.
        request: u64,
        /// Which of its continuations.
        index: usize,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] crate::transformer::Error),
    /// The tokenizer failed.
    #[error(transparent)]
    Text(#[from] crate::formats::Error),
}
