//! A run's groups, appended as they are scored.
//!
//! A full file becomes the earlier one, and the earlier one before it is deleted: the disk is bounded. A killed process
//! leaves a torn last line at most, which is cut off when the file is opened again.

use super::error::{Error, Result};
use super::record::{EARLIER_FILE, FILE, RecordedGroup};
use crate::disk::json_lines::to_line;
use crate::disk::rotating::RotatingAppender;
use crate::types::{CritiqueGroup, ModelId};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Appends groups to a run's file.
#[derive(Debug)]
pub struct GroupRecorder {
    path: PathBuf,
    model: ModelId,
    file: Mutex<RotatingAppender>,
}

impl GroupRecorder {
    /// Opens the file of the run in `folder`, or creates it. `model` is the model of the groups' token ids. A file is at
    /// most `file_bytes_max` long, unless a single group is longer.
    ///
    /// # Errors
    /// If the file cannot be opened, read or truncated.
    pub fn open(folder: &Path, model: ModelId, file_bytes_max: u64) -> Result<Self> {
        let path = folder.join(FILE);
        let file = RotatingAppender::open(folder, FILE, EARLIER_FILE, file_bytes_max).map_err(Error::io(&path))?;
        Ok(Self { path, model, file: Mutex::new(file) })
    }

    /// `group` as a line for [`GroupRecorder::append`].
    pub fn line(&self, group: &CritiqueGroup) -> String {
        to_line(&RecordedGroup { model: self.model.clone(), group: group.clone() })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// If the disk fails; the file is then as it was before.
    pub fn append(&self, line: &str) -> Result<()> {
        // A failed or panicked append leaves whole lines, so the lock is usable after a panic.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.append(line).map(|_| ()).map_err(Error::io(&self.path))
    }
}
