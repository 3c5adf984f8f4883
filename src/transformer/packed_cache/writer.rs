//! Writing packed weights behind a start, and keeping their folder small.

use super::file;
use crate::disk;
use crate::formats::source::{self, Stamps};
use crate::kernels::Weight;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Bytes of all files together: those of the least recently used models are removed.
const FOLDER_BYTES_MAX: u64 = 8 << 30;
/// Age at which what a killed process left behind is removed.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);

/// What is to be written.
pub(super) struct Writing {
    pub(super) folder: PathBuf,
    pub(super) model: PathBuf,
    pub(super) stamps: Stamps,
    pub(super) matrices: Vec<(String, Arc<Weight>)>,
    /// Whether there is a file that is not whole.
    pub(super) replaces: bool,
}

/// A thread that writes packed weights. Whoever drops it waits until it has ended: at the latest, the end of the program.
#[derive(Debug)]
pub(crate) struct CacheWriter(Option<JoinHandle<()>>);

impl CacheWriter {
    pub(super) fn start(writing: Writing) -> Option<Self> {
        let write = move || match writing.write() {
            Ok(()) => {}
            Err(error) => tracing::info!(%error, "packed weights are not kept for the next start"),
        };
        let thread = std::thread::Builder::new().name("pack-cache".to_owned()).spawn(write);
        thread.map(|thread| Self(Some(thread))).ok()
    }
}

impl Drop for CacheWriter {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // It panicked: the panic was printed, and there is no file.
            let _ = thread.join();
        }
    }
}

impl Writing {
    fn write(&self) -> io::Result<()> {
        let failed = |error: crate::formats::Error| io::Error::other(error.to_string());
        let digest = source::digest(&self.model).map_err(failed)?;
        if source::stamps(&self.model).map_err(failed)? != self.stamps {
            return Err(io::Error::other("the model changed while it was loaded"));
        }
        let path = file::path(&self.folder, &digest);
        // Another process may have written it, or the model was only moved.
        if !self.replaces && matches!(file::PackedFile::open(&path, &digest), Ok(Some(_))) {
            return Ok(());
        }
        let bytes = self.matrices.iter().map(|(_, weight)| weight.decode_bytes() as u64).sum();
        fs::create_dir_all(&self.folder)?;
        make_room(&self.folder, &path, bytes)?;
        let mut temporary = disk::temporary_for(&path)?;
        file::write(temporary.as_file_mut(), &digest, &self.matrices)?;
        // Not synced: what a power loss damages, the checksums show.
        temporary.persist(&path).map_err(|error| error.error)?;
        tracing::debug!(path = %path.display(), bytes, "kept packed weights for the next start");
        Ok(())
    }
}

/// Removes files of `folder` until another of `bytes`, at `path`, is within the limit.
///
/// # Errors
/// If it cannot be, or the disk has too little room for it.
fn make_room(folder: &Path, path: &Path, bytes: u64) -> io::Result<()> {
    let mut files = vec![];
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (name, file) = (entry.file_name(), entry.metadata()?);
        let modified = file.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if name.as_encoded_bytes().starts_with(disk::TEMPORARY_PREFIX.as_bytes()) {
            if modified.elapsed().is_ok_and(|age| age > LEFT_BEHIND) {
                fs::remove_file(entry.path())?;
            }
        } else if entry.path().extension().is_some_and(|ending| ending == file::ENDING) && entry.path() != path {
            files.push((modified, file.len(), entry.path()));
        }
    }
    files.sort_unstable();
    let mut total = bytes + files.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
    for (_, bytes, path) in files {
        if total <= FOLDER_BYTES_MAX {
            break;
        }
        fs::remove_file(path)?;
        total -= bytes;
    }
    if total > FOLDER_BYTES_MAX {
        return Err(io::Error::other(format!("expected at most {FOLDER_BYTES_MAX} bytes, got {total}")));
    }
    #[cfg(unix)]
    {
        let disk = rustix::fs::statvfs(folder)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free / 2 < bytes {
            return Err(io::Error::other(format!("{bytes} bytes are more than half of what is free on the disk")));
        }
    }
    Ok(())
}
