//! The journal over a storage that fails, and the state that its records give.

use super::*;
use crate::replay::{Replay, ReplayConfig};
use crate::run::state::tests::group;
use crate::run::state::{DropReason, Outcome, RunState, Worker};
use crate::types::{CriticVersion, EpisodeId, Objective};
use proptest::prelude::*;
use std::io;
use std::sync::MutexGuard;
use std::sync::mpsc;

/// A disk in memory. What was written since the last sync is lost when the power fails.
#[derive(Debug, Default)]
struct Disk {
    /// What a reader sees.
    bytes: Vec<u8>,
    /// What survives the loss of power.
    synced: Vec<u8>,
    /// Fails every write, every sync, or nothing.
    fails: Fails,
    /// Syncs that were asked for.
    syncs: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Fails {
    #[default]
    Nothing,
    /// No space is left.
    Write,
    /// The pages are lost, as on an EIO of fsync.
    Sync,
    /// Only half of a write arrives.
    Torn,
    /// The file system was mounted again, for reading alone.
    ReadOnly,
    /// A sync takes this long.
    Slow(Duration),
}

#[derive(Clone, Debug, Default)]
struct Storage(Arc<Mutex<Disk>>);

impl Storage {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    fn fail(&self, fails: Fails) {
        self.disk().fails = fails;
    }

