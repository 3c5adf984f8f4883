//! Texts that are refused: one ends its episode or critique; most of them end the run.

use super::failure::Failure;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Requests that are remembered.
const REQUESTS_MAX: usize = 64;
/// With fewer requests, nothing can be said.
const REQUESTS_MIN: usize = 16;

/// Which of the last requests were refused by the chat template or the tokenizer.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<VecDeque<bool>>);

impl Refusals {
    /// Counts a request, and why it was refused if it was.
    ///
    /// # Errors
    /// If most of the last requests were refused.
    pub(super) fn count(&self, refused: Option<String>) -> Result<(), Failure> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == REQUESTS_MAX {
            last.pop_front();
        }
        last.push_back(refused.is_some());
        let (requests, count) = (last.len(), last.iter().filter(|refused| **refused).count());
        match refused {
            Some(why) if requests >= REQUESTS_MIN && 2 * count > requests => {
                Err(Failure::Refusals { refused: count, requests, why })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_when_most_requests_are_refused_the_run_ends() {
        let refusals = Refusals::default();
        for request in 0..200 {
            let refused = (request % 2 == 1).then(|| "no Z".to_owned());
            refusals.count(refused).unwrap();
        }
        let ended = (0..REQUESTS_MAX).map(|_| refusals.count(Some("no Z".to_owned()))).find_map(Result::err).unwrap();
        assert_eq!(ended.to_string(), "33 of the last 64 requests were refused, the last with: no Z");
        let first = Refusals::default();
        let before = (0..REQUESTS_MIN - 1).all(|_| first.count(Some(String::new())).is_ok());
        assert!(before && first.count(Some(String::new())).is_err());
    }
}
