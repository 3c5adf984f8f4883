//! Memory by owner: what was planned and what is held.
//!
//! Owners tell what they hold; the rest of the process's resident memory is nobody's in particular.

use crate::telemetry::metrics::{self, Label, MemoryOwner};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// One owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryRow {
    /// Whose memory it is.
    pub owner: &'static str,
    /// What was planned, in bytes; 0 without a plan.
    pub planned_bytes: u64,
    /// What is held, in bytes.
    pub bytes: u64,
}

const OWNERS: usize = MemoryOwner::ALL.len();

/// The ledger.
#[derive(Default)]
pub struct MemoryLedger {
    planned: [AtomicU64; OWNERS],
    held: [AtomicU64; OWNERS],
}

impl MemoryLedger {
    /// Notes what `owner` holds, in bytes.
    pub fn holds(&self, owner: MemoryOwner, bytes: usize) {
        self.held[owner as usize].store(bytes as u64, Ordering::Relaxed);
    }

    /// Notes what is planned for `owner`, in bytes.
    pub fn plan(&self, owner: MemoryOwner, bytes: usize) {
        self.planned[owner as usize].store(bytes as u64, Ordering::Relaxed);
    }

    /// Every owner.
    pub fn rows(&self) -> Vec<MemoryRow> {
        let mut rest = resident_bytes().unwrap_or(0);
        let row = |owner: MemoryOwner| {
            let [planned_bytes, held] =
                [&self.planned, &self.held].map(|of| of[owner as usize].load(Ordering::Relaxed));
            // The last owner has what the others have not.
            let bytes = if owner == MemoryOwner::Other { rest } else { held };
            rest = rest.saturating_sub(bytes);
            MemoryRow { owner: owner.value(), planned_bytes, bytes }
        };
        MemoryOwner::ALL.iter().copied().map(row).collect()
    }

    /// Puts them into the metrics.
    pub fn publish(&self) {
        for (owner, row) in MemoryOwner::ALL.iter().zip(self.rows()) {
            metrics::MEMORY.set(*owner, row.bytes as f64);
            metrics::MEMORY_PLANNED.set(*owner, row.planned_bytes as f64);
        }
    }
}

/// Resident memory of this process, in bytes; none where the system does not say.
pub(crate) fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_owner_holds_is_the_rest_of_the_process() {
        let ledger = MemoryLedger::default();
        ledger.plan(MemoryOwner::Weights, 7);
        ledger.holds(MemoryOwner::Weights, 4096);
        let rows = ledger.rows();
        assert_eq!(rows[0], MemoryRow { owner: "weights", planned_bytes: 7, bytes: 4096 });
        let all: u64 = rows.iter().map(|row| row.bytes).sum();
        assert!(rows[OWNERS - 1].bytes > 0 && all > 1 << 20, "{rows:?}");
    }
}
