//! A run's records, as readers see them.

use super::error::{Error, Result};
use super::filter::Filter;
use super::index::{Entry, Index};
use super::record::{EARLIER_FILE, EpisodeRecord, FILE};
use super::summary::EpisodeSummary;
use crate::disk;
use crate::disk::json_lines;
use crate::types::EpisodeId;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Which part of a list.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// From the record before this number on; none begins with the newest.
    pub before: Option<u64>,
    /// Episodes at most.
    pub limit: usize,
    /// How long texts may be searched before the rest is left to the next page.
    pub patience: Duration,
}

/// A part of a list of episodes.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The newest first.
    pub episodes: Vec<Arc<EpisodeSummary>>,
    /// Where the next part begins; none after the last.
    pub next: Option<u64>,
    /// Episodes that pass the filter in all; none where texts are searched.
    pub total: Option<usize>,
    /// Episodes that are kept.
    pub kept: usize,
    /// The tasks of the records, whatever the filter; the first 256 by name.
    pub tasks: Vec<String>,
}

/// The records of a run.
#[derive(Debug)]
pub struct EpisodeStore {
    folder: PathBuf,
    index: Mutex<Index>,
}

impl EpisodeStore {
    /// A store of the run in `folder` that knows no record yet.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), index: Mutex::default() }
    }

    /// Reads the records of the run in `folder`, which may be running. Returns how many lines were no records and were skipped,
    /// too.
    ///
    /// # Errors
    /// If there is no file of records, or one cannot be read.
    pub fn read(folder: &Path) -> Result<(Self, usize)> {
        if ![FILE, EARLIER_FILE].iter().any(|name| folder.join(name).exists()) {
            return Err(Error::NoRun(folder.to_owned()));
        }
        let store = Self::new(folder);
        let skipped = store.load(None)?;
        Ok((store, skipped))
    }

    /// Adds what the files hold; `current` is the newer one, if it is open already. Returns how many lines were no records.
    pub(super) fn load(&self, current: Option<&Arc<File>>) -> Result<usize> {
        let mut skipped = 0;
        for (path, open) in [(EARLIER_FILE, None), (FILE, current)] {
            let path = self.folder.join(path);
            let lines = match disk::open(&path) {
                Ok(lines) => lines,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io(&path)(error)),
            };
            let file = match open {
                Some(file) => file.clone(),
                // The same file, whatever its name is by now.
                None => Arc::new(lines.try_clone().map_err(Error::io(&path))?),
            };
            let take = |line: json_lines::Line<'_>| {
                match serde_json::from_slice::<EpisodeRecord>(line.bytes) {
                    Ok(record) => self.add(&record, &file, line.offset, line.bytes.len()),
                    Err(_) => skipped += 1,
                }
                Ok(())
            };
            json_lines::each(lines, take).map_err(|error| match error {
                json_lines::Error::Io(source) => Error::io(&path)(source),
                error @ json_lines::Error::Line { .. } => {
                    Error::Malformed { path: path.clone(), why: error.to_string() }
                }
            })?;
        }
        Ok(skipped)
    }

    /// Adds the record that is `bytes` long from `offset` on in `file`.
    pub(super) fn add(&self, record: &EpisodeRecord, file: &Arc<File>, offset: u64, bytes: usize) {
        self.lock().add(EpisodeSummary::of(record), file, offset, bytes);
    }

    /// Forgets the records of every file but `file`.
    pub(super) fn keep_only(&self, file: &Arc<File>) {
        self.lock().keep_only(file);
    }

    /// A part of the list of the episodes that pass `filter`. Blocks on the disk where texts are searched.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn page(&self, filter: &Filter, span: Span) -> Result<Page> {
        let (found, kept, tasks) = {
            let index = self.lock();
            let matching = index.newest_first(span.before).filter(|entry| filter.matches(&entry.summary));
            (matching.cloned().collect::<Vec<_>>(), index.len(), index.tasks())
        };
        let page = Page { kept, tasks, ..Page::default() };
        if filter.text.is_some() {
            return self.search(&found, filter, span, page);
        }
        let next = found.get(span.limit).and(found.get(span.limit.wrapping_sub(1))).map(|entry| entry.number);
        let episodes = found.iter().take(span.limit).map(|entry| entry.summary.clone()).collect();
        Ok(Page { episodes, next, total: Some(found.len()), ..page })
    }

    /// Adds to `page` the part of `found` whose texts pass.
    fn search(&self, found: &[Entry], filter: &Filter, span: Span, mut page: Page) -> Result<Page> {
        let started = Instant::now();
        for entry in found {
            if self.has_text(entry, filter)? {
                page.episodes.push(entry.summary.clone());
            }
            if page.episodes.len() >= span.limit || started.elapsed() >= span.patience {
                page.next = Some(entry.number);
                break;
            }
        }
        Ok(page)
    }

    fn has_text(&self, entry: &Entry, filter: &Filter) -> Result<bool> {
        let Some(pattern) = &filter.text else { return Ok(true) };
        let line = self.line(entry)?;
        // Most lines need no parsing.
        Ok(pattern.may_be_in(&line) && serde_json::from_slice(&line).is_ok_and(|record| pattern.is_in(&record)))
    }

    fn line(&self, entry: &Entry) -> Result<Vec<u8>> {
        entry.read().map_err(Error::io(&self.folder.join(FILE)))
    }

    /// The record of `episode` as JSON; none if it is not kept. Blocks on the disk.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn json(&self, episode: EpisodeId) -> Result<Option<Vec<u8>>> {
        let entry = self.lock().find(episode).cloned();
        entry.map(|entry| self.line(&entry)).transpose()
    }

    /// The record of `episode`; none if it is not kept. Blocks on the disk.
    ///
    /// # Errors
    /// If the file cannot be read, or was changed meanwhile.
    pub fn record(&self, episode: EpisodeId) -> Result<Option<EpisodeRecord>> {
        let Some(line) = self.json(episode)? else { return Ok(None) };
        let malformed =
            |error: serde_json::Error| Error::Malformed { path: self.folder.join(FILE), why: error.to_string() };
        serde_json::from_slice(&line).map(Some).map_err(malformed)
    }

    /// Whole whatever panicked: a record is added in one step.
    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
