//! One JSON object a line.

use super::{Error, Groups, Recorded, Result};
use std::path::Path;

/// A group as its line, the line end included.
pub(super) fn line(recorded: &Recorded) -> String {
    let mut line = serde_json::to_string(recorded).expect("strings and numbers are always JSON");
    line.push('\n');
    line
}

/// All of them.
pub(super) fn render(groups: &[Recorded]) -> Vec<u8> {
    groups.iter().map(line).collect::<String>().into_bytes()
}

/// Reads the file `path`; a last line without its end is skipped and counted.
pub(super) fn read(path: &Path) -> Result<Groups> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let mut groups = Groups::default();
    for (index, line) in bytes[..whole].split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let recorded = serde_json::from_slice(line).map_err(|error| Error::Line {
            path: path.to_owned(),
            line: index + 1,
            why: error.to_string(),
        })?;
        groups.groups.push(recorded);
    }
    if let rest @ [_, ..] = &bytes[whole..] {
        // A file that a person edited may lack its last line end and be whole.
        match serde_json::from_slice(rest) {
            Ok(recorded) => groups.groups.push(recorded),
            Err(_) => groups.torn = 1,
        }
    }
    Ok(groups)
}
