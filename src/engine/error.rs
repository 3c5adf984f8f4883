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
    /// The prompt holds an id that the model has no token for.
    #[error("prompt: expected ids below {vocab}, got {id}")]
    TokenId {
        /// The id.
        id: u32,
        /// How many tokens the model has.
        vocab: usize,
    },
    /// A bias is not finite, or of an id that the model has no token for.
    #[error("logit bias of token {id}: expected an id below {vocab} and a finite bias, got {bias}")]
    LogitBias {
        /// The id.
        id: u32,
        /// What was to be added to its logit.
        bias: f32,
        /// How many tokens the model has.
        vocab: usize,
    },
    /// The request names a critic that is not resident.
    #[error("critic version {version}: expected one that is resident: {resident}")]
    Version {
        /// The version that was asked for.
        version: u64,
        /// Those that are, as text.
        resident: String,
    },
    /// There is no room for another resident critic.
    #[error(
        "critic version {version}: {max} critics are resident beside the one in service, as many as engine.versions_max allows"
    )]
    VersionsFull {
        /// The version that was to be loaded.
        version: u64,
        /// The limit.
        max: usize,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] crate::transformer::Error),
    /// The tokenizer has no text for what was sampled; cancel the request.
    #[error("request {request}: {source}")]
    Text {
        /// The request's number.
        request: u64,
        /// What the tokenizer said.
        source: crate::formats::Error,
    },
}

impl Error {
    /// The request that alone is at fault, where a step failed because of one.
    pub fn request(&self) -> Option<u64> {
        match self {
            Self::Logits { request, .. } | Self::Text { request, .. } => Some(*request),
            Self::PromptLength { .. }
            | Self::TokenId { .. }
            | Self::LogitBias { .. }
            | Self::Version { .. }
            | Self::VersionsFull { .. }
            | Self::Model(_) => None,
        }
    }
}
