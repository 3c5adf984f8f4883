//! A run's groups, appended as they are scored.
//!
//! Each line goes to the system in one write, so that a killed process leaves a torn last line at most; it is cut off when
//! the file is opened again. A file that is full becomes the earlier one, and the one before that goes.

use super::{EARLIER_FILE, Error, FILE, Origin, Recorded, Result, lines};
use crate::types::CritiqueGroup;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// How far back a line end is looked for at a time.
const LOOK_BYTES: u64 = 1 << 16;

/// Appends groups to a run's file.
#[derive(Debug)]
pub struct Recorder {
    folder: PathBuf,
    model: Origin,
    bytes_max: u64,
    open: Mutex<Open>,
}

/// The file, and how long it is.
#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

impl Recorder {
    /// Goes on with the file of the run in `folder`, or begins it. `model` is whose ids the groups will hold; no file
    /// becomes longer than `bytes_max`, unless one group is.
    ///
    /// # Errors
    /// Where the file cannot be opened, read or cut.
    pub fn open(folder: &Path, model: Origin, bytes_max: u64) -> Result<Self> {
        let open = Open::at(&folder.join(FILE))?;
        Ok(Self { folder: folder.to_owned(), model, bytes_max, open: Mutex::new(open) })
    }

    /// `group` as the line that [`Recorder::append`] takes.
    pub fn line(&self, group: &CritiqueGroup) -> String {
        lines::line(&Recorded { model: self.model.clone(), group: group.clone() })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// Where the disk fails; the file is then as it was before.
    pub fn append(&self, line: &str) -> Result<()> {
        let path = self.folder.join(FILE);
        // A line is all or nothing below, so a panic between two of them leaves nothing half done.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.bytes > 0 && open.bytes + line.len() as u64 > self.bytes_max {
            std::fs::rename(&path, self.folder.join(EARLIER_FILE)).map_err(Error::io(&path))?;
            *open = Open::at(&path)?;
        }
        let Open { file, bytes } = &mut *open;
        if let Err(error) = file.write_all(line.as_bytes()) {
            // What there is of the line is taken back, or else the next opening cuts it off.
            let _ = file.set_len(*bytes).and_then(|()| file.seek(SeekFrom::Start(*bytes)));
            return Err(Error::io(&path)(error));
        }
        *bytes += line.len() as u64;
        Ok(())
    }
}

impl Open {
    /// Opens or makes the file `path`, without the torn line that a killed process may have left.
    fn at(path: &Path) -> Result<Self> {
        let open = || -> std::io::Result<Self> {
            let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            let length = file.metadata()?.len();
            let bytes = whole_lines(&mut file, length)?;
            if bytes < length {
                tracing::warn!(path = %path.display(), bytes = length - bytes, "cut off a torn line");
                file.set_len(bytes)?;
            }
            file.seek(SeekFrom::Start(bytes))?;
            Ok(Self { file, bytes })
        };
        open().map_err(Error::io(path))
    }
}

/// Where the last line end of `file`, `length` bytes long, lies.
fn whole_lines(file: &mut File, length: u64) -> std::io::Result<u64> {
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(LOOK_BYTES);
        let mut bytes = vec![0; (end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut bytes)?;
        if let Some(place) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + place as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
