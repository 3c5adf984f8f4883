//! The folder of all checkpoints of a run: writing, listing, locking, pruning, removing leftovers.
//!
//! A checkpoint is named `step-00000012`, with `-r1`, `-r2` appended if a step is written again. While it is written it is
//! named `.writing-*`, while it is removed `.removing-*`. A process locks the folder that it works on, so that the
//! leftovers of a dead process can be told from the work of a living one.

use super::best::best;
use super::disk::{Disk, LocalDisk};
use super::error::{Error, Result};
use super::files;
use super::snapshot::Snapshot;
use crate::disk::{self, TEMPORARY_PREFIX};
use crate::formats::spec::ModelSpec;
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

const REMOVING: &str = ".removing-";

/// The folder of a checkpoint, which may be corrupt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointEntry {
    /// Its learner step.
    pub step: u64,
    /// 0 for the first checkpoint of the step, 1 for the second, and so on.
    pub revision: u64,
    /// Its folder.
    pub path: PathBuf,
}

impl CheckpointEntry {
    /// Parses the name of a folder; none if it is not that of a checkpoint.
    pub(crate) fn parse(path: PathBuf) -> Option<Self> {
        let rest = path.file_name()?.to_str()?.strip_prefix("step-")?;
        let (step, revision) = match rest.split_once("-r") {
            Some((step, revision)) => (step.parse().ok()?, revision.parse().ok().filter(|r| *r > 0)?),
            None => (rest.parse().ok()?, 0),
        };
        let entry = Self { step, revision, path };
        // Only names in the form that `name` gives, so that no two names mean one checkpoint.
        (entry.path.file_name()?.to_str()? == name(step, revision)).then_some(entry)
    }

    /// The path of its manifest.
    pub(crate) fn manifest(&self) -> PathBuf {
        self.path.join(files::MANIFEST)
    }

    /// Checks that its manifest exists and every digest matches.
    ///
    /// # Errors
    /// [`Error::Corrupt`] says what is wrong.
    pub fn verify(&self) -> Result<()> {
        files::verify(&self.path)
    }
}

/// The name of a checkpoint's folder.
fn name(step: u64, revision: u64) -> String {
    match revision {
        0 => format!("step-{step:08}"),
        revision => format!("step-{step:08}-r{revision}"),
    }
}

/// The checkpoints under `root`, corrupt ones included, newest first; empty if the folder does not exist.
///
/// # Errors
/// If the folder cannot be read.
pub fn list(root: &Path) -> Result<Vec<CheckpointEntry>> {
    let mut found: Vec<_> =
        entries(root)?.into_iter().filter(|path| path.is_dir()).filter_map(CheckpointEntry::parse).collect();
    found.sort_unstable_by(|one, other| other.cmp(one));
    Ok(found)
}

/// Everything in `root`; empty if it does not exist.
fn entries(root: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(root) {
        Ok(entries) => {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(Error::io(root))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(root)(error)),
    }
}

/// A shared lock on a checkpoint: no process prunes it while the guard exists.
#[derive(Debug)]
pub struct CheckpointGuard {
    _lock: File,
}

/// Locks the checkpoint in `path` against pruning while it is read or served from.
///
/// # Errors
/// If it has no manifest, or is being removed.
pub fn acquire(path: &Path) -> Result<CheckpointGuard> {
    let corrupt = |why: &str| Error::Corrupt { path: path.to_owned(), why: why.to_owned() };
    let manifest = path.join(files::MANIFEST);
    let lock = disk::open(&manifest).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => corrupt("manifest.json is missing"),
        std::io::ErrorKind::InvalidInput => corrupt("manifest.json: expected a regular file"),
        _ => Error::Io { path: manifest.clone(), source: error },
    })?;
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Err(corrupt("it is being removed")),
        // On a file system without locks the checkpoint is read without one.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(CheckpointGuard { _lock: lock }),
    }
}

/// Writes `snapshot` under `root` and returns its folder; see [`super::write`].
pub(super) fn write(
    disk: &mut impl Disk,
    root: &Path,
    snapshot: &Snapshot,
    spec: &ModelSpec,
    base_model: &str,
) -> Result<PathBuf> {
    let rendered = files::render(snapshot, spec, base_model)?;
    let manifest = files::manifest(&rendered);
    fs::create_dir_all(root).map_err(Error::io(root))?;
    let latest = list(root)?.into_iter().find(|entry| entry.step == snapshot.step);
    if let Some(entry) = &latest
        && disk::read(&entry.path.join(files::MANIFEST), manifest.len() as u64).is_ok_and(|bytes| bytes == manifest)
        && entry.verify().is_ok()
    {
        return Ok(entry.path.clone());
    }
    let revision = latest.map_or(0, |entry| entry.revision + 1);
    let staging = root.join(format!("{TEMPORARY_PREFIX}{:08}-{}", snapshot.step, std::process::id()));
    if staging.exists() {
        disk.remove(&staging)?;
    }
    let path = root.join(name(snapshot.step, revision));
    let written = fill(disk, &staging, &rendered, &manifest).and_then(|_lock| {
        disk.rename(&staging, &path)?;
        disk.sync(root)
    });
    if let Err(error) = written {
        // Best effort: if this fails, the next start removes it.
        let _ = disk.remove(&staging);
        return Err(error);
    }
    Ok(path)
}

