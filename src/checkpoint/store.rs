//! The folder of checkpoints: writing one into it, listing, holding, pruning, cleaning.
//!
//! Names: `step-00000012`, and `-r1`, `-r2` after it where a step was written again. `.writing-*` is being
//! made, `.removing-*` is being removed; whoever works on either holds its lock, so that what a dead process
//! left can be told from what a living one makes.

use super::best::best;
use super::disk::{Disk, Real};
use super::{Error, Result, Snapshot, files};
use crate::formats::spec::ModelSpec;
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

const WRITING: &str = ".writing-";
const REMOVING: &str = ".removing-";

/// A checkpoint's folder; whether it is whole is not yet said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its learner step.
    pub step: u64,
    /// 0 where the step was written once, 1 for its second checkpoint, ...
    pub revision: u64,
    /// Its folder.
    pub path: PathBuf,
}

impl Listed {
    /// Reads a folder's name.
    pub(crate) fn parse(path: PathBuf) -> Option<Self> {
        let rest = path.file_name()?.to_str()?.strip_prefix("step-")?;
        let (step, revision) = match rest.split_once("-r") {
            Some((step, revision)) => (step.parse().ok()?, revision.parse().ok().filter(|r| *r > 0)?),
            None => (rest.parse().ok()?, 0),
        };
        let listed = Self { step, revision, path };
        // Only names as written by this file, so that two names never mean one checkpoint.
        (listed.path.file_name()?.to_str()? == name(step, revision)).then_some(listed)
    }

    /// Where its manifest is, if it is a checkpoint at all.
    pub(crate) fn manifest(&self) -> PathBuf {
        self.path.join(files::MANIFEST)
    }

    /// Whether its manifest is there and every digest matches.
    ///
    /// # Errors
    /// [`Error::Broken`] says what is wrong with it.
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

/// The checkpoints under `root`, whole or not, newest first; empty where there is no such folder.
///
/// # Errors
/// Where the folder cannot be read.
pub fn list(root: &Path) -> Result<Vec<Listed>> {
    let mut found: Vec<_> = entries(root)?.into_iter().filter(|path| path.is_dir()).filter_map(Listed::parse).collect();
    found.sort_unstable_by(|one, other| other.cmp(one));
    Ok(found)
}

/// Everything in `root`; empty where it is not there.
fn entries(root: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(root) {
        Ok(entries) => {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(Error::io(root))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(root)(error)),
    }
}

/// A claim on a checkpoint: it is not pruned while this lives, by whatever process.
#[derive(Debug)]
pub struct Held {
    _lock: File,
}

/// Claims the checkpoint in `path`, so that nobody prunes it while it is read or served from.
///
/// # Errors
/// Where it has no manifest, or is being removed right now.
pub fn hold(path: &Path) -> Result<Held> {
    let broken = |why: &str| Error::Broken { path: path.to_owned(), why: why.to_owned() };
    let manifest = path.join(files::MANIFEST);
    let lock = File::open(&manifest).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => broken("manifest.json: there is none"),
        _ => Error::Io { path: manifest.clone(), source: error },
    })?;
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Err(broken("it is being removed")),
        // A file system without locks is read without one.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(Held { _lock: lock }),
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
    let latest = list(root)?.into_iter().find(|listed| listed.step == snapshot.step);
    if let Some(listed) = &latest
        && fs::read(listed.path.join(files::MANIFEST)).is_ok_and(|bytes| bytes == manifest)
        && listed.verify().is_ok()
    {
        return Ok(listed.path.clone());
    }
    let revision = latest.map_or(0, |listed| listed.revision + 1);
    let aside = root.join(format!("{WRITING}{:08}-{}", snapshot.step, std::process::id()));
    if aside.exists() {
        disk.remove(&aside)?;
    }
    let path = root.join(name(snapshot.step, revision));
    let written = fill(disk, &aside, &rendered, &manifest).and_then(|_lock| {
        disk.rename(&aside, &path)?;
        disk.sync(root)
    });
    if let Err(error) = written {
        // Best effort: what cannot be removed now is removed at the next start.
        let _ = disk.remove(&aside);
        return Err(error);
    }
    Ok(path)
}

