//! Results of checks that were agreed on, so that a text has one result for as long as an episode needs it.
//!
//! Generic over the check. A key that is being checked is waited for, not checked again; the oldest results are forgotten.

use super::{CheckError, CheckResult};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Results kept: those of some hundred episodes.
const RESULTS_MAX: usize = 4096;

type Cell = Arc<OnceLock<Result<CheckResult, CheckError>>>;

/// Results by key.
#[derive(Debug, Default)]
pub(super) struct AgreedScores(Mutex<Cells>);

#[derive(Debug, Default)]
struct Cells {
    by_key: HashMap<String, Cell>,
    /// Keys, oldest first.
    order: VecDeque<String>,
}

impl AgreedScores {
    /// The result for `key`, from `check` if there is none yet. A failure of the sandbox is not kept: the next one tries
    /// again.
    ///
    /// # Errors
    /// Those of `check`.
    pub(super) fn get_or_check(
        &self,
        key: &str,
        check: impl FnOnce() -> Result<CheckResult, CheckError>,
    ) -> Result<CheckResult, CheckError> {
        let cell = self.cell(key);
        let result = cell.get_or_init(check).clone();
        if matches!(result, Err(CheckError::Sandbox(_))) {
            self.forget(key, &cell);
        }
        result
    }

    fn cell(&self, key: &str) -> Cell {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.by_key.get(key) {
            return cell.clone();
        }
        if cells.order.len() == RESULTS_MAX {
            let oldest = cells.order.pop_front();
            oldest.map(|oldest| cells.by_key.remove(&oldest));
        }
        let cell = Cell::default();
        cells.by_key.insert(key.to_owned(), cell.clone());
        cells.order.push_back(key.to_owned());
        cell
    }

    fn forget(&self, key: &str, cell: &Cell) {
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
    use crate::verify::sandbox;

    fn right() -> Result<CheckResult, CheckError> {
        Ok(CheckResult { score: 1.0, failure: None })
    }

    #[test]
    fn a_result_is_kept_and_a_broken_sandbox_is_not() {
        let agreed = AgreedScores::default();
        let broken = || Err(CheckError::Sandbox(sandbox::Error::Broken("x".to_owned())));
        assert!(agreed.get_or_check("a", broken).is_err());
        assert_eq!(agreed.get_or_check("a", right), right());
        assert_eq!(agreed.get_or_check("a", || panic!("it is known")), right());
        let differs = || Err(CheckError::Unstable("right".to_owned(), "wrong".to_owned()));
        assert_eq!(agreed.get_or_check("b", differs), differs());
        assert_eq!(agreed.get_or_check("b", right), differs(), "not lucky the next time either");
    }

    #[test]
    fn the_oldest_results_are_forgotten() {
        let agreed = AgreedScores::default();
        for number in 0..=RESULTS_MAX {
            agreed.get_or_check(&number.to_string(), right).unwrap();
        }
        let cells = agreed.0.lock().unwrap();
        assert_eq!((cells.by_key.len(), cells.order.len()), (RESULTS_MAX, RESULTS_MAX));
        assert!(!cells.by_key.contains_key("0"));
    }
}
