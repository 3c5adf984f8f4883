//! Durable files: written under a temporary name, synced, renamed, and their folder synced after them.
//!
//! A reader sees the old content or the new, never a part of either, and whatever a function here has acknowledged
//! survives a power loss. What is read is a regular file and no longer than its reader allows. Knows no format; every room
//! may import it.

mod input;
pub(crate) mod json_lines;
pub(crate) mod rotating;

pub(crate) use input::{open, read, read_exact_at, read_text};

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use tempfile::{NamedTempFile, TempDir};

/// The prefix of temporary names.
pub(crate) const TEMPORARY_PREFIX: &str = ".writing-";

/// The folder that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Brings the content of the file, or the names in the folder, `path` to the disk.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    // Only Unix can open a folder to sync its names.
    if cfg!(not(unix)) && path.is_dir() {
        return Ok(());
    }
    File::open(path)?.sync_all()
}

/// Writes `bytes` to the file `path` and syncs the content. The name is durable once the folder is synced.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Renames `from` to `to` in the same folder, and syncs the folder.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync(parent(to))
}

/// A temporary file in the folder that will hold `path`, with the permissions of an ordinary file. Dropped before it is
/// [persisted](persist), it is removed.
pub(crate) fn temporary_for(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // The umask takes away from these, as it does from those of any other file.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(parent(path))
}

/// A temporary folder beside `path`, with the permissions of an ordinary folder; removed when it is dropped, unless it was
/// [renamed](rename).
pub(crate) fn temporary_folder_for(path: &Path) -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(fs::Permissions::from_mode(0o777));
    }
    builder.tempdir_in(parent(path))
}

/// Syncs `file` and gives it the name `path`, replacing what has that name.
pub(crate) fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync(parent(path))
}

/// Syncs `file` and gives it the name `path`; fails with [`io::ErrorKind::AlreadyExists`] if that exists.
pub(crate) fn persist_new(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    sync(parent(path))
}

/// Replaces the file `path` with `bytes`, in one step.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = temporary_for(path)?;
    file.write_all(bytes)?;
    persist(file, path)
}

/// Creates the file `path` with `bytes`, in one step; fails with [`io::ErrorKind::AlreadyExists`] if it exists.
pub(crate) fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = temporary_for(path)?;
    file.write_all(bytes)?;
    persist_new(file, path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(create(&path, b"three").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_has_the_permissions_of_any_other() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let [ours, other] = ["a", "b"].map(|name| folder.path().join(name));
        replace(&ours, b"one").unwrap();
        fs::write(&other, b"one").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&other));
    }
}
