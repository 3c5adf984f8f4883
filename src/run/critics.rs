//! The critics of a run as things with names: number, digest, parent, origin, state and the reason for each change.
//!
//! A registry is a file of records that is only appended to, `critics/registry.jsonl` in the run directory, beside a folder of
//! weights for each version that is kept. Whoever reads the file while a node runs sees what the node sees.
//!
//! Invariants: a version's weights are on disk before its record is, and its record before it is in service; one record
//! puts a version into service and takes the one before it out; a number is never used for two critics.

mod config;
mod entry;
mod error;
mod record;
mod scores;

pub use config::{LearnerAfterSwap, SwapConfig};
use entry::now;
pub use entry::{Change, CriticEntry, CriticState, Origin, Shape};
pub use error::Error;
use record::Record;
pub use scores::{Comparison, Scores};

use crate::checkpoint::{self, CriticWeights, ModelSpec};
use crate::disk::{self, TEMPORARY_PREFIX, json_lines};
use crate::types::CriticVersion;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// The folder in a run directory.
const FOLDER: &str = "critics";
/// The file of records in it.
const FILE: &str = "registry.jsonl";

/// What the records of a registry add up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Critics {
    entries: BTreeMap<CriticVersion, Arc<CriticEntry>>,
    serving: CriticVersion,
    pinned: Option<CriticVersion>,
}

impl Critics {
    /// Reads the registry of the run directory `run`, whether a node runs there or not; empty if it has none.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(run: &Path) -> Result<Self, Error> {
        let path = run.join(FOLDER).join(FILE);
        if !path.exists() {
            return Ok(Self::default());
        }
        let lines = json_lines::read(&path).map_err(|error| Error::of_lines(&path, error))?;
        let mut critics = Self::default();
        lines.values.into_iter().for_each(|record| critics.apply(record));
        Ok(critics)
    }

    /// Those that a running node tells.
    pub fn of(entries: Vec<CriticEntry>, serving: CriticVersion, pinned: Option<CriticVersion>) -> Self {
        let entries = entries.into_iter().map(|entry| (entry.version, Arc::new(entry))).collect();
        Self { entries, serving, pinned }
    }

    /// Every version, in the order of numbers.
    pub fn entries(&self) -> impl Iterator<Item = &CriticEntry> {
        self.entries.values().map(AsRef::as_ref)
    }

    /// One version.
    pub fn entry(&self, version: CriticVersion) -> Option<&CriticEntry> {
        self.entries.get(&version).map(AsRef::as_ref)
    }

    /// Whether nothing was ever registered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The version in service.
    pub fn serving(&self) -> CriticVersion {
        self.serving
    }

    /// The version that stays in service whatever the learner publishes, if there is one.
    pub fn pinned(&self) -> Option<CriticVersion> {
        self.pinned
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Added(entry) => drop(self.entries.insert(entry.version, Arc::from(entry))),
            Record::Changed { version, change } => self.change(version, change),
            Record::Served { version, change, before } => {
                let was = std::mem::replace(&mut self.serving, version);
                if was != version {
                    self.change(was, Change { state: before, ..change.clone() });
                }
                self.change(version, change);
            }
            Record::Pinned { version, .. } => self.pinned = version,
            Record::Scored { version, scores } => {
                if let Some(entry) = self.entries.get_mut(&version).map(Arc::make_mut) {
                    entry.scores = scores;
                }
            }
            Record::Evaluated { version, cu } => {
                if let Some(entry) = self.entries.get_mut(&version).map(Arc::make_mut) {
                    entry.eval_cu = Some(cu);
                }
            }
            Record::Forgotten { version } => {
                if let Some(entry) = self.entries.get_mut(&version).map(Arc::make_mut) {
                    entry.has_weights = false;
                }
            }
        }
    }

    fn change(&mut self, version: CriticVersion, change: Change) {
        if let Some(entry) = self.entries.get_mut(&version).map(Arc::make_mut) {
            entry.change(change);
        }
    }

    /// The newest `keep` versions, and those that must stay whatever their number, such as `before`.
    fn kept(&self, keep: usize, before: Option<CriticVersion>) -> Vec<CriticVersion> {
        let needed = |entry: &&Arc<CriticEntry>| {
            let is_on_trial = matches!(entry.state, CriticState::Candidate | CriticState::Canary);
            is_on_trial || entry.version == self.serving || Some(entry.version) == self.pinned
        };
        let newest = self.entries.values().rev().take(keep);
        let parent = self.entries.get(&self.serving).and_then(|serving| self.entries.get(&serving.parent));
        newest
            .chain(self.entries.values().filter(needed))
            .chain(parent)
            .map(|entry| entry.version)
            .chain(before)
            .collect()
    }
}

