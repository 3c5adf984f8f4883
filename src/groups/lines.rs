//! Files with one group a line, as JSON.

use super::error::{Error, Result};
use super::record::{Groups, RecordedGroup, complaint};
use crate::disk::json_lines;
use crate::types::EpisodeId;
use serde::Deserialize;
use std::path::Path;

/// The content of a file of `groups`.
pub(super) fn render(groups: &[RecordedGroup]) -> Vec<u8> {
    groups.iter().map(json_lines::to_line).collect::<String>().into_bytes()
}

/// Reads the file `path`; a torn last line is skipped and counted.
pub(super) fn read(path: &Path) -> Result<Groups> {
    let check = |recorded: &RecordedGroup| complaint(&recorded.group).map_or(Ok(()), Err);
    let lines = json_lines::read_checked(path, check).map_err(|error| named(path, error))?;
    Ok(Groups { groups: lines.values, torn: usize::from(lines.is_torn), ..Groups::default() })
}

/// The episodes of the groups in the file `path`, without their texts; a torn last line is skipped.
pub(super) fn episodes(path: &Path) -> Result<impl Iterator<Item = EpisodeId>> {
    /// What is read of a [`RecordedGroup`].
    #[derive(Deserialize)]
    struct Line {
        group: Group,
    }
    #[derive(Deserialize)]
    struct Group {
        episode: EpisodeId,
    }
    let lines = json_lines::read::<Line>(path).map_err(|error| named(path, error))?;
    Ok(lines.values.into_iter().map(|line| line.group.episode))
}

fn named(path: &Path, error: json_lines::Error) -> Error {
    match error {
        json_lines::Error::Io(source) => Error::Io { path: path.to_owned(), source },
        json_lines::Error::Line { line, why } => Error::Line { path: path.to_owned(), line, why },
    }
}
