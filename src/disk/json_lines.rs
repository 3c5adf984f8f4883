//! Files of JSON lines: one value a line, appended as they come.
//!
//! Invariants: each line goes to the system in one write, so that only the last line of a file can be torn; a reader skips
//! a torn line and reports it, a writer cuts it off before it appends.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

/// The longest line. A group of sixteen critiques in a context of 128k tokens is a tenth of this.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 20;
/// The longest file.
const FILE_BYTES_MAX: u64 = 8 << 30;
/// Bytes read at a time when the last line end is searched from the end of a file.
const SEARCH_BYTES: u64 = 1 << 16;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line is not a value; lines count from 1.
    #[error("line {line}: {why}")]
    Line { line: usize, why: String },
}

/// The values of a file.
#[derive(Debug)]
pub(crate) struct Lines<T> {
    /// In the order of the file.
    pub(crate) values: Vec<T>,
    /// Whether a torn last line was skipped.
    pub(crate) is_torn: bool,
}

/// `value` as a line, the line end included.
pub(crate) fn to_line<T: Serialize>(value: &T) -> String {
    let mut line = serde_json::to_string(value).expect("strings and finite numbers are always JSON");
    line.push('\n');
    line
}

/// Reads the file `path`, a line at a time. A last line without a line end counts if it is a whole value, as in a file edited
/// by hand.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Lines<T>, Error> {
    read_checked(path, |_| Ok(()))
}

/// As [`read`]; `check` returns what is wrong with a value.
pub(crate) fn read_checked<T: DeserializeOwned>(
    path: &Path,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<Lines<T>, Error> {
    let (mut values, mut is_torn) = (Vec::new(), false);
    each(super::open(path)?, |line| {
        let wrong = |why: String| Error::Line { line: line.number, why };
        match serde_json::from_slice(line.bytes) {
            Ok(value) => {
                check(&value).map_err(wrong)?;
                values.push(value);
            }
            Err(_) if !line.is_ended() => is_torn = true,
            Err(error) => return Err(wrong(error.to_string())),
        }
        Ok(())
    })?;
    Ok(Lines { values, is_torn })
}

/// A line of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line<'a> {
    /// From 1.
    pub(crate) number: usize,
    /// Where it begins, in bytes.
    pub(crate) offset: u64,
    /// Its bytes, the line end included.
    pub(crate) bytes: &'a [u8],
}

impl Line<'_> {
    /// Whether it has its line end. Only the last line of a file can lack it: it may be torn.
    pub(crate) fn is_ended(&self) -> bool {
        self.bytes.last() == Some(&b'\n')
    }
}

/// Gives each line of `file` that is not blank to `take`, in order.
pub(crate) fn each(file: File, mut take: impl FnMut(Line<'_>) -> Result<(), Error>) -> Result<(), Error> {
    let length = file.metadata()?.len();
    if length > FILE_BYTES_MAX {
        let why = format!("expected at most {FILE_BYTES_MAX} bytes, got {length}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why).into());
    }
    let mut reader = BufReader::new(file.take(length));
    let (mut bytes, mut offset) = (Vec::new(), 0);
    for number in 1.. {
        bytes.clear();
        (&mut reader).take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut bytes)?;
        if bytes.len() > LINE_BYTES_MAX {
            let why = format!("expected at most {LINE_BYTES_MAX} bytes, got more");
            return Err(Error::Line { line: number, why });
        }
        if bytes.is_empty() {
            break;
        }
        if !bytes.trim_ascii().is_empty() {
            take(Line { number, offset, bytes: &bytes })?;
        }
        offset += bytes.len() as u64;
    }
    Ok(())
}

/// A file that lines are appended to.
#[derive(Debug)]
pub(crate) struct Appender {
    file: Arc<File>,
    bytes: u64,
}

impl Appender {
    /// Opens or creates the file `path`, and cuts off the torn line that a killed process may have left.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let length = file.metadata()?.len();
        let bytes = whole_lines(&mut file, length)?;
        if bytes < length {
            tracing::warn!(path = %path.display(), bytes = length - bytes, "cut off a torn last line");
            file.set_len(bytes)?;
        }
        file.seek(SeekFrom::Start(bytes))?;
        Ok(Self { file: Arc::new(file), bytes })
    }

    /// The file, open for reading too.
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Length of the file in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends `line`, which ends with a line end. If that fails, the file is as it was.
    pub(crate) fn append(&mut self, line: &str) -> io::Result<()> {
        let mut file = &*self.file;
        if let Err(error) = file.write_all(line.as_bytes()) {
            // If taking back a part of the line fails too, the next opening cuts it off.
            let _ = file.set_len(self.bytes).and_then(|()| file.seek(SeekFrom::Start(self.bytes)));
            return Err(error);
        }
        self.bytes += line.len() as u64;
        Ok(())
    }
}

/// Bytes of the whole lines of `file`, which is `length` bytes long.
fn whole_lines(file: &mut File, length: u64) -> io::Result<u64> {
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(SEARCH_BYTES);
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