/// A critic that is to be registered.
#[derive(Clone, Debug)]
pub struct NewCritic<'a> {
    /// Its weights.
    pub weights: &'a CriticWeights,
    /// The version it was made from, or that it is to replace.
    pub parent: CriticVersion,
    /// Where it came from.
    pub origin: Origin,
    /// Who asked for it.
    pub by: String,
}

/// Where the weights of a critic are; none for the base.
#[derive(Clone, Debug)]
pub struct StoredCritic(Option<(PathBuf, String, ModelSpec)>);

impl StoredCritic {
    /// Reads them; none are the base's.
    ///
    /// # Errors
    /// If they are not whole.
    pub fn read(&self) -> Result<Option<CriticWeights>, Error> {
        let read =
            |(folder, digest, spec): &(PathBuf, String, ModelSpec)| checkpoint::read_critic(folder, digest, spec);
        Ok(self.0.as_ref().map(read).transpose()?)
    }
}

/// The registry of a run that this process owns.
pub struct CriticRegistry {
    folder: PathBuf,
    file: json_lines::Appender,
    critics: Arc<Critics>,
    /// What the records add up to, for those who only read.
    told: watch::Sender<Arc<Critics>>,
    spec: ModelSpec,
    base_model: String,
    base_sha256: String,
}

