//! What a score pass reads and returns.

use super::packed::Packed;

/// The sequences scored in one pass.
#[derive(Clone, Copy, Debug)]
pub struct ScoreBatch<'a> {
    /// Prefixes and their texts.
    pub packed: &'a [Packed<'a>],
    /// Logits are divided by it.
    pub temperature: f32,
}

/// The results of a pass over a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// Log-probabilities of the texts' ids, `(ids of all texts)`, text after text.
    pub log_probs: Vec<f32>,
    /// The normalised hidden state, `(hidden)`, of each prefix's last token.
    pub prefixes: Vec<Vec<f32>>,
}

/// Which activations a recorded pass keeps for its gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationPolicy {
    /// All of every layer.
    KeepAll,
    /// Only each layer's input; the rest is computed again (gradient checkpointing, arXiv 1604.06174).
    Recompute,
}

impl ActivationPolicy {
    /// What `learner.checkpoint_layers` asks for.
    pub(crate) fn of(checkpoint_layers: bool) -> Self {
        if checkpoint_layers { Self::Recompute } else { Self::KeepAll }
    }
}
