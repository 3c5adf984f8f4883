//! Checkpoints: a snapshot of a run as a folder; written, listed, loaded, pruned.
//!
//! A checkpoint is a folder `step-00000012`; a step that is written again gets `step-00000012-r1` and so on. A folder is
//! filled under a temporary name, synced, and renamed; its manifest is written last, and it never changes after. Invariant:
//! a checkpoint whose manifest is missing or has a digest that does not match does not count. Knows files and domain types;
//! no actor, no thread, no learner.

mod best;
mod config;
mod critic;
mod disk;
mod error;
mod files;
mod offer;
mod snapshot;
mod store;

pub use best::{Best, best, set_best};
pub use config::{CheckpointConfig, KeepBest};
pub use critic::{read_critic, verify_critic, write_critic};
pub use error::{Error, Result};
pub(crate) use files::{CONFIG, CONFIG_BYTES_MAX};
pub use offer::{is_offer, read_offer};
pub use snapshot::{NamedTensor, Snapshot};
pub use store::{CheckpointEntry, CheckpointGuard, acquire, list, prune, remove_leftovers};

pub use crate::formats::spec::ModelSpec;
pub use crate::transformer::full_weights::CriticWeights;

use disk::LocalDisk;
use std::path::{Path, PathBuf};

/// Writes `snapshot` as a checkpoint under `root`, which is created if needed, then prunes all but the newest `keep` others.
/// Returns the checkpoint's folder; its content and its name are synced.
///
/// If the step has a checkpoint already, another one is written beside it and counts as newer. If that one is whole and
/// byte for byte the same, nothing is written and its folder is returned.
///
/// # Errors
/// If the snapshot does not fit `spec` or the disk fails; all earlier checkpoints are then still there.
pub fn write(root: &Path, snapshot: &Snapshot, spec: &ModelSpec, base_model: &str, keep: usize) -> Result<PathBuf> {
    let path = store::write(&mut LocalDisk, root, snapshot, spec, base_model)?;
    // The new checkpoint is safe even if pruning the old ones fails.
    if let Err(error) = store::prune_beside(&mut LocalDisk, root, keep, &path) {
        tracing::warn!(%error, "could not prune old checkpoints");
    }
    Ok(path)
}

/// The newest whole checkpoint under `root`, if there is one. Corrupt checkpoints are skipped with a warning and stay on
/// disk.
///
/// # Errors
/// If the newest whole checkpoint does not fit `spec`, or the disk fails.
pub fn newest(root: &Path, spec: &ModelSpec) -> Result<Option<Snapshot>> {
    for entry in list(root)? {
        // The guard keeps other processes from pruning it while it is read.
        match acquire(&entry.path).and_then(|_guard| load(&entry.path, spec)) {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(Error::Corrupt { path, why }) => {
                tracing::warn!(path = %path.display(), why, "skipped a corrupt checkpoint")
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Reads the checkpoint in the folder `path`.
///
/// # Errors
/// If it is not whole or does not fit `spec`.
pub fn load(path: &Path, spec: &ModelSpec) -> Result<Snapshot> {
    files::verify(path)?;
    files::read(path, spec)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