/// Creates the folder `staging` with every file and then the manifest, all synced. Returns its lock.
fn fill(disk: &mut impl Disk, staging: &Path, rendered: &files::FileSet<'_>, manifest: &[u8]) -> Result<Option<File>> {
    disk.create_folder(staging)?;
    let lock = lock(staging)?;
    let folders: BTreeSet<&str> = rendered.keys().filter_map(|name| Some(name.split_once('/')?.0)).collect();
    for folder in &folders {
        disk.create_folder(&staging.join(folder))?;
    }
    for (name, file) in rendered {
        disk.write(&staging.join(name), &|out| file.write(out))?;
        disk.sync(&staging.join(name))?;
    }
    for folder in &folders {
        disk.sync(&staging.join(folder))?;
    }
    let path = staging.join(files::MANIFEST);
    disk.write(&path, &|out| out.write_all(manifest))?;
    disk.sync(&path)?;
    disk.sync(staging)?;
    Ok(lock)
}

/// Locks the folder `path`; none if another process has locked it, or the system cannot.
fn lock(path: &Path) -> Result<Option<File>> {
    if cfg!(not(unix)) {
        return Ok(None);
    }
    let folder = File::open(path).map_err(Error::io(path))?;
    Ok(folder.try_lock().is_ok().then_some(folder))
}

/// Removes what dead processes left half written or half removed under `root`. Returns the number of leftovers.
///
/// # Errors
/// If the folder cannot be read or a leftover cannot be removed.
pub fn remove_leftovers(root: &Path) -> Result<usize> {
    let mut removed = 0;
    for path in entries(root)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if (name.starts_with(TEMPORARY_PREFIX) || name.starts_with(REMOVING)) && lock(&path)?.is_some() {
            match path.is_dir() {
                true => LocalDisk.remove(&path)?,
                false => fs::remove_file(&path).map_err(Error::io(&path))?,
            }
            tracing::info!(path = %path.display(), "removed the leftovers of a stopped process");
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes whole checkpoints under `root` except the best, the newest whole one and the `keep` before it. Of a step that was
/// written again only the last checkpoint counts. Locked checkpoints stay. Corrupt ones stay too: they do not count, and
/// may help to find out what went wrong. Returns the number removed.
///
/// # Errors
/// If the folder cannot be read or a checkpoint cannot be removed.
pub fn prune(root: &Path, keep: usize) -> Result<usize> {
    for entry in list(root)? {
        if entry.verify().is_ok() {
            return prune_beside(&mut LocalDisk, root, keep, &entry.path);
        }
    }
    Ok(0)
}

/// Prunes checkpoints older than `good`, which is known to be whole. Of the others only the sizes are checked: reading
/// every byte of them after each write would cost more than the write.
pub(super) fn prune_beside(disk: &mut impl Disk, root: &Path, keep: usize, good: &Path) -> Result<usize> {
    let mut kept = BTreeSet::new();
    let mut removed = 0;
    let best = best(root)?.map(|best| root.join(best.folder));
    for entry in list(root)?.into_iter().skip_while(|entry| entry.path != good) {
        if entry.path != good && files::verify_sizes(&entry.path).is_err() {
            continue;
        }
        // The last checkpoint of a step comes first: if the step is kept already, this one was replaced.
        if (kept.len() <= keep && kept.insert(entry.step)) || best.as_ref() == Some(&entry.path) {
            continue;
        }
        removed += usize::from(remove(disk, root, &entry)?);
    }
    Ok(removed)
}

/// Removes a checkpoint; false if it is locked. It is renamed first, so that a reader never sees a part of it.
fn remove(disk: &mut impl Disk, root: &Path, entry: &CheckpointEntry) -> Result<bool> {
    let manifest = entry.path.join(files::MANIFEST);
    // Opened for writing, because some network file systems lock nothing else.
    let lock_file = File::options().read(true).write(true).open(&manifest).map_err(Error::io(&manifest))?;
    match lock_file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(source)) => return Err(Error::Io { path: manifest, source }),
    }
    let _folder_lock = lock(&entry.path)?;
    let staging = root.join(format!("{REMOVING}{}-{}", name(entry.step, entry.revision), std::process::id()));
    disk.rename(&entry.path, &staging)?;
    disk.sync(root)?;
    disk.remove(&staging)?;
    Ok(true)
}
