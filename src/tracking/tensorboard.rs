//! TensorBoard's event files of a run.
//!
//! Several runs may share a folder: the names of a run's files end with a digest of its directory.
//!
//! A process writes one file: first the figures that the run has already, then each line as it comes. The files of earlier
//! processes are removed. What is thinned out of the file of figures meanwhile stays in this one until the next process.
//! TensorBoard drops what it had of a file that is replaced, because each file begins with a restart at step 0.

use super::event;
use super::line::Line;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

/// What the names of all event files begin with.
const PREFIX: &str = "events.out.tfevents.";
/// What the names of a run's event files end with: those of other programs and other runs stay.
fn suffix(run: &Path) -> String {
    let run = run.canonicalize().unwrap_or_else(|_| run.to_owned());
    let digest = Sha256::digest(run.as_os_str().as_encoded_bytes());
    format!(".rco-node-{}", const_hex::encode(&digest[..4]))
}

/// An event file that is being written.
pub(super) struct EventFile {
    file: File,
    /// The length of its whole records.
    bytes: u64,
}

impl EventFile {
    /// Creates the file of this process in `folder`, which is created if it is missing, with `lines` of the run in the directory
    /// `run`.
    pub(super) fn create(folder: &Path, run: &Path, lines: impl Iterator<Item = Line>) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let suffix = suffix(run);
        let earlier = ours(folder, &suffix)?;
        // A reader goes from file to file in the order of names.
        let last = earlier.iter().filter_map(|name| number(name, &suffix)).max();
        let Line { time, .. } = Line::now(0);
        let next = last.map_or(0, |last| last + 1).max(time as u64);
        let mut file = File::create_new(folder.join(format!("{PREFIX}{next:010}{suffix}")))?;
        file.write_all(&[event::version(time), event::restart(time, 0)].concat())?;
        let mut buffered = io::BufWriter::new(&file);
        for line in lines {
            buffered.write_all(&event::scalars(&line))?;
        }
        buffered.flush()?;
        drop(buffered);
        for name in earlier {
            fs::remove_file(folder.join(name))?;
        }
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }

    /// Appends the figures of `line`.
    pub(super) fn append(&mut self, line: &Line) -> io::Result<()> {
        self.write(&event::scalars(line))
    }

    /// From here on, what was written of steps after `step` no longer counts.
    pub(super) fn cut(&mut self, step: u64) -> io::Result<()> {
        self.write(&event::restart(Line::now(0).time, step + 1))
    }

    /// Appends whole records, or none: readers stop at a torn one.
    fn write(&mut self, records: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(records);
        match &written {
            Ok(()) => self.bytes += records.len() as u64,
            Err(_) => {
                self.file.set_len(self.bytes)?;
                self.file.seek(SeekFrom::Start(self.bytes))?;
            }
        }
        written
    }
}

/// The names of a run's event files in `folder`.
fn ours(folder: &Path, suffix: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        if let Ok(name) = entry?.file_name().into_string()
            && number(&name, suffix).is_some()
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// The number in the name of one of a run's event files.
fn number(name: &str, suffix: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.strip_suffix(suffix)?.parse().ok()
}
