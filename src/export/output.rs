//! Outputs under temporary names until they are complete: a reader sees an output whole or not at all.

use super::error::{Error, Result};
use crate::disk;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tempfile::{NamedTempFile, TempDir};

/// A folder in the making; removed if it is dropped before it is published.
pub(super) struct OutputFolder {
    temporary: TempDir,
    path: PathBuf,
}

impl OutputFolder {
    /// An empty folder that will become `path`.
    pub(super) fn create(path: &Path) -> Result<Self> {
        prepare(path)?;
        let temporary = disk::temporary_folder_for(path).map_err(Error::io(path))?;
        Ok(Self { temporary, path: path.to_owned() })
    }

    /// The folder's temporary path.
    pub(super) fn temporary_path(&self) -> &Path {
        self.temporary.path()
    }

    /// Gives the folder its name.
    pub(super) fn publish(self) -> Result<()> {
        refuse_existing(&self.path)?;
        disk::rename(self.temporary.path(), &self.path).map_err(Error::io(&self.path))
    }
}

/// A file in the making; removed if it is dropped before it is published.
pub(super) struct OutputFile {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl OutputFile {
    /// An empty file that will become `path`.
    pub(super) fn create(path: &Path) -> Result<Self> {
        prepare(path)?;
        let temporary = disk::temporary_for(path).map_err(Error::io(path))?;
        Ok(Self { temporary, path: path.to_owned() })
    }

    /// The file, to be written.
    pub(super) fn file(&mut self) -> &mut fs::File {
        self.temporary.as_file_mut()
    }

    /// Syncs the file and gives it its name.
    pub(super) fn publish(self) -> Result<()> {
        disk::persist_new(self.temporary, &self.path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::Taken(self.path.clone()),
            _ => Error::io(&self.path)(error),
        })
    }
}

/// Checks that `path` is free and has a name, and creates the folders above it.
fn prepare(path: &Path) -> Result<()> {
    if path.file_name().is_none() {
        return Err(Error::NoName(path.to_owned()));
    }
    refuse_existing(path)?;
    let parent = disk::parent(path);
    fs::create_dir_all(parent).map_err(Error::io(parent))
}

fn refuse_existing(path: &Path) -> Result<()> {
    // A dangling link exists too.
    match fs::symlink_metadata(path) {
        Ok(_) => Err(Error::Taken(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(path)(error)),
    }
}

/// Writes the small file `path` and syncs it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    disk::write_synced(path, bytes).map_err(Error::io(path))
}
