//! The journal of a run: every change of the run state since the newest checkpoints, on disk before it is acknowledged.
//!
//! A checkpoint holds the run state as of one record; the records after it bring a restored state up to the moment at
//! which the process died. One thread writes. What arrives while it syncs is committed together with the next sync (group
//! commit), so many episodes that end at once cost one sync. If the disk fails, the thread says so, keeps what it has and
//! tries again until the disk works; until then nothing is acknowledged.
//!
//! The file is a redb database: it has transactions, checksums and recovery after a crash. Invariants: records are on
//! disk in the order of their numbers; a write is acknowledged after its records, and all before them, are
//! on disk.

mod error;
mod record;
mod table;

pub use error::Error;
pub use record::Record;

use crate::groups::GroupRecorder;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use redb::StorageBackend;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use table::Table;

/// The journal's file in a run directory.
pub const FILE: &str = "journal.redb";

/// Pauses between attempts while the disk fails.
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Why something was not written.
type WriteError = Box<dyn std::error::Error + Send + Sync>;

/// What calls back once records are on disk.
type Acknowledge = Box<dyn FnOnce() + Send>;

/// Messages of the writing thread.
enum Write {
    /// Append records, the first of which has number `first`.
    Append { first: u64, records: Vec<Record>, acknowledge: Acknowledge },
    /// Remove the records up to this number.
    Prune(u64),
    /// Answer with all records.
    Read(Sender<Vec<(u64, Record)>>),
}

/// The journal of a run. Dropping it closes it.
pub struct Journal {
    /// None once it is closed.
    open: Mutex<Option<(Sender<Write>, JoinHandle<()>)>>,
    is_closing: Arc<AtomicBool>,
}

/// Opens the storage of a journal, again after each failure.
type Open = Box<dyn Fn() -> Result<Table, Error> + Send>;

impl Journal {
    /// Opens the journal in the run directory `run`, or creates it. Returns it with the records it holds, by number.
    /// Accepted groups are given to `recorder` too.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged.
    pub fn open(run: &Path, recorder: Option<Arc<GroupRecorder>>) -> Result<(Self, Vec<(u64, Record)>), Error> {
        let path = run.join(FILE);
        Self::start(Box::new(move || Table::open_file(&path)), recorder)
    }

