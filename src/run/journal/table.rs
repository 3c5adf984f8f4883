//! Records by number in a redb database.

use super::error::Error;
use super::record::Record;
use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend};
use redb::{TableDefinition, TableError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// A record's number, and the record as JSON.
const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");

/// Memory for pages. The journal is written once and read once.
const CACHE_BYTES: usize = 1 << 20;

/// The table of records.
pub(super) struct Table {
    path: PathBuf,
    database: Database,
}

impl Table {
    /// Opens or creates the file `path`.
    pub(super) fn open_file(path: &Path) -> Result<Self, Error> {
        Self::open(path.to_owned(), |builder| builder.create(path))
    }

    /// Opens or creates a database on `backend`.
    pub(super) fn open_with(backend: impl StorageBackend) -> Result<Self, Error> {
        Self::open("journal".into(), |builder| builder.create_with_backend(backend))
    }

    fn open(
        path: PathBuf,
        open: impl FnOnce(&mut Builder) -> Result<Database, redb::DatabaseError>,
    ) -> Result<Self, Error> {
        // A file that something else has changed may make the library panic.
        let opened = catch_unwind(AssertUnwindSafe(|| open(Builder::new().set_cache_size(CACHE_BYTES))));
        match opened {
            Ok(Ok(database)) => Ok(Self { path, database }),
            Ok(Err(error)) => Err(Error { why: error.to_string(), path }),
            Err(_) => Err(Error { why: "the journal is damaged".to_owned(), path }),
        }
    }

    fn failed(&self, error: impl Into<redb::Error>) -> Error {
        Error { path: self.path.clone(), why: error.into().to_string() }
    }

    /// Whether there are no records.
    pub(super) fn is_empty(&self) -> Result<bool, Error> {
        let read = self.database.begin_read().map_err(|error| self.failed(error))?;
        match read.open_table(RECORDS) {
            Ok(table) => table.is_empty().map_err(|error| self.failed(error)),
            Err(TableError::TableDoesNotExist(_)) => Ok(true),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// All records, by number.
    pub(super) fn read(&self) -> Result<Vec<(u64, Record)>, Error> {
        let read = self.database.begin_read().map_err(|error| self.failed(error))?;
        let table = match read.open_table(RECORDS) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(error)),
        };
        let mut records = Vec::new();
        for entry in table.iter().map_err(|error| self.failed(error))? {
            let (number, bytes) = entry.map_err(|error| self.failed(error))?;
            let number = number.value();
            let record = serde_json::from_slice(bytes.value())
                .map_err(|error| Error { path: self.path.clone(), why: format!("record {number}: {error}") })?;
            records.push((number, record));
        }
        Ok(records)
    }

    /// Appends `records` and removes those up to number `pruned`; returns once this is on disk. A record that is there
    /// already, because a commit was reported as failed but had succeeded, is written again.
    pub(super) fn commit<'a>(
        &self,
        records: impl Iterator<Item = (u64, &'a Record)>,
        pruned: Option<u64>,
    ) -> Result<(), Error> {
        let mut write = self.database.begin_write().map_err(|error| self.failed(error))?;
        write.set_durability(Durability::Immediate).map_err(|error| self.failed(error))?;
        {
            let mut table = write.open_table(RECORDS).map_err(|error| self.failed(error))?;
            for (number, record) in records {
                let bytes = serde_json::to_vec(record).expect("strings and finite numbers are always JSON");
                table.insert(number, bytes.as_slice()).map_err(|error| self.failed(error))?;
            }
            if let Some(last) = pruned {
                table.retain_in(..=last, |_, _| false).map_err(|error| self.failed(error))?;
            }
        }
        write.commit().map_err(|error| self.failed(error))
    }
}
