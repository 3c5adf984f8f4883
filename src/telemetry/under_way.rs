//! What is under way and since when: a wait that never ends is visible while it lasts.
//!
//! An entry stays while its guard lives. Numbers grow, so the first entry is the oldest. Knows neither what its entries are
//! nor who asks for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Entries with what is known of each; clones share them.
#[derive(Debug)]
pub struct UnderWay<T>(Arc<Mutex<Entries<T>>>);

#[derive(Debug)]
struct Entries<T> {
    next: u64,
    begun: BTreeMap<u64, (Instant, T)>,
}

impl<T> Default for UnderWay<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Entries { next: 0, begun: BTreeMap::new() })))
    }
}

impl<T> Clone for UnderWay<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Keeps an entry.
#[must_use = "dropping the guard ends the entry"]
#[derive(Debug)]
pub struct UnderWayGuard<T> {
    entries: UnderWay<T>,
    number: u64,
    begun: Instant,
}

impl<T> UnderWayGuard<T> {
    /// When it began.
    pub fn begun(&self) -> Instant {
        self.begun
    }
}

impl<T> Drop for UnderWayGuard<T> {
    fn drop(&mut self) {
        self.entries.lock().begun.remove(&self.number);
    }
}

impl<T> UnderWay<T> {
    /// Keeps `entry` until its guard is dropped.
    pub fn begin(&self, entry: T) -> UnderWayGuard<T> {
        let begun = Instant::now();
        let mut entries = self.lock();
        let number = entries.next;
        entries.next += 1;
        entries.begun.insert(number, (begun, entry));
        UnderWayGuard { entries: self.clone(), number, begun }
    }

    /// How many there are, and what `report` says of the oldest, given its age in seconds.
    pub fn summary<R>(&self, report: impl FnOnce(f64, &T) -> R) -> (usize, Option<R>) {
        let entries = self.lock();
        let oldest = entries.begun.values().next();
        (entries.begun.len(), oldest.map(|(begun, entry)| report(begun.elapsed().as_secs_f64(), entry)))
    }

    /// Whole whatever panicked: an entry is added or removed in one step.
    fn lock(&self) -> MutexGuard<'_, Entries<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