impl CriticRegistry {
    /// Opens the registry of the run directory `run`, and registers the base as version 0 if it is new. Removes what a killed
    /// process left half written.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn open(run: &Path, spec: ModelSpec, base_model: String, base_sha256: String) -> Result<Self, Error> {
        let folder = run.join(FOLDER);
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        remove_leftovers(&folder).map_err(Error::io(&folder))?;
        let path = folder.join(FILE);
        let critics = Arc::new(Critics::read(run)?);
        let told = watch::channel(critics.clone()).0;
        let file = json_lines::Appender::open(&path).map_err(Error::io(&path))?;
        let mut registry = Self { folder, file, critics, told, spec, base_model, base_sha256 };
        if registry.critics.is_empty() {
            let mut base = registry.entry_of(CriticVersion::BASE, String::new(), Shape::Base, Origin::Base);
            base.change(Change::now(CriticState::Serving, "node", "the base model: nothing was published yet"));
            registry.append(Record::Added(Box::new(base)))?;
        }
        Ok(registry)
    }

    /// What the records add up to.
    pub fn critics(&self) -> &Critics {
        &self.critics
    }

    /// What the records add up to, now and from now on, without this registry's lock.
    pub fn follow(&self) -> watch::Receiver<Arc<Critics>> {
        self.told.subscribe()
    }

    /// Registers a critic: writes its weights, then its record. If the newest version is a candidate with the same weights and
    /// origin, which a process that died left, it is that one.
    ///
    /// # Errors
    /// If it does not fit the model, or the disk fails: nothing is registered then.
    pub fn add(&mut self, new: NewCritic<'_>) -> Result<CriticVersion, Error> {
        let NewCritic { weights, parent, origin, by } = new;
        let next = self.next();
        let path = self.weights_folder(next);
        if path.exists() {
            // The process died between weights and record.
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
        }
        let digest = checkpoint::write_critic(&path, weights, &self.spec, &self.base_model)?;
        let same = |entry: &&Arc<CriticEntry>| {
            entry.state == CriticState::Candidate && entry.digest == digest && entry.origin == origin
        };
        if let Some(known) = self.critics.entries.values().next_back().filter(same) {
            let version = known.version;
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
            return Ok(version);
        }
        let mut entry = self.entry_of(next, digest, Shape::of(weights), origin);
        entry.parent = parent;
        entry.has_weights = true;
        entry.change(Change::now(CriticState::Candidate, &by, "registered"));
        self.append(Record::Added(Box::new(entry)))?;
        Ok(next)
    }

    /// Registers `version`, which an older program put into service without a registry.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn adopt(&mut self, version: CriticVersion, weights: &CriticWeights, step: u64) -> Result<(), Error> {
        let path = self.weights_folder(version);
        let digest = checkpoint::write_critic(&path, weights, &self.spec, &self.base_model)?;
        let mut entry = self.entry_of(version, digest, Shape::of(weights), Origin::Learner { step });
        entry.has_weights = true;
        entry.change(Change::now(CriticState::Candidate, "node", "found in a checkpoint"));
        self.append(Record::Added(Box::new(entry)))?;
        self.serve(version, "node", "in service in the checkpoint that the run was resumed from", CriticState::Retired)
    }

    /// Gives `version` another state.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn change(&mut self, version: CriticVersion, state: CriticState, by: &str, why: &str) -> Result<(), Error> {
        self.append(Record::Changed { version, change: Change::now(state, by, why) })
    }

    /// Puts `version` into service; the one before it gets the state `before`.
    ///
    /// # Errors
    /// If the disk fails: nothing has changed then.
    pub fn serve(&mut self, version: CriticVersion, by: &str, why: &str, before: CriticState) -> Result<(), Error> {
        let change = Change::now(CriticState::Serving, by, why);
        self.append(Record::Served { version, change, before })
    }

    /// Pins `version`, or lets the learner's publications serve again.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn pin(&mut self, version: Option<CriticVersion>, by: &str) -> Result<(), Error> {
        self.append(Record::Pinned { version, by: by.to_owned(), at: now() })
    }

    /// Records what `version` has earned in service.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn scored(&mut self, version: CriticVersion, scores: Scores) -> Result<(), Error> {
        match self.critics.entry(version) {
            Some(entry) if entry.scores != scores => self.append(Record::Scored { version, scores }),
            _ => Ok(()),
        }
    }

    /// Records the held-out utility of `version`, in `[0, 1]`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn evaluated(&mut self, version: CriticVersion, cu: f64) -> Result<(), Error> {
        self.append(Record::Evaluated { version, cu })
    }

    /// The weights of `version`; none are the base's.
    ///
    /// # Errors
    /// If it is unknown, its weights are no longer kept, or are not whole.
    pub fn weights(&self, version: CriticVersion) -> Result<Option<CriticWeights>, Error> {
        self.stored(version)?.read()
    }

    /// Where the weights of `version` are, to be read without this registry's lock.
    ///
    /// # Errors
    /// If it is unknown, or its weights are no longer kept.
    pub fn stored(&self, version: CriticVersion) -> Result<StoredCritic, Error> {
        if version == CriticVersion::BASE {
            return Ok(StoredCritic(None));
        }
        let entry = self.critics.entry(version).ok_or(Error::Unknown { version })?;
        if !entry.has_weights {
            return Err(Error::Forgotten { version });
        }
        Ok(StoredCritic(Some((self.weights_folder(version), entry.digest.clone(), self.spec.clone()))))
    }

    /// Removes the weights of all but the newest `keep` versions, those in use, and `before`, which served before.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn prune(&mut self, keep: usize, before: Option<CriticVersion>) -> Result<(), Error> {
        let kept = self.critics.kept(keep, before);
        let surplus = |entry: &&CriticEntry| entry.has_weights && !kept.contains(&entry.version);
        let surplus: Vec<_> = self.critics.entries().filter(surplus).map(|entry| entry.version).collect();
        for version in surplus {
            self.append(Record::Forgotten { version })?;
            let path = self.weights_folder(version);
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io(&path)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The number of the next version.
    fn next(&self) -> CriticVersion {
        CriticVersion(self.critics.entries.keys().next_back().map_or(0, |newest| newest.0 + 1))
    }

    fn weights_folder(&self, version: CriticVersion) -> PathBuf {
        self.folder.join(format!("v{:08}", version.0))
    }

    fn entry_of(&self, version: CriticVersion, digest: String, shape: Shape, origin: Origin) -> CriticEntry {
        CriticEntry::new(version, digest, shape, origin, self.base_sha256.clone())
    }

    /// Appends `record`, synced, and applies it.
    fn append(&mut self, record: Record) -> Result<(), Error> {
        let path = self.folder.join(FILE);
        self.file.append(&json_lines::to_line(&record)).and_then(|()| disk::sync(&path)).map_err(Error::io(&path))?;
        Arc::make_mut(&mut self.critics).apply(record);
        self.told.send_replace(self.critics.clone());
        Ok(())
    }
}

/// Removes folders that were being written when a process died.
fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
