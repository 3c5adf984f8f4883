//! Digests of large files that were computed before, by what the system says of the file: path, size, times, inode.
//!
//! A gigabyte takes about a second to digest. Whoever changes a file changes the time of its last change, which no program
//! sets to its liking; a file that changed moments ago is not remembered, as times are coarse. `RCO_LOAD_CACHE=off` turns
//! this off.

use super::cache;
use crate::disk;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Files below are digested each time.
const BYTES_MIN: u64 = 16 << 20;
/// How long a file must not have changed.
const QUIET: Duration = Duration::from_secs(2);
/// The longest note, and how many there may be before all are dropped.
const NOTE_BYTES_MAX: u64 = 1 << 16;
const NOTES_MAX: usize = 512;

/// What the system says of a file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    bytes: u64,
    modified_ns: u128,
    /// Time of the last change of content or metadata, inode and device; only Unix has them.
    changed: [i64; 2],
    inode: [u64; 2],
}

#[derive(Serialize, Deserialize)]
struct Note {
    path: PathBuf,
    stamp: Stamp,
    sha256: String,
}

impl Stamp {
    /// The stamp of the file `path`, if it can be read.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        #[cfg(unix)]
        let (changed, inode) = {
            use std::os::unix::fs::MetadataExt as _;
            ([file.ctime(), file.ctime_nsec()], [file.dev(), file.ino()])
        };
        #[cfg(not(unix))]
        let (changed, inode) = ([0; 2], [0; 2]);
        let modified = file.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(Self { bytes: file.len(), modified_ns: modified.as_nanos(), changed, inode })
    }

    /// Whether the file is large enough to be remembered and has not changed for a while.
    fn is_settled(&self) -> bool {
        let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) else { return false };
        let latest = self.modified_ns.max(1_000_000_000 * u128::try_from(self.changed[0]).unwrap_or(0));
        self.bytes >= BYTES_MIN && latest + QUIET.as_nanos() < now.as_nanos()
    }
}

/// The digest of the file `path`, if it was computed before and the file has not changed since.
pub(super) fn find(path: &Path) -> Option<String> {
    find_in(&cache::folder("digests")?, path)
}

/// Notes that the file `path`, whose stamp was `stamp` before it was read, has the digest `sha256`.
pub(super) fn remember(path: &Path, stamp: Option<Stamp>, sha256: &str) {
    let Some(folder) = cache::folder("digests") else { return };
    remember_in(&folder, path, stamp, sha256);
}

fn note_path(folder: &Path, path: &Path) -> Option<(PathBuf, PathBuf)> {
    let path = path.canonicalize().ok()?;
    let name = const_hex::encode(Sha256::digest(path.as_os_str().as_encoded_bytes()));
    Some((folder.join(format!("{name}.json")), path))
}

fn find_in(folder: &Path, path: &Path) -> Option<String> {
    let (note, path) = note_path(folder, path)?;
    let note: Note = serde_json::from_slice(&disk::read(&note, NOTE_BYTES_MAX).ok()?).ok()?;
    (note.path == path && note.stamp == Stamp::of(&path)? && note.stamp.is_settled()).then_some(note.sha256)
}

fn remember_in(folder: &Path, path: &Path, stamp: Option<Stamp>, sha256: &str) {
    let Some(stamp) = stamp.filter(|stamp| stamp.is_settled() && Stamp::of(path).as_ref() == Some(stamp)) else {
        return;
    };
    let Some((note, path)) = note_path(folder, path) else { return };
    let write = || {
        if fs::read_dir(folder).is_ok_and(|notes| notes.count() >= NOTES_MAX) {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let text = serde_json::to_vec(&Note { path, stamp, sha256: sha256.to_owned() })?;
        disk::replace(&note, &text)
    };
    if let Err(error) = write() {
        tracing::debug!(%error, "cannot note the digest of a file");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_known_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (notes, path) = (folder.path().join("notes"), folder.path().join("model"));
        let file = fs::File::create(&path).unwrap();
        file.set_len(BYTES_MIN).unwrap();
        // It changed just now.
        remember_in(&notes, &path, Stamp::of(&path), "abc");
        assert_eq!(find_in(&notes, &path), None);
        // A stamp of long ago, as far as can be without waiting.
        let mut stamp = Stamp::of(&path).unwrap();
        (stamp.modified_ns, stamp.changed) = (0, [0; 2]);
        assert!(stamp.is_settled());
        assert!(!Stamp { bytes: BYTES_MIN - 1, ..stamp.clone() }.is_settled());
        let (note, whole) = note_path(&notes, &path).unwrap();
        fs::create_dir_all(&notes).unwrap();
        let text = serde_json::to_vec(&Note { path: whole, stamp, sha256: "abc".to_owned() }).unwrap();
        fs::write(&note, text).unwrap();
        assert_eq!(find_in(&notes, &path), None, "the file's stamp is another");
    }
}
