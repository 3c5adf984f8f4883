//! The disk operations of a checkpoint, as a trait: a test replaces them with a disk that fails after any of them.

use super::error::{Error, Result};
use crate::disk;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes the bytes of a file.
pub(super) type Content<'a> = dyn Fn(&mut dyn Write) -> io::Result<()> + 'a;

/// A disk. Content is durable once its file is synced, a name once its folder is.
pub(super) trait Disk {
    /// Creates the folder `path`; its parent exists.
    fn create_folder(&mut self, path: &Path) -> Result<()>;
    /// Writes a new file, without syncing it.
    fn write(&mut self, path: &Path, content: &Content<'_>) -> Result<()>;
    /// Syncs the content of a file, or the names in a folder.
    fn sync(&mut self, path: &Path) -> Result<()>;
    /// Renames a folder to a free name.
    fn rename(&mut self, from: &Path, to: &Path) -> Result<()>;
    /// Removes a folder and its content.
    fn remove(&mut self, path: &Path) -> Result<()>;
}

/// The disk of this machine.
pub(super) struct LocalDisk;

impl Disk for LocalDisk {
    fn create_folder(&mut self, path: &Path) -> Result<()> {
        fs::create_dir(path).map_err(Error::io(path))
    }

    fn write(&mut self, path: &Path, content: &Content<'_>) -> Result<()> {
        let written = File::create(path).and_then(|file| {
            let mut file = BufWriter::new(file);
            content(&mut file)?;
            file.flush()
        });
        written.map_err(Error::io(path))
    }

    fn sync(&mut self, path: &Path) -> Result<()> {
        disk::sync(path).map_err(Error::io(path))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(Error::io(to))
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        fs::remove_dir_all(path).map_err(Error::io(path))
    }
}
