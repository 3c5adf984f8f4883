//! Rows as JSON lines.

use super::row::Row;
use crate::disk::json_lines::to_line;

/// The content of a file of `rows`.
pub(super) fn render(rows: &[Row]) -> Vec<u8> {
    rows.iter().map(to_line).collect::<String>().into_bytes()
}
