//! What a command prints: results on standard output, notes on standard error.

use crate::groups::Groups;
use std::io::Write;

/// Prints a line of the command's result.
pub(crate) fn print_line(line: &str) {
    // If the reader closed the pipe, it has read what it wanted.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a note to the user, beside the result.
#[allow(clippy::print_stderr)]
pub(crate) fn print_note(line: &str) {
    eprintln!("{line}");
}

/// Notes which recorded groups are not used.
pub(crate) fn note_skipped(groups: &Groups) {
    if groups.torn > 0 {
        print_note(&format!("skipped {} torn lines at the end", groups.torn));
    }
    if groups.replaced > 0 {
        print_note(&format!("skipped {} groups whose episodes were run again later", groups.replaced));
    }
}
