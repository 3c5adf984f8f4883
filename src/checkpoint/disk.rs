//! The few things a checkpoint does to a disk, so that tests can stop after any of them.

use super::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes a file's bytes, piece by piece.
pub(super) type Content<'a> = dyn Fn(&mut dyn Write) -> io::Result<()> + 'a;

/// A disk: nothing written is safe before it is synced, and no name before its folder is.
pub(super) trait Disk {
    /// Makes the folder `path`; its parent is there.
    fn create_folder(&mut self, path: &Path) -> Result<()>;
    /// Writes a new file, not yet synced.
    fn write(&mut self, path: &Path, content: &Content<'_>) -> Result<()>;
    /// Brings a file's bytes, or a folder's names, to the disk.
    fn sync(&mut self, path: &Path) -> Result<()>;
    /// Renames a folder; the new name is free.
    fn rename(&mut self, from: &Path, to: &Path) -> Result<()>;
    /// Removes a folder and what is in it.
    fn remove(&mut self, path: &Path) -> Result<()>;
}

/// The machine's own.
pub(super) struct Real;

impl Disk for Real {
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
        // Only Unix can open a folder to sync its names.
        if cfg!(not(unix)) && path.is_dir() {
            return Ok(());
        }
        File::open(path).and_then(|file| file.sync_all()).map_err(Error::io(path))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(Error::io(to))
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        fs::remove_dir_all(path).map_err(Error::io(path))
    }
}
