//! Promises of the journal's group commit under every schedule that is explored.

use super::table::{Disk, State};
use super::*;
use crate::explore::explore;
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, AtomicUsize};

const WRITERS: usize = 3;
const WRITES: usize = 2;

/// A journal on `disk`.
fn journal(disk: &Disk) -> Journal {
    let disk = disk.clone();
    Journal::start(Box::new(move || Table::open(disk.clone())), None).expect("the disk works at the start").0
}

/// The number of the next record, and how many acknowledgements came and were dropped.
#[derive(Default)]
struct Ledger {
    next: Mutex<u64>,
    acknowledged: AtomicUsize,
    /// The highest number that was acknowledged.
    highest: AtomicU64,
}

/// Appends `count` records under the lock that numbers them, as the run state does.
fn append(journal: &Journal, ledger: &Arc<Ledger>, disk: &Disk, count: u64) {
    let mut next = ledger.next.lock().expect("nothing panics here");
    let (first, last) = (*next + 1, *next + count);
    *next = last;
    let (ledger, disk) = (ledger.clone(), disk.clone());
    journal.append(first, (first..=last).map(Record).collect(), move || {
        let whole = disk.with(|state: &mut State| (1..=last).all(|number| state.records.contains_key(&number)));
        assert!(whole, "acknowledged before its records and all before them were on disk");
        assert!(ledger.highest.swap(last, Ordering::SeqCst) < last, "acknowledged out of order");
        ledger.acknowledged.fetch_add(1, Ordering::SeqCst);
    });
}

fn write_at_once(journal: &Arc<Journal>, ledger: &Arc<Ledger>, disk: &Disk) {
    let spawn = |writer: usize| {
        let (journal, ledger, disk) = (journal.clone(), ledger.clone(), disk.clone());
        shuttle::thread::spawn(move || (0..WRITES).for_each(|_| append(&journal, &ledger, &disk, 1 + writer as u64 % 2)))
    };
    for writer in Vec::from_iter((0..WRITERS).map(spawn)) {
        writer.join().expect("it wrote");
    }
}

fn closed(journal: Arc<Journal>) {
    drop(Arc::into_inner(journal).expect("the writers have ended"));
}

#[test]
fn an_acknowledged_record_is_on_disk_with_all_before_it() {
    explore("writers at once", || {
        let (disk, ledger) = (Disk::default(), Arc::new(Ledger::default()));
        let journal = Arc::new(journal(&disk));
        write_at_once(&journal, &ledger, &disk);
        closed(journal);
        assert_eq!(ledger.acknowledged.load(Ordering::SeqCst), WRITERS * WRITES, "closing waits for what was appended");
        assert!(disk.with(|state| state.commits) <= WRITERS * WRITES);
    });
}

#[test]
fn a_disk_that_fails_for_a_while_loses_nothing() {
    explore("a disk that fails", || {
        let (disk, ledger) = (Disk::default(), Arc::new(Ledger::default()));
        let journal = Arc::new(journal(&disk));
        disk.with(|state| state.failures_left = 4);
        write_at_once(&journal, &ledger, &disk);
        let numbers = Vec::from_iter(journal.read().expect("the journal is open").into_iter().map(|(number, _)| number));
        let last = *ledger.next.lock().expect("nothing panics here");
        assert_eq!(numbers, Vec::from_iter(1..=last), "a read sees what was appended before it");
        closed(journal);
        assert_eq!(ledger.acknowledged.load(Ordering::SeqCst), WRITERS * WRITES);
    });
}

#[test]
fn a_journal_that_is_closed_while_its_disk_fails_acknowledges_what_is_on_disk_alone() {
    explore("a close while the disk fails", || {
        let (disk, ledger) = (Disk::default(), Arc::new(Ledger::default()));
        let journal = Arc::new(journal(&disk));
        disk.with(|state| state.failures_left = 1000);
        write_at_once(&journal, &ledger, &disk);
        closed(journal);
        assert!(ledger.acknowledged.load(Ordering::SeqCst) <= WRITERS * WRITES);
        assert!(ledger.highest.load(Ordering::SeqCst) <= disk.with(|state| state.records.len() as u64));
    });
}
