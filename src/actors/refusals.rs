//! Texts that are refused: one ends its episode or critique; if refusals end most episodes, they end the run.
//!
//! Episodes are counted and not requests: a template that refuses one role alone refuses few requests and ends every
//! episode.

use super::failure::Failure;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Episodes that are remembered.
const EPISODES_MAX: usize = 64;
/// With fewer episodes, nothing can be said.
const EPISODES_MIN: usize = 16;

/// Which of the last episodes were ended by texts that the chat template, the tokenizer or the engine refused.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    /// Whether each episode was ended by a refusal, the newest last.
    episodes: VecDeque<bool>,
    /// Why the last text was refused.
    last: Option<String>,
}

impl Refusals {
    /// Notes that a text of `role` was refused. The first is a warning, later ones are only counted.
    pub(super) fn refused(&self, role: &'static str, why: &str) {
        let before = self.lock().last.replace(format!("{role}: {why}"));
        match before {
            None => tracing::warn!(role, why, "a text was refused"),
            Some(_) => tracing::debug!(role, why, "a text was refused"),
        }
    }

    /// Counts an episode, which a refusal ended or not.
    ///
    /// # Errors
    /// If refusals ended most of the last episodes.
    pub(super) fn ended(&self, is_refused: bool) -> Result<(), Failure> {
        let Window { episodes, last } = &mut *self.lock();
        if episodes.len() == EPISODES_MAX {
            episodes.pop_front();
        }
        episodes.push_back(is_refused);
        let (all, refused) = (episodes.len(), episodes.iter().filter(|refused| **refused).count());
        if all < EPISODES_MIN || 2 * refused <= all {
            return Ok(());
        }
        Err(Failure::Refusals { refused, episodes: all, why: last.clone().unwrap_or_default() })
    }

    /// A poisoned lock is usable: every change is one value.
    fn lock(&self) -> MutexGuard<'_, Window> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_when_refusals_end_most_episodes_the_run_ends() {
        let refusals = Refusals::default();
        for episode in 0..200 {
            refusals.ended(episode % 2 == 1).unwrap();
        }
        refusals.refused("critic", "no Z");
        let ended = (0..EPISODES_MAX).map(|_| refusals.ended(true)).find_map(Result::err).unwrap();
        assert_eq!(ended.to_string(), "refused texts ended 33 of the last 64 episodes, the last: critic: no Z");
        let first = Refusals::default();
        assert!((0..EPISODES_MIN - 1).all(|_| first.ended(true).is_ok()) && first.ended(true).is_err());
    }
}
