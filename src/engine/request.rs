//! A request to the engine and its number.

use super::sampling_config::SamplingConfig;

/// What the engine is asked: `n` continuations of one prompt.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt's ids; at least one.
    pub prompt: Vec<u32>,
    /// How many continuations; they are computed as one for as long as they are the same.
    pub n: usize,
    /// How to sample.
    pub sampling: SamplingConfig,
    /// Ids that end a text (kept as its last id).
    pub stop_ids: Vec<u32>,
    /// Continuation `i` draws from a stream seeded by this and `i` alone.
    pub seed: u64,
    /// Write with the newest installed critic instead of the base.
    pub critic: bool,
}

/// Names a request inside the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Text of ids, special tokens left out.
pub type Detokenize = Box<dyn Fn(&[u32]) -> crate::formats::Result<String> + Send>;
