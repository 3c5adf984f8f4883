//! An episode's tree with all its texts: what people look at. The group that the learner trains on has the critiques alone.

use super::{Completion, DropReason, Prompt, Verdict};
use std::sync::Arc;

/// A prompt's tree, as far as the episode came.
#[derive(Clone, Debug, PartialEq)]
pub struct EpisodeTree {
    /// The prompt.
    pub prompt: Arc<Prompt>,
    /// The response; none if the generator wrote none.
    pub response: Option<String>,
    /// The critiques in the order they were requested.
    pub critiques: Vec<CritiqueTree>,
}

/// A critique, the refinements by it, and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct CritiqueTree {
    /// What the critic wrote.
    pub completion: Arc<Completion>,
    /// Texts of its refinements.
    pub refinements: Vec<String>,
    /// The verdicts on them: one each, or two each from a judge that was asked in both orders.
    pub verdicts: Vec<Verdict>,
    /// Critique utility, in `[0, 1]`; none if no verdict is valid.
    pub utility: Option<f32>,
    /// Why it was left out of its group.
    pub dropped: Option<DropReason>,
}