    /// The storage as a machine finds it whose power failed now.
    fn after_power_loss(&self) -> Self {
        let synced = self.disk().synced.clone();
        Self(Arc::new(Mutex::new(Disk { bytes: synced.clone(), synced, ..Disk::default() })))
    }
}

fn error(kind: io::ErrorKind) -> io::Error {
    io::Error::from(kind)
}

impl StorageBackend for Storage {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.disk().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let disk = self.disk();
        let part = disk.bytes.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(part.ok_or_else(|| error(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut disk = self.disk();
        match disk.fails {
            Fails::Write if len > disk.bytes.len() as u64 => return Err(error(io::ErrorKind::StorageFull)),
            Fails::ReadOnly => return Err(error(io::ErrorKind::ReadOnlyFilesystem)),
            _ => {}
        }
        disk.bytes.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let fails = self.disk().fails;
        if let Fails::Slow(duration) = fails {
            std::thread::sleep(duration);
        }
        let mut disk = self.disk();
        disk.syncs += 1;
        match fails {
            Fails::Sync => {
                disk.bytes = disk.synced.clone();
                return Err(error(io::ErrorKind::Other));
            }
            Fails::ReadOnly => return Err(error(io::ErrorKind::ReadOnlyFilesystem)),
            _ => {}
        }
        disk.synced = disk.bytes.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut disk = self.disk();
        let arrives = match disk.fails {
            Fails::Write => return Err(error(io::ErrorKind::StorageFull)),
            Fails::ReadOnly => return Err(error(io::ErrorKind::ReadOnlyFilesystem)),
            Fails::Torn => data.len() / 2,
            Fails::Nothing | Fails::Sync | Fails::Slow(_) => data.len(),
        };
        disk.bytes[offset as usize..offset as usize + arrives].copy_from_slice(&data[..arrives]);
        if arrives < data.len() { Err(error(io::ErrorKind::Other)) } else { Ok(()) }
    }
}

fn open(storage: &Storage) -> (Journal, Vec<(u64, Record)>) {
    let storage = storage.clone();
    Journal::open_with(move || storage.clone()).unwrap()
}

fn started(episode: u64) -> Record {
    Record::Started { episode: EpisodeId(episode) }
}

/// Appends one record and returns what tells when it is acknowledged.
fn append(journal: &Journal, number: u64) -> mpsc::Receiver<()> {
    let (acknowledge, acknowledged) = mpsc::channel();
    journal.append(number, vec![started(number)], move || _ = acknowledge.send(()));
    acknowledged
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn what_was_acknowledged_survives_the_loss_of_power() {
    let storage = Storage::default();
    let (journal, records) = open(&storage);
    assert!(records.is_empty());
    for number in 1..=20 {
        append(&journal, number).recv_timeout(LONG).unwrap();
        let (_, found) = open(&storage.after_power_loss());
        assert_eq!(found, (1..=number).map(|number| (number, started(number))).collect::<Vec<_>>());
    }
}

#[test]
fn a_disk_that_fails_is_waited_for_and_nothing_is_acknowledged_before() {
    for fails in [Fails::Write, Fails::Sync, Fails::Torn, Fails::ReadOnly] {
        let storage = Storage::default();
        let (journal, _) = open(&storage);
        append(&journal, 1).recv_timeout(LONG).unwrap();
        storage.fail(fails);
        let waiting = [append(&journal, 2), append(&journal, 3)];
        assert!(waiting[0].recv_timeout(3 * RETRY).is_err(), "{fails:?}: acknowledged, and not on disk");
        let (_, found) = open(&storage.after_power_loss());
        assert_eq!(found, [(1, started(1))], "{fails:?}: what was on disk is whole");
        storage.fail(Fails::Nothing);
        for acknowledged in waiting {
            acknowledged.recv_timeout(LONG).unwrap();
        }
        append(&journal, 4).recv_timeout(LONG).unwrap();
        let (_, found) = open(&storage.after_power_loss());
        let numbers: Vec<_> = found.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 2, 3, 4], "{fails:?}");
    }
}

#[test]
fn a_slow_disk_is_waited_for_and_one_sync_serves_all_who_wait() {
    let storage = Storage::default();
    let (journal, _) = open(&storage);
    append(&journal, 1).recv_timeout(LONG).unwrap();
    storage.fail(Fails::Slow(Duration::from_millis(200)));
    let before = storage.disk().syncs;
    let waiting: Vec<_> = (2..=200).map(|number| append(&journal, number)).collect();
    assert!(waiting[198].try_recv().is_err(), "acknowledged before it can be on disk");
    waiting.iter().for_each(|acknowledged| acknowledged.recv_timeout(LONG).unwrap());
    let syncs = storage.disk().syncs - before;
    assert!(syncs <= 20, "{syncs} syncs for 199 records");
    let (_, found) = open(&storage.after_power_loss());
    assert_eq!(found.len(), 200);
}

#[test]
fn who_asks_without_a_change_is_answered_after_what_came_before_and_costs_no_sync() {
    let storage = Storage::default();
    let (journal, _) = open(&storage);
    append(&journal, 1).recv_timeout(LONG).unwrap();
    storage.fail(Fails::Sync);
    let ask = |first| {
        let (acknowledge, acknowledged) = mpsc::channel();
        journal.append(first, vec![], move || _ = acknowledge.send(()));
        acknowledged
    };
    ask(2).recv_timeout(LONG).expect("a disk that cannot sync is not needed");
    let (waits, asks) = (append(&journal, 2), ask(3));
    assert!(asks.recv_timeout(3 * RETRY).is_err(), "the record before it is not on disk");
    storage.fail(Fails::Nothing);
    for acknowledged in [waits, asks] {
        acknowledged.recv_timeout(LONG).unwrap();
    }
}

#[test]
fn a_journal_on_a_disk_that_fails_can_be_closed() {
    let storage = Storage::default();
    let (journal, _) = open(&storage);
    storage.fail(Fails::Write);
    let acknowledged = append(&journal, 1);
    drop(journal);
    assert!(acknowledged.recv().is_err(), "what was not written is not acknowledged");
}

#[test]
fn old_records_are_removed_and_all_others_read_back() {
    let storage = Storage::default();
    let (journal, _) = open(&storage);
    for number in 1..=10 {
        let _ = append(&journal, number);
    }
    journal.prune(7);
    let numbers = |records: Vec<(u64, Record)>| records.into_iter().map(|(number, _)| number).collect::<Vec<_>>();
    assert_eq!(numbers(journal.read().unwrap()), [8, 9, 10]);
    drop(journal);
    assert_eq!(numbers(open(&storage).1), [8, 9, 10]);
}

#[test]
fn a_file_that_is_no_journal_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    assert!(!has_records(folder.path()).unwrap());
    std::fs::write(folder.path().join(FILE), "not a journal").unwrap();
    let why = Journal::open(folder.path(), None).map(drop).unwrap_err().to_string();
    assert!(why.contains(FILE), "{why}");
}

/// What happens to a run.
#[derive(Clone, Debug)]
enum Happening {
    Begin(usize),
    End {
        worker: usize,
        utilities: [f32; 2],
    },
    Drop(usize),
    Lease,
    Learn,
    Discard,
    Publish,
    /// A checkpoint is written.
    Save,
    /// The device failed.
    Rewind,
    /// The process dies, and another one takes the run up.
    Die,
}

fn happening() -> impl Strategy<Value = Happening> {
    let utility = prop_oneof![Just(0.0f32), Just(0.5), Just(1.0)];
    prop_oneof![
        4 => (0..3usize).prop_map(Happening::Begin),
        4 => (0..3usize, [utility.clone(), utility]).prop_map(|(worker, utilities)| Happening::End { worker, utilities }),
        1 => (0..3usize).prop_map(Happening::Drop),
        3 => Just(Happening::Lease),
        3 => Just(Happening::Learn),
        1 => Just(Happening::Discard),
        2 => Just(Happening::Publish),
        1 => Just(Happening::Save),
        1 => Just(Happening::Rewind),
        1 => Just(Happening::Die),
    ]
}

const LIMITS: ReplayConfig = ReplayConfig { groups_max: 100, age_versions_max: 3, uses_max: 2 };

/// A run whose journal is a list, beside the run that never dies.
struct Run {
    state: RunState,
    saved: RunState,
    journal: Vec<(u64, Record)>,
    generation: u64,
}

impl Run {
    fn worker(&self, index: usize) -> Worker {
        Worker { generation: self.generation, index }
    }

