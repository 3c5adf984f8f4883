//! Critique groups on disk: what a run scored, kept beside its checkpoints, and in files of their own.
//!
//! A run appends one line of JSON a group; a file is such lines again, or safetensors with flat arrays. Each group names
//! the model whose ids it holds. Floats come back as they were, to the last bit. Knows no actor, no model and no learner.
//!
//! Invariant: only the last line of a file can be torn, and whoever reads skips it and says so.

mod flat;
mod lines;
mod recorder;

pub use recorder::Recorder;

use crate::types::{CritiqueGroup, EpisodeId};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// A run's groups, within its directory.
pub const FILE: &str = "groups.jsonl";
/// Those before them, where there were too many for one file.
pub const EARLIER_FILE: &str = "groups.1.jsonl";

/// The model whose ids and log-probs a group holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// Its source, for people.
    pub name: String,
    /// Its digest, for programs.
    pub sha256: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (sha256 {})", self.name, self.sha256)
    }
}

/// One line of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Whose ids they are.
    pub model: Origin,
    /// The group.
    pub group: CritiqueGroup,
}

/// What a file or a run holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Groups {
    /// In the order of recording.
    pub groups: Vec<Recorded>,
    /// Lines that were cut off in the middle, one for each file at most.
    pub torn: usize,
    /// Groups that a later one of the same episode replaces: a run that went back writes such.
    pub replaced: usize,
}

/// Why groups could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is something of that name.
    #[error("{0} is there already: expected a name that is free")]
    Taken(PathBuf),
    /// A line is not a group.
    #[error("{path}, line {line}: {why}")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// The file does not hang together.
    #[error("{path}: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The name says nothing of the format.
    #[error("{0}: expected a name that ends with .jsonl or .safetensors")]
    Format(PathBuf),
    /// The directory is no run's, or its groups were not kept.
    #[error("{0} holds no {FILE}: expected the directory of a run that keeps its groups")]
    NoRun(PathBuf),
    /// One file, two models.
    #[error("{path}: expected groups of one model, got some of {one} and some of {other}")]
    TwoModels {
        /// The file.
        path: PathBuf,
        /// The first group's.
        one: Origin,
        /// Another one's.
        other: Origin,
    },
}

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An I/O error that names its file.
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<'_> {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Formats of a file, by its ending.
enum Format {
    Lines,
    Flat,
}

fn format(path: &Path) -> Result<Format> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("jsonl") => Ok(Format::Lines),
        Some("safetensors") => Ok(Format::Flat),
        _ => Err(Error::Format(path.to_owned())),
    }
}

/// Reads a run's directory, a `.jsonl` file or a `.safetensors` file. Of a run, an episode's last group counts.
///
/// # Errors
/// Where a file cannot be read, a line other than the last is not a group, or a file does not hang together.
pub fn read(path: &Path) -> Result<Groups> {
    if !path.is_dir() {
        return match format(path)? {
            Format::Lines => lines::read(path),
            Format::Flat => flat::read(path),
        };
    }
    let [earlier, file] = [EARLIER_FILE, FILE].map(|name| path.join(name));
    let mut all = Groups::default();
    for file in [earlier, file].iter().filter(|file| file.exists()) {
        let part = lines::read(file)?;
        all.groups.extend(part.groups);
        all.torn += part.torn;
    }
    if all.groups.is_empty() && !path.join(FILE).exists() {
        return Err(Error::NoRun(path.to_owned()));
    }
    let last: HashMap<EpisodeId, usize> =
        all.groups.iter().enumerate().map(|(index, recorded)| (recorded.group.episode, index)).collect();
    let before = all.groups.len();
    let mut index = 0;
    all.groups.retain(|recorded| {
        index += 1;
        last[&recorded.group.episode] == index - 1
    });
    all.replaced = before - all.groups.len();
    Ok(all)
}

/// Writes `groups` as the new file `path`, in the format of its ending; aside first, so that it is there whole or not at
/// all.
///
/// # Errors
/// Where `path` is taken or ends otherwise, groups of two models are to be flat arrays, or the disk fails.
pub fn write(path: &Path, groups: &[Recorded]) -> Result<()> {
    let bytes = match format(path)? {
        Format::Lines => lines::render(groups),
        Format::Flat => flat::render(path, groups)?,
    };
    if std::fs::symlink_metadata(path).is_ok() {
        return Err(Error::Taken(path.to_owned()));
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".writing-{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let written = std::fs::write(&aside, bytes)
        .and_then(|()| std::fs::File::open(&aside)?.sync_all())
        .map_err(Error::io(&aside))
        .and_then(|()| std::fs::rename(&aside, path).map_err(Error::io(path)));
    if written.is_err() {
        // Best effort: the error that led here is the one to tell.
        let _ = std::fs::remove_file(&aside);
    }
    written
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
