//! Critique groups on disk: the groups that a run scored, kept beside its checkpoints, and files of groups.
//!
//! A run appends one line of JSON for each group; a file holds such lines, or flat arrays in safetensors. Each group names
//! the model of its token ids. Floats are read back to the last bit. Knows no actor, no model and no learner.
//!
//! Invariant: only the last line of a file can be torn, and a reader skips it and reports it.

mod error;
mod flat;
mod lines;
mod record;
mod recorder;
mod texts;
pub mod trl;

pub use error::{Error, Result};
pub use record::{EARLIER_FILE, FILE, Groups, RecordedGroup};
pub use recorder::GroupRecorder;
pub use texts::PromptTexts;

use crate::disk;
use crate::types::EpisodeId;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// The format of a file, by its extension.
enum Format {
    Lines,
    FlatArrays,
}

fn format(path: &Path) -> Result<Format> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("jsonl") => Ok(Format::Lines),
        Some("safetensors") => Ok(Format::FlatArrays),
        _ => Err(Error::Format(path.to_owned())),
    }
}

/// Reads a run's directory, a `.jsonl` file or a `.safetensors` file. In a run's directory only the last group of each
/// episode counts.
///
/// # Errors
/// If a file cannot be read, a line other than the last is not a group, or a file is malformed.
pub fn read(path: &Path) -> Result<Groups> {
    if !path.is_dir() {
        return match format(path)? {
            Format::Lines => lines::read(path),
            Format::FlatArrays => flat::read(path),
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

/// Whether the run in the directory `run` has recorded groups.
///
/// # Errors
/// If the system does not say.
pub fn is_recorded(run: &Path) -> Result<bool> {
    let path = run.join(FILE);
    match std::fs::metadata(&path) {
        Ok(metadata) => Ok(metadata.len() > 0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(&path)(error)),
    }
}

/// The episodes of the groups that the run in the directory `run` has recorded. Reads no more of a group than that.
///
/// # Errors
/// As [`read`].
pub fn recorded_episodes(run: &Path) -> Result<BTreeSet<EpisodeId>> {
    let mut episodes = BTreeSet::new();
    for file in [EARLIER_FILE, FILE].map(|name| run.join(name)).iter().filter(|file| file.exists()) {
        episodes.extend(lines::episodes(file)?);
    }
    Ok(episodes)
}

/// Writes `groups` as the new file `path`, in the format of its extension. The file exists whole or not at all.
///
/// # Errors
/// If `path` exists or has another extension, groups of two models are to be written as flat arrays, or the disk fails.
pub fn write(path: &Path, groups: &[RecordedGroup]) -> Result<()> {
    let bytes = match format(path)? {
        Format::Lines => lines::render(groups),
        Format::FlatArrays => flat::render(path, groups)?,
    };
    disk::create(path, &bytes).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Taken(path.to_owned()),
        _ => Error::io(path)(error),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
