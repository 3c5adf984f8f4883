//! What an episode's tree holds so far, noted while [`run_episode`](super::tree::run_episode) runs.
//!
//! Knows no disk. An episode that nobody looks at is traced into nothing, at no cost.

use crate::types::{Completion, CritiqueTree, DropReason, EpisodeTree, Prompt, Verdict, utility};
use std::sync::{Arc, Mutex, PoisonError};

/// A tree that grows; clones share it.
#[derive(Clone, Debug, Default)]
pub struct EpisodeTrace(Option<Arc<Mutex<EpisodeTree>>>);

impl EpisodeTrace {
    /// The trace of an episode of `prompt`.
    pub fn new(prompt: Arc<Prompt>) -> Self {
        Self(Some(Arc::new(Mutex::new(EpisodeTree { prompt, response: None, critiques: Vec::new() }))))
    }

    /// A trace that keeps nothing.
    pub fn none() -> Self {
        Self(None)
    }

    /// The tree as it is now; none if nothing is kept.
    pub fn tree(&self) -> Option<EpisodeTree> {
        self.0.as_ref().map(|tree| tree.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub(super) fn responded(&self, response: &Completion) {
        self.note(|tree| tree.response = Some(response.text.clone()));
    }

    pub(super) fn criticised(&self, critiques: &[Arc<Completion>]) {
        let new = |completion: &Arc<Completion>| CritiqueTree {
            completion: completion.clone(),
            refinements: Vec::new(),
            verdicts: Vec::new(),
            utility: None,
            dropped: None,
        };
        self.note(|tree| tree.critiques = critiques.iter().map(new).collect());
    }

    /// Critique `index` was refined.
    pub(super) fn refined(&self, index: usize, refinements: &[Completion]) {
        self.of_critique(index, |critique| {
            critique.refinements = refinements.iter().map(|refinement| refinement.text.clone()).collect();
        });
    }

    /// The refinements of critique `index` were judged.
    pub(super) fn judged(&self, index: usize, verdicts: &[Verdict]) {
        self.of_critique(index, |critique| {
            (critique.verdicts, critique.utility) = (verdicts.to_vec(), utility(verdicts));
        });
    }

    /// Critique `index` was left out of its group.
    pub(super) fn dropped(&self, index: usize, reason: DropReason) {
        self.of_critique(index, |critique| critique.dropped = Some(reason));
    }

    fn of_critique(&self, index: usize, change: impl FnOnce(&mut CritiqueTree)) {
        self.note(|tree| {
            if let Some(critique) = tree.critiques.get_mut(index) {
                change(critique);
            }
        });
    }

    /// A note is one assignment, so the tree is whole even if another note panicked.
    fn note(&self, change: impl FnOnce(&mut EpisodeTree)) {
        if let Some(tree) = &self.0 {
            change(&mut tree.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}
