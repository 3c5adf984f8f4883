//! A table on a disk that fails as it is told. A commit that fails may have taken effect.

use super::error::Error;
use super::record::Record;
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{Arc, Mutex};
use std::collections::BTreeMap;
use std::path::Path;

/// What is on the disk, and how many of the next accesses may fail.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) records: BTreeMap<u64, Record>,
    pub(crate) commits: usize,
    pub(crate) failures_left: usize,
}

#[derive(Clone, Default)]
pub(crate) struct Disk(pub(crate) Arc<Mutex<State>>);

impl Disk {
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.0.lock().expect("nothing panics here"))
    }

    fn access(&self) -> Result<(), Error> {
        let fails = self.with(|state| {
            let fails = state.failures_left > 0 && thread_rng().gen_bool(0.5);
            state.failures_left -= usize::from(fails);
            fails
        });
        if fails { Err(Error { path: "disk".into(), why: "it fails".into() }) } else { Ok(()) }
    }
}

pub(crate) struct Table(Disk);

impl Table {
    pub(crate) fn open(disk: Disk) -> Result<Self, Error> {
        disk.access()?;
        Ok(Self(disk))
    }

    pub(super) fn open_file(_: &Path) -> Result<Self, Error> {
        Self::open(Disk::default())
    }

    pub(super) fn open_with(_: impl crate::doubles::StorageBackend) -> Result<Self, Error> {
        Self::open(Disk::default())
    }

    pub(super) fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.0.with(|state| state.records.is_empty()))
    }

    pub(super) fn read(&self) -> Result<Vec<(u64, Record)>, Error> {
        Ok(self.0.with(|state| state.records.clone().into_iter().collect()))
    }

    pub(super) fn commit<'a>(
        &self,
        records: impl Iterator<Item = (u64, &'a Record)>,
        pruned: Option<u64>,
    ) -> Result<(), Error> {
        self.0.access()?;
        shuttle::thread::yield_now();
        self.0.with(|state| {
            for (number, record) in records {
                assert_eq!(number, record.0, "a record got another's number");
                assert!(state.records.keys().all(|kept| *kept <= number) || state.records.contains_key(&number));
                state.records.insert(number, record.clone());
            }
            state.records.retain(|number, _| pruned.is_none_or(|last| *number > last));
            state.commits += 1;
        });
        self.0.access()
    }
}