    fn happens(&mut self, happening: &Happening) {
        let batch = self.state.replay.batch();
        match *happening {
            Happening::Begin(worker) => drop(self.state.begin(self.worker(worker))),
            Happening::End { worker, utilities } => {
                let Some(episode) = self.state.held_by(self.worker(worker)) else { return };
                self.state.end(episode, group(episode, utilities));
            }
            Happening::Drop(worker) => {
                let Some(episode) = self.state.held_by(self.worker(worker)) else { return };
                self.state.end(episode, Outcome::Dropped(DropReason::TooLong));
            }
            Happening::Lease => drop(self.state.lease(1)),
            Happening::Learn => {
                if self.state.replay.is_out() {
                    self.state.learned(batch, self.state.step + 1);
                }
            }
            Happening::Discard => {
                if self.state.replay.is_out() {
                    self.state.discarded(batch);
                }
            }
            Happening::Publish => {
                let version = CriticVersion(self.state.version.0 + 1);
                self.state.published(version, self.state.step);
                self.state.enters_service(version, None);
                self.write();
                self.saved = self.state.clone();
                self.state.replay.committed(self.state.step);
            }
            Happening::Save => self.saved = self.state.clone(),
            Happening::Rewind => {
                let saved = self.saved.clone();
                self.state.rewind(&saved);
            }
            Happening::Die => self.die(),
        }
        self.write();
    }

    fn write(&mut self) {
        let (first, records) = self.state.take_unwritten();
        self.journal.extend((first..).zip(records));
    }

    fn die(&mut self) {
        let before = self.state.clone();
        let text = serde_json::to_string(&self.saved).unwrap();
        let mut recovered: RunState = serde_json::from_str(&text).unwrap();
        let journal = serde_json::to_string(&self.journal).unwrap();
        recovered.replay_records(serde_json::from_str::<Vec<_>>(&journal).unwrap()).unwrap();
        assert_eq!(recovered.ledger.next, before.ledger.next);
        assert_eq!(recovered.ledger.open, before.ledger.open);
        assert_eq!(recovered.counters, before.counters, "what was counted is counted");
        assert_eq!(recovered.position(), before.position());
        assert_eq!(recovered.record, before.record);
        assert_eq!(recovered.replay.uses(), before.replay.uses());
        let mut before = before;
        for state in [&mut recovered, &mut before] {
            state.resumed(LIMITS, Objective::Rco, 4, 7);
            state.rewind(&self.saved);
            state.forget_all();
        }
        assert_eq!(recovered.replay.episodes(), before.replay.episodes(), "the same groups are held");
        assert_eq!(recovered.replay.uses(), before.replay.uses(), "as often used");
        self.state = recovered;
        self.generation += 1;
    }
}

proptest! {
    #[test]
    fn records_bring_a_checkpoint_to_the_state_that_was(happenings in prop::collection::vec(happening(), 1..120)) {
        let state = RunState::new(Replay::new(LIMITS, Objective::Rco, 4, 7));
        let mut run = Run { saved: state.clone(), state, journal: Vec::new(), generation: 1 };
        for happening in &happenings {
            run.happens(happening);
        }
        run.die();
    }
}
