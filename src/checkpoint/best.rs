//! The best checkpoint so far: a file beside the checkpoints names its folder, which is not pruned.
//!
//! Invariant: the file names one folder, and is replaced as a whole.

use super::error::{Error, Result};
use crate::disk;
use serde::{Deserialize, Serialize};
use std::path::Path;

const FILE: &str = "best.json";
/// The longest file.
const BYTES_MAX: u64 = 1 << 16;

/// Which checkpoint is the best so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// The name of its folder.
    pub folder: String,
    /// Its learner step.
    pub step: u64,
    /// Its critique utility on held-out prompts, times 100.
    pub cu: f64,
}

/// The best checkpoint under `root`; none if none was recorded or it is gone.
///
/// # Errors
/// If the file that names it cannot be read.
pub fn best(root: &Path) -> Result<Option<Best>> {
    let path = root.join(FILE);
    let bytes = match disk::read(&path, BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(&path)(error)),
    };
    let corrupt = |error: serde_json::Error| Error::Corrupt { path: path.clone(), why: error.to_string() };
    let best: Best = serde_json::from_slice(&bytes).map_err(corrupt)?;
    if Path::new(&best.folder).file_name() != Some(best.folder.as_ref()) {
        let why = format!("{FILE}: expected the name of a checkpoint, got {:?}", best.folder);
        return Err(Error::Corrupt { path, why });
    }
    Ok(root.join(&best.folder).is_dir().then_some(best))
}

/// Records `best` as the best checkpoint under `root`.
///
/// # Errors
/// If the disk fails; the checkpoint recorded before is then still the best.
pub fn set_best(root: &Path, best: &Best) -> Result<()> {
    let path = root.join(FILE);
    let bytes = serde_json::to_vec_pretty(best).expect("a name and finite numbers are always JSON");
    disk::replace(&path, &bytes).map_err(Error::io(&path))
}
