//! Checkpoints: written aside, fsynced, renamed, manifest last; listed, loaded, pruned.
//!
//! A checkpoint is a folder `step-00000012` (rewritten: `step-00000012-r1`, ...; a folder is never changed
//! once it has its name). What is on disk is whole: its manifest is there and every file has the digest that
//! the manifest names, or it does not count. Knows files and goods; no actor, no thread, no learner.

mod best;
mod disk;
mod files;
mod store;

pub use crate::formats::spec::ModelSpec;
pub use crate::transformer::full_weights::CriticWeights;
use crate::types::CriticVersion;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

pub use best::{Best, best, name_best};
pub(crate) use files::CONFIG;
pub use store::{Held, Listed, clean, hold, list, prune};

/// How much is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Checkpoints kept on disk beside the newest.
    pub keep: usize,
    /// Whether one more is kept because it is the best so far.
    pub keep_best: KeepBest,
    /// Scored groups kept on disk beside them, in MiB; twice as many at most, while a file fills up. 0 keeps none.
    pub groups_mib: u64,
}

/// By what a checkpoint is the best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeepBest {
    /// None is.
    #[default]
    None,
    /// Critique utility on held-out prompts.
    Cu,
}

impl CheckpointConfig {
    /// What is wrong with it, all at once: nothing can be, any number is fine.
    pub fn complaints(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A named tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Such as `layers.0.q_proj.lora_A.m`.
    pub name: String,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f32>,
}

/// All that a run needs to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Learner steps taken.
    pub step: u64,
    /// The critic in service.
    pub version: CriticVersion,
    /// The learner's weights.
    pub critic: CriticWeights,
    /// The critic in service; none while that is the base.
    pub served: Option<CriticWeights>,
    /// The optimizer's moments; their order is not kept, they come back sorted by name.
    pub optimizer: Vec<NamedTensor>,
    /// Replay, ledger, counters and whatever else is plain data.
    pub state: serde_json::Value,
    /// The resolved config, as TOML.
    pub config: String,
}

/// Why there is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read, written, synced or renamed.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The checkpoint is not whole: it was damaged, or something in it is missing.
    #[error("checkpoint {path} is not whole: {why}")]
    Broken {
        /// Its folder.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The checkpoint is whole, but this node cannot go on from it.
    #[error("checkpoint {path} does not fit this node: {why}")]
    Unfit {
        /// Its folder.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// The snapshot itself makes no sense.
    #[error("snapshot of step {step}: {why}")]
    Snapshot {
        /// Its step.
        step: u64,
        /// What is wrong.
        why: String,
    },
}

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An I/O error that names its file.
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<'_> {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Writes `snapshot` as a checkpoint under `root` (made where it is missing), then prunes all but the newest
/// `keep` others. Returns its folder, which is on the disk for good: synced, and its name too.
///
/// A step that has a checkpoint already gets another one beside it, which counts as newer; where that one is
/// whole and equal to the byte, nothing is written and its folder is returned.
///
/// # Errors
/// Where the snapshot does not fit `spec` or the disk fails; what was there before is then still there.
pub fn write(root: &Path, snapshot: &Snapshot, spec: &ModelSpec, base_model: &str, keep: usize) -> Result<PathBuf> {
    let path = store::write(&mut disk::Real, root, snapshot, spec, base_model)?;
    // The new checkpoint is safe whatever becomes of the old ones: a failure to prune is only told.
    if let Err(error) = store::prune_beside(&mut disk::Real, root, keep, &path) {
        tracing::warn!(%error, "old checkpoints could not be pruned");
    }
    Ok(path)
}

/// The newest whole checkpoint under `root`; none where there is none or no such folder. Broken ones are
/// skipped with a warning that names them, and left alone.
///
/// # Errors
/// Where the newest whole one does not fit `spec`, or the disk fails.
pub fn newest(root: &Path, spec: &ModelSpec) -> Result<Option<Snapshot>> {
    for listed in list(root)? {
        // Held, so that nobody prunes it while it is read.
        match hold(&listed.path).and_then(|_held| load(&listed.path, spec)) {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(Error::Broken { path, why }) => {
                tracing::warn!(path = %path.display(), why, "skipped a broken checkpoint")
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The checkpoint in the folder `path`.
///
/// # Errors
/// Where it is not whole or does not fit `spec`.
pub fn load(path: &Path, spec: &ModelSpec) -> Result<Snapshot> {
    files::verify(path)?;
    files::read(path, spec)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