    /// A journal over another storage than a file; `open` is called again after each failure.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_with<B: StorageBackend>(
        open: impl Fn() -> B + Send + 'static,
    ) -> Result<(Self, Vec<(u64, Record)>), Error> {
        Self::start(Box::new(move || Table::open_with(open())), None)
    }

    fn start(open: Open, recorder: Option<Arc<GroupRecorder>>) -> Result<(Self, Vec<(u64, Record)>), Error> {
        let table = open()?;
        let records = table.read()?;
        let (writes, received) = unbounded();
        let is_closing = Arc::new(AtomicBool::new(false));
        let writer = Writer { open, table: Some(table), recorder, is_closing: is_closing.clone() };
        let thread = std::thread::Builder::new().name("rco-journal".into()).spawn(move || writer.run(&received));
        let thread = thread.map_err(|error| Error { path: FILE.into(), why: error.to_string() })?;
        Ok((Self { open: Mutex::new(Some((writes, thread))), is_closing }, records))
    }

    /// Appends `records`, the first of which has number `first`. `acknowledge` is called once they and all records before
    /// them are on disk; it is dropped if the journal is closed before that.
    pub fn append(&self, first: u64, records: Vec<Record>, acknowledge: impl FnOnce() + Send + 'static) {
        self.send(Write::Append { first, records, acknowledge: Box::new(acknowledge) });
    }

    /// Removes the records up to number `last`: no checkpoint that is kept needs them.
    pub fn prune(&self, last: u64) {
        self.send(Write::Prune(last));
    }

    /// All records, those appended before this call included. Blocks until they are on disk; none if the journal was
    /// closed before that.
    pub fn read(&self) -> Option<Vec<(u64, Record)>> {
        let (reply, records) = bounded(1);
        self.send(Write::Read(reply));
        records.recv().ok()
    }

    fn send(&self, write: Write) {
        // A panic elsewhere leaves the sender as it was.
        if let Some((writes, _)) = &*self.open.lock().unwrap_or_else(PoisonError::into_inner) {
            // The thread ends after this sender is gone, or when the journal is closed while the disk fails.
            let _ = writes.send(write);
        }
    }

    /// Waits until what was appended is on disk, unless the disk fails, and closes the file. What is appended later is lost,
    /// and not acknowledged.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((writes, thread)) = open else { return };
        drop(writes);
        if thread.join().is_err() {
            tracing::error!("the journal's thread panicked");
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whether the file in the run directory `run` has records; false if there is none.
///
/// # Errors
/// As [`Journal::open`].
pub fn has_records(run: &Path) -> Result<bool, Error> {
    let path = run.join(FILE);
    Ok(path.exists() && !Table::open_file(&path)?.is_empty()?)
}

/// The writing thread.
struct Writer {
    open: Open,
    table: Option<Table>,
    recorder: Option<Arc<GroupRecorder>>,
    is_closing: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self, received: &Receiver<Write>) {
        while let Ok(first) = received.recv() {
            // All that has arrived meanwhile goes with it.
            let writes: Vec<Write> = std::iter::once(first).chain(received.try_iter()).collect();
            if !self.commit(&writes) {
                return;
            }
            if !writes.into_iter().all(|write| self.answer(write)) {
                return;
            }
        }
    }

    /// Brings `writes` to the disk. False if the journal is closed while the disk fails.
    fn commit(&mut self, writes: &[Write]) -> bool {
        self.persist("the journal", |writer| {
            let written = writer.try_commit(writes);
            // A storage that failed cannot be trusted: it is opened again, which recovers what was committed.
            written.inspect_err(|_| writer.table = None).map_err(Into::into)
        })
    }

    /// Repeats `attempt` until it succeeds. False if the journal is closed while it fails.
    fn persist(&mut self, what: &str, mut attempt: impl FnMut(&mut Self) -> Result<(), WriteError>) -> bool {
        let mut pause = RETRY;
        loop {
            let Err(error) = attempt(self) else {
                if pause > RETRY {
                    tracing::info!("{what} is written again");
                }
                return true;
            };
            if self.is_closing.load(Ordering::Relaxed) {
                tracing::error!(%error, "{what} was not written: what was not acknowledged is lost");
                return false;
            }
            tracing::error!(%error, "{what} is not written: the run waits for the disk");
            std::thread::sleep(pause);
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    fn try_commit(&mut self, writes: &[Write]) -> Result<(), Error> {
        let pruned = writes.iter().filter_map(|write| if let Write::Prune(last) = write { Some(*last) } else { None });
        let appended = writes.iter().filter_map(|write| match write {
            Write::Append { first, records, .. } => Some((*first, records)),
            Write::Prune(_) | Write::Read(_) => None,
        });
        let mut numbered = appended.flat_map(|(first, records)| (first..).zip(records)).peekable();
        let pruned = pruned.max();
        // Who only asks whether what came before is on disk costs no commit: it is.
        if numbered.peek().is_none() && pruned.is_none() && self.table.is_some() {
            return Ok(());
        }
        if self.table.is_none() {
            self.table = Some((self.open)()?);
        }
        let Some(table) = &self.table else { return Ok(()) };
        table.commit(numbered, pruned)
    }

    /// Answers a write that is on disk. False if the journal is closed while the disk fails.
    fn answer(&mut self, write: Write) -> bool {
        match write {
            Write::Append { records, acknowledge, .. } => {
                if !self.record_groups(&records) {
                    return false;
                }
                acknowledge();
            }
            Write::Prune(_) => {}
            Write::Read(reply) => match self.table.as_ref().map(Table::read) {
                Some(Ok(records)) => drop(reply.send(records)),
                Some(Err(error)) => tracing::error!(%error, "the journal cannot be read back"),
                None => {}
            },
        }
        true
    }

    /// Gives the groups of `records` to the recorder, whose file is for other programs: the run itself needs the journal.
    fn record_groups(&mut self, records: &[Record]) -> bool {
        let Some(recorder) = self.recorder.clone() else { return true };
        records.iter().filter_map(Record::group).all(|group| {
            let line = recorder.line(group);
            self.persist("the file of groups", |_| recorder.append(&line).map_err(Into::into))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
