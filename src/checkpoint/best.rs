//! The best checkpoint so far: a file beside the checkpoints names its folder, which is then not pruned.
//!
//! Invariant: the file is replaced as a whole; it names one folder, and whoever reads it sees the old name or the new.

use super::disk::{Disk, Real};
use super::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

const FILE: &str = "best.json";
const ASIDE: &str = "best.json.new";

/// Which checkpoint is the best so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Name of its folder.
    pub folder: String,
    /// Its learner step.
    pub step: u64,
    /// What it is the best by: critique utility on held-out prompts, times 100.
    pub cu: f64,
}

/// The best checkpoint under `root`; none where none was named, or it is gone.
///
/// # Errors
/// Where the file that names it cannot be read.
pub fn best(root: &Path) -> Result<Option<Best>> {
    let path = root.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(&path)(error)),
    };
    let broken = |error: serde_json::Error| Error::Broken { path: path.clone(), why: error.to_string() };
    let best: Best = serde_json::from_slice(&bytes).map_err(broken)?;
    Ok(root.join(&best.folder).is_dir().then_some(best))
}

/// Names `best` as the best checkpoint under `root`.
///
/// # Errors
/// Where the disk fails; the one named before is then still named.
pub fn name_best(root: &Path, best: &Best) -> Result<()> {
    let aside = root.join(ASIDE);
    let bytes = serde_json::to_vec_pretty(best).expect("a name and finite numbers are always JSON");
    Real.write(&aside, &|out| out.write_all(&bytes))?;
    Real.sync(&aside)?;
    Real.rename(&aside, &root.join(FILE))?;
    Real.sync(root)
}
