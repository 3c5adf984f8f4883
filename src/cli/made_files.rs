//! Writes made files into a folder.

use super::exit::{CommandError, Exit, OrExit};
use crate::dashboards::MadeFile;
use anyhow::Context;
use std::fs;
use std::path::Path;

/// Writes `files` below `folder`, over earlier ones.
///
/// # Errors
/// If one cannot be written.
pub(super) fn write(folder: &Path, files: &[MadeFile]) -> Result<(), CommandError> {
    for MadeFile { path, text } in files {
        let path = folder.join(path);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        written.with_context(|| path.display().to_string()).or_exit(Exit::Failed)?;
    }
    Ok(())
}
