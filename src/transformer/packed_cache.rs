//! Packed weights on disk: what the next start reads instead of packing the model's tensors again.
//!
//! A file holds the int8 matrices of one model, by the model's digest. It is written behind the first start, under a
//! temporary name; one that is damaged, of another version or of another layout is ignored, which is said once, and written
//! again. Other forms are not kept: they are as large as they are quick to make.

mod file;
mod writer;

pub(crate) use writer::CacheWriter;

use super::stack::Part;
use crate::formats::source::{self, Stamps};
use crate::kernels::{PassPrecisions, Weight};
use crate::transformer::error::Result;
use file::PackedFile;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use writer::Writing;

/// Models with fewer bytes of packed weights are packed at each start.
const BYTES_MIN: usize = 32 << 20;

/// The packed weights of one model, while it is loaded.
pub(super) struct PackedCache {
    folder: PathBuf,
    model: PathBuf,
    /// What the system said of the model's files before they were read.
    stamps: Stamps,
    file: Option<PackedFile>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Every matrix so far, with the names of its tensors.
    matrices: Vec<(String, Arc<Weight>)>,
    /// Whether one of them had to be packed.
    is_incomplete: bool,
    is_told: bool,
}

impl PackedCache {
    /// The cache for the model at `path` with `bytes` of packed weights; none if it is off or the model too small.
    pub(super) fn of(path: &Path, bytes: usize) -> Option<Self> {
        if bytes < BYTES_MIN {
            return None;
        }
        Self::in_folder(source::cache_folder("packed")?, path)
    }

    fn in_folder(folder: PathBuf, model: &Path) -> Option<Self> {
        let stamps = source::stamps(model).ok()?;
        let mut cache = Self { folder, model: model.to_owned(), stamps, file: None, state: Mutex::default() };
        // Without a known digest there is nothing to look for yet: computing it takes as long as packing.
        let Some(digest) = source::known_digest(model) else { return Some(cache) };
        match PackedFile::open(&file::path(&cache.folder, &digest), &digest) {
            Ok(file) => cache.file = file,
            Err(why) => cache.tell(&why),
        }
        Some(cache)
    }

    /// The matrix of `parts` in int8, which is all that `precisions` have: from the file if it is there and whole, else as
    /// `pack` makes it.
    pub(super) fn matrix(
        &self,
        parts: &[Part],
        precisions: PassPrecisions,
        pack: impl FnOnce() -> Result<Arc<Weight>>,
    ) -> Result<Arc<Weight>> {
        let name = parts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ");
        let stored = self.file.as_ref().and_then(|file| match file.read(&name, parts, precisions) {
            Ok(weight) => Some(Arc::new(weight)),
            Err(why) => {
                self.tell(&why);
                None
            }
        });
        let is_stored = stored.is_some();
        let weight = stored.map_or_else(pack, Ok)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_incomplete |= !is_stored;
        state.matrices.push((name, weight.clone()));
        Ok(weight)
    }

    /// Writes the file on a thread of its own, if it was not there or not whole.
    pub(super) fn finish(self) -> Option<CacheWriter> {
        let State { matrices, is_incomplete, .. } = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let replaces = self.file.is_some();
        let writing = Writing { folder: self.folder, model: self.model, stamps: self.stamps, matrices, replaces };
        is_incomplete.then(|| CacheWriter::start(writing)).flatten()
    }

    /// Says once that the file is of no use.
    fn tell(&self, why: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut state.is_told, true) {
            let folder = self.folder.display();
            tracing::warn!(%folder, why, "packed weights in the cache are of no use and are written again");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