/// Fills the new folder `aside`: every file, then the manifest, all of it synced. Returns its lock.
fn fill(disk: &mut impl Disk, aside: &Path, rendered: &files::Rendered<'_>, manifest: &[u8]) -> Result<Option<File>> {
    disk.create_folder(aside)?;
    let lock = lock(aside)?;
    let folders: BTreeSet<&str> = rendered.keys().filter_map(|name| Some(name.split_once('/')?.0)).collect();
    for folder in &folders {
        disk.create_folder(&aside.join(folder))?;
    }
    for (name, file) in rendered {
        disk.write(&aside.join(name), &|out| file.write(out))?;
        disk.sync(&aside.join(name))?;
    }
    for folder in &folders {
        disk.sync(&aside.join(folder))?;
    }
    let path = aside.join(files::MANIFEST);
    disk.write(&path, &|out| out.write_all(manifest))?;
    disk.sync(&path)?;
    disk.sync(aside)?;
    Ok(lock)
}

/// Locks the folder `path`; none where somebody else has it, or the system cannot.
fn lock(path: &Path) -> Result<Option<File>> {
    if cfg!(not(unix)) {
        return Ok(None);
    }
    let folder = File::open(path).map_err(Error::io(path))?;
    Ok(folder.try_lock().is_ok().then_some(folder))
}

/// Removes what dead processes left half written or half removed under `root`. Returns how much it was.
///
/// # Errors
/// Where the folder cannot be read or a leftover cannot be removed.
pub fn clean(root: &Path) -> Result<usize> {
    let mut removed = 0;
    for path in entries(root)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if (name.starts_with(WRITING) || name.starts_with(REMOVING)) && lock(&path)?.is_some() {
            Real.remove(&path)?;
            tracing::info!(path = %path.display(), "removed what a stopped process had left");
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes whole checkpoints under `root` but the best, the newest whole one and the `keep` before it; of a step that
/// was written again only the last counts. Held ones stay, and so do broken ones: they are nobody's last good
/// checkpoint, and may be somebody's evidence. Returns how many were removed.
///
/// # Errors
/// Where the folder cannot be read or a checkpoint cannot be removed.
pub fn prune(root: &Path, keep: usize) -> Result<usize> {
    for listed in list(root)? {
        if listed.verify().is_ok() {
            return prune_beside(&mut Real, root, keep, &listed.path);
        }
    }
    Ok(0)
}

/// Prunes what is older than `good`, which is known to be whole. The others are only glanced at: reading
/// every byte of them after each write would cost more than the write.
pub(super) fn prune_beside(disk: &mut impl Disk, root: &Path, keep: usize, good: &Path) -> Result<usize> {
    let mut kept = BTreeSet::new();
    let mut removed = 0;
    let best = best(root)?.map(|best| root.join(best.folder));
    for listed in list(root)?.into_iter().skip_while(|listed| listed.path != good) {
        if listed.path != good && files::glance(&listed.path).is_err() {
            continue;
        }
        // The last of a step comes first, so that a step already kept has been written again since.
        if (kept.len() <= keep && kept.insert(listed.step)) || best.as_ref() == Some(&listed.path) {
            continue;
        }
        removed += usize::from(remove(disk, root, &listed)?);
    }
    Ok(removed)
}

/// Removes one checkpoint, by another name first, so that no half of it is ever seen; false where it is held.
fn remove(disk: &mut impl Disk, root: &Path, listed: &Listed) -> Result<bool> {
    let manifest = listed.path.join(files::MANIFEST);
    // Opened to write, because some network file systems lock nothing else.
    let claim = File::options().read(true).write(true).open(&manifest).map_err(Error::io(&manifest))?;
    match claim.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(source)) => return Err(Error::Io { path: manifest, source }),
    }
    let _working = lock(&listed.path)?;
    let aside = root.join(format!("{REMOVING}{}-{}", name(listed.step, listed.revision), std::process::id()));
    disk.rename(&listed.path, &aside)?;
    disk.sync(root)?;
    disk.remove(&aside)?;
    Ok(true)
}
