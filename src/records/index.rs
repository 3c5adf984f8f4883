//! Where each record is, and what lists show of it, in memory.
//!
//! Bounded: the oldest entries leave. Invariant: an entry points into a file that is kept open, so a file that is renamed or
//! replaced meanwhile does not change what is read.

use super::summary::EpisodeSummary;
use crate::types::EpisodeId;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// Entries in memory; each takes about half a kilobyte.
const ENTRIES_MAX: usize = 50_000;

/// Tasks that a list names at most.
const TASKS_NAMED_MAX: usize = 256;

/// One record.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its number in the order of writing, from 0.
    pub(super) number: u64,
    /// What lists show.
    pub(super) summary: Arc<EpisodeSummary>,
    file: Arc<File>,
    offset: u64,
    bytes: usize,
}

impl Entry {
    /// The record's line, the line end included.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut line = vec![0; self.bytes];
        self.file.read_exact_at(&mut line, self.offset)?;
        Ok(line)
    }
}

/// The records of a run.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: VecDeque<Entry>,
    /// The number of each episode's last record.
    last: HashMap<EpisodeId, u64>,
    /// How many records each task has.
    tasks: BTreeMap<String, usize>,
    /// The number of the next record.
    next: u64,
}

impl Index {
    /// Adds the record that is `bytes` long from `offset` on in `file`.
    pub(super) fn add(&mut self, summary: EpisodeSummary, file: &Arc<File>, offset: u64, bytes: usize) {
        let number = self.next;
        self.next += 1;
        self.last.insert(summary.id, number);
        *self.tasks.entry(summary.task.clone()).or_default() += 1;
        self.entries.push_back(Entry { number, summary: Arc::new(summary), file: file.clone(), offset, bytes });
        if self.entries.len() > ENTRIES_MAX {
            self.forget_oldest();
        }
    }

    /// Forgets the records of every file but `file`.
    pub(super) fn keep_only(&mut self, file: &Arc<File>) {
        while self.entries.front().is_some_and(|entry| !Arc::ptr_eq(&entry.file, file)) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        if self.is_last(&entry) {
            self.last.remove(&entry.summary.id);
        }
        if let Some(count) = self.tasks.get_mut(&entry.summary.task) {
            *count -= 1;
            if *count == 0 {
                self.tasks.remove(&entry.summary.task);
            }
        }
    }

    /// The last record of each episode, the newest first, from the one before number `before` on.
    pub(super) fn newest_first(&self, before: Option<u64>) -> impl Iterator<Item = &Entry> {
        let is_before = move |entry: &&Entry| before.is_none_or(|before| entry.number < before);
        self.entries.iter().rev().filter(is_before).filter(|entry| self.is_last(entry))
    }

    fn is_last(&self, entry: &Entry) -> bool {
        self.last.get(&entry.summary.id) == Some(&entry.number)
    }

    /// The last record of `episode`.
    pub(super) fn find(&self, episode: EpisodeId) -> Option<&Entry> {
        let number = self.last.get(&episode)?;
        let first = self.entries.front()?.number;
        self.entries.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// The tasks of the records, in the order of their names; the first of them where there are many.
    pub(super) fn tasks(&self) -> Vec<String> {
        self.tasks.keys().take(TASKS_NAMED_MAX).cloned().collect()
    }

    /// Episodes that it knows.
    pub(super) fn len(&self) -> usize {
        self.last.len()
    }
}
