//! Writes a run's records in a thread of its own.
//!
//! A full file becomes the earlier one, and the earlier one before it is deleted: the disk is bounded. Whoever hands over a
//! record never waits: if the disk is slower than the episodes, records are left out, and counted.

use super::error::{Error, Result};
use super::record::{EARLIER_FILE, Ending, EpisodeRecord, FILE};
use super::store::EpisodeStore;
use crate::disk::json_lines::to_line;
use crate::disk::rotating::RotatingAppender;
use crate::telemetry::metrics::{self, RecordResult};
use crate::types::{DropReason, EpisodeId, EpisodeTree, unix_time};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Records that wait for the disk.
const WAITING_MAX: usize = 256;

/// The text that each of these tokens adds.
pub type SplitTokens = Box<dyn Fn(&[u32]) -> Vec<String> + Send>;

/// An episode that ended.
struct Ended {
    id: EpisodeId,
    time: u64,
    took: Duration,
    end: (Ending, Option<DropReason>),
    tree: EpisodeTree,
}

/// The records of a run that is under way.
#[derive(Debug)]
pub struct EpisodeRecorder {
    store: Arc<EpisodeStore>,
    /// None once it is closed.
    ended: Mutex<Option<Sender<Ended>>>,
    /// Disconnected once the thread has ended.
    alive: Receiver<()>,
}

impl EpisodeRecorder {
    /// Opens the file of the run in `folder`, or creates it, and starts the thread, which reads what is there first. A file is
    /// at most `file_bytes_max` long, unless a single record is longer.
    ///
    /// # Errors
    /// If the file cannot be opened, read or truncated.
    pub fn open(folder: &Path, file_bytes_max: u64, split: SplitTokens) -> Result<Self> {
        let path = folder.join(FILE);
        let file = RotatingAppender::open(folder, FILE, EARLIER_FILE, file_bytes_max).map_err(Error::io(&path))?;
        let store = Arc::new(EpisodeStore::new(folder));
        let (ended, received) = bounded(WAITING_MAX);
        let (living, alive) = bounded(0);
        let writer = Writer { path: path.clone(), store: store.clone(), file, split };
        let thread = std::thread::Builder::new().name("rco-records".into());
        let spawned = thread.spawn(move || {
            let _living: Sender<()> = living;
            writer.run(&received);
        });
        spawned.map_err(Error::io(&path))?;
        Ok(Self { store, ended: Mutex::new(Some(ended)), alive })
    }

    /// The records, for readers.
    pub fn store(&self) -> &Arc<EpisodeStore> {
        &self.store
    }

    /// Records an episode that ended just now, `took` after it began. Does not wait.
    pub fn record(&self, id: EpisodeId, end: (Ending, Option<DropReason>), took: Duration, tree: EpisodeTree) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: records are in the order of their times.
        let time = unix_time::now().as_millis() as u64;
        let sent = ended.as_ref().map(|ended| ended.try_send(Ended { id, time, took, end, tree }));
        if !matches!(sent, Some(Ok(()))) {
            metrics::EPISODE_RECORDS.add(RecordResult::LeftOut, 1);
        }
    }

    /// Takes no more records, and waits until those that were handed over are written, for at most `patience`.
    pub fn close(&self, patience: Duration) {
        drop(self.ended.lock().unwrap_or_else(PoisonError::into_inner).take());
        if matches!(self.alive.recv_timeout(patience), Err(crossbeam_channel::RecvTimeoutError::Timeout)) {
            tracing::warn!("the last episode records were not written in time");
        }
    }
}

/// The writing thread.
struct Writer {
    path: PathBuf,
    store: Arc<EpisodeStore>,
    file: RotatingAppender,
    split: SplitTokens,
}

impl Writer {
    fn run(mut self, received: &Receiver<Ended>) {
        match self.store.load(Some(self.file.file())) {
            Ok(0) => {}
            Ok(skipped) => tracing::warn!(skipped, "lines of the episode records are no records"),
            Err(error) => tracing::warn!(%error, "earlier episode records cannot be read"),
        }
        let mut is_failing = false;
        for ended in received {
            let result = match self.write(ended) {
                Ok(()) => RecordResult::Written,
                Err(error) => {
                    // Said once, not for each episode.
                    if !is_failing {
                        tracing::warn!(%error, "episode records are not written: the run goes on without them");
                    }
                    RecordResult::Failed
                }
            };
            is_failing = result == RecordResult::Failed;
            metrics::EPISODE_RECORDS.add(result, 1);
        }
    }

    fn write(&mut self, ended: Ended) -> Result<()> {
        let Ended { id, time, took, end, tree } = ended;
        let record = EpisodeRecord::new(id, (time, took.as_secs_f32()), end, tree, &self.split);
        let line = to_line(&record);
        let newer = self.file.file().clone();
        let offset = self.file.append(&line).map_err(Error::io(&self.path))?;
        if !Arc::ptr_eq(&newer, self.file.file()) {
            // It was full, and is the earlier one now.
            self.store.keep_only(&newer);
        }
        self.store.add(&record, self.file.file(), offset, line.len());
        Ok(())
    }
}
