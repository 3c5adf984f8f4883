//! Results of checks that were agreed on, so that a text has one result for as long as an episode needs it.
//!
//! Generic over the check. A key that is being checked is waited for, not checked again; the oldest results are forgotten.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Results kept: those of some hundred episodes.
const RESULTS_MAX: usize = 4096;

type Cell<R> = Arc<OnceLock<R>>;

/// Results by key.
#[derive(Debug)]
pub(super) struct AgreedScores<R>(Mutex<Cells<R>>);

#[derive(Debug)]
struct Cells<R> {
    by_key: HashMap<String, Cell<R>>,
    /// Keys, oldest first.
    order: VecDeque<String>,
}

impl<R> Default for AgreedScores<R> {
    fn default() -> Self {
        Self(Mutex::new(Cells { by_key: HashMap::new(), order: VecDeque::new() }))
    }
}

impl<R: Clone> AgreedScores<R> {
    /// The result for `key`, from `check` if there is none yet. One that is not to `keep` is checked again the next time.
    pub(super) fn get_or_check(&self, key: &str, check: impl FnOnce() -> R, keep: impl FnOnce(&R) -> bool) -> R {
        let cell = self.cell(key);
        let result = cell.get_or_init(check).clone();
        if !keep(&result) {
            self.forget(key, &cell);
        }
        result
    }

    fn cell(&self, key: &str) -> Cell<R> {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.by_key.get(key) {
            return cell.clone();
        }
        if cells.order.len() == RESULTS_MAX {
            let oldest = cells.order.pop_front();
            oldest.map(|oldest| cells.by_key.remove(&oldest));
        }
        let cell = Cell::<R>::default();
        cells.by_key.insert(key.to_owned(), cell.clone());
        cells.order.push_back(key.to_owned());
        cell
    }

    fn forget(&self, key: &str, cell: &Cell<R>) {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cells.by_key.get(key).is_some_and(|kept| Arc::ptr_eq(kept, cell)) {
            cells.by_key.remove(key);
            cells.order.retain(|kept| kept != key);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_kept_unless_it_is_a_failure_of_the_check() {
        let agreed = AgreedScores::default();
        let keep = |result: &Result<u8, &str>| *result != Err("broken");
        assert_eq!(agreed.get_or_check("a", || Err("broken"), keep), Err("broken"));
        assert_eq!(agreed.get_or_check("a", || Ok(1), keep), Ok(1));
        assert_eq!(agreed.get_or_check("a", || panic!("it is known"), keep), Ok(1));
        assert_eq!(agreed.get_or_check("b", || Err("differs"), keep), Err("differs"));
        assert_eq!(agreed.get_or_check("b", || Ok(1), keep), Err("differs"), "not lucky the next time either");
    }

    #[test]
    fn the_oldest_results_are_forgotten() {
        let agreed = AgreedScores::default();
        for number in 0..=RESULTS_MAX {
            agreed.get_or_check(&number.to_string(), || number, |_| true);
        }
        let cells = agreed.0.lock().unwrap();
        assert_eq!((cells.by_key.len(), cells.order.len()), (RESULTS_MAX, RESULTS_MAX));
        assert!(!cells.by_key.contains_key("0"));
    }
}
