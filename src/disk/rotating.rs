//! Two files of JSON lines that are bounded together: a full one becomes the earlier one, and the earlier one before it is deleted.

use super::json_lines::Appender;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Appends to the newer file.
#[derive(Debug)]
pub(crate) struct RotatingAppender {
    path: PathBuf,
    earlier: PathBuf,
    bytes_max: u64,
    file: Appender,
}

impl RotatingAppender {
    /// Opens or creates the file `name` in `folder`; `earlier` is the name of a full one. A file is at most `bytes_max` long, unless
    /// a single line is longer.
    pub(crate) fn open(folder: &Path, name: &str, earlier: &str, bytes_max: u64) -> io::Result<Self> {
        let path = folder.join(name);
        Ok(Self { file: Appender::open(&path)?, path, earlier: folder.join(earlier), bytes_max })
    }

    /// The newer file, open for reading too. Another once a line has been appended for which it was full.
    pub(crate) fn file(&self) -> &Arc<File> {
        self.file.file()
    }

    /// Appends `line`, which ends with a line end, and returns where it begins. If that fails, the lines are as they were.
    pub(crate) fn append(&mut self, line: &str) -> io::Result<u64> {
        if self.file.bytes() > 0 && self.file.bytes() + line.len() as u64 > self.bytes_max {
            // It is missing where the last attempt came no further.
            if self.path.exists() {
                fs::rename(&self.path, &self.earlier)?;
            }
            self.file = Appender::open(&self.path)?;
        }
        let offset = self.file.bytes();
        self.file.append(line)?;
        Ok(offset)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_becomes_the_earlier_one_also_if_the_first_attempt_fails() {
        let folder = tempfile::tempdir().unwrap();
        let (path, earlier) = (folder.path().join("a"), folder.path().join("b"));
        let mut lines = RotatingAppender::open(folder.path(), "a", "b", 8).unwrap();
        assert_eq!([lines.append("one\n").unwrap(), lines.append("two\n").unwrap()], [0, 4]);
        let first = lines.file().clone();
        // Renamed already, and nothing can take its place.
        fs::rename(&path, &earlier).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("in the way"), "").unwrap();
        assert!(lines.append("three\n").is_err());
        assert_eq!(fs::read_to_string(&earlier).unwrap(), "one\ntwo\n");
        fs::remove_dir_all(&path).unwrap();
        assert_eq!(lines.append("three\n").unwrap(), 0);
        assert!(!Arc::ptr_eq(&first, lines.file()));
        assert_eq!([path, earlier].map(|path| fs::read_to_string(path).unwrap()), ["three\n", "one\ntwo\n"]);
    }
}
