//! Files with one group a line, as JSON.

use super::error::{Error, Result};
use super::record::{Groups, RecordedGroup, complaint};
use crate::disk::json_lines;
use std::path::Path;

/// The content of a file of `groups`.
pub(super) fn render(groups: &[RecordedGroup]) -> Vec<u8> {
    groups.iter().map(json_lines::to_line).collect::<String>().into_bytes()
}

/// Reads the file `path`; a torn last line is skipped and counted.
pub(super) fn read(path: &Path) -> Result<Groups> {
    let check = |recorded: &RecordedGroup| complaint(&recorded.group).map_or(Ok(()), Err);
    let lines = json_lines::read_checked(path, check).map_err(|error| match error {
        json_lines::Error::Io(source) => Error::Io { path: path.to_owned(), source },
        json_lines::Error::Line { line, why } => Error::Line { path: path.to_owned(), line, why },
    })?;
    Ok(Groups { groups: lines.values, torn: usize::from(lines.is_torn), ..Groups::default() })
}
