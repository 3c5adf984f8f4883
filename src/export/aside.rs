//! Written aside, renamed into place: a reader sees an output whole or not at all.

use super::{Error, Result};
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// An output in the making; dropped before it is placed, it is gone.
pub(super) struct Aside {
    aside: PathBuf,
    out: PathBuf,
    placed: bool,
}

impl Aside {
    /// A file to be: nothing is made yet.
    pub(super) fn file(out: &Path) -> Result<Self> {
        let name = out.file_name().ok_or_else(|| Error::NoName(out.to_owned()))?;
        refuse_taken(out)?;
        let mut aside = OsString::from(".writing-");
        aside.push(name);
        aside.push(format!("-{}", std::process::id()));
        let parent = parent(out);
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        Ok(Self { aside: parent.join(aside), out: out.to_owned(), placed: false })
    }

    /// A folder to be, empty.
    pub(super) fn folder(out: &Path) -> Result<Self> {
        let aside = Self::file(out)?;
        fs::create_dir(&aside.aside).map_err(Error::io(&aside.aside))?;
        Ok(aside)
    }

    /// Where to write.
    pub(super) fn path(&self) -> &Path {
        &self.aside
    }

    /// Gives it its name.
    pub(super) fn place(mut self) -> Result<()> {
        refuse_taken(&self.out)?;
        fs::rename(&self.aside, &self.out).map_err(Error::io(&self.out))?;
        self.placed = true;
        // Only Unix can open a folder to sync its names.
        if cfg!(unix) {
            let parent = parent(&self.out);
            File::open(parent).and_then(|folder| folder.sync_all()).map_err(Error::io(parent))?;
        }
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.placed {
            // Best effort: the error that led here is the one to tell.
            let _ = if self.aside.is_dir() { fs::remove_dir_all(&self.aside) } else { fs::remove_file(&self.aside) };
        }
    }
}

fn parent(out: &Path) -> &Path {
    out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn refuse_taken(out: &Path) -> Result<()> {
    // A dangling link is something too.
    match fs::symlink_metadata(out) {
        Ok(_) => Err(Error::Taken(out.to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(out)(error)),
    }
}

/// Writes a small file and brings it to the disk.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).and_then(|()| File::open(path)?.sync_all()).map_err(Error::io(path))
}
