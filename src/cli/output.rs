//! What a command prints: results on standard output, notes on standard error.

use crate::groups::Groups;
use std::io::{self, Write};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

/// How long the end of the process waits for the reader of its log.
pub(crate) const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// Why standard output could not be written, once it could not.
static FAILURE: OnceLock<String> = OnceLock::new();

/// Prints a line of the command's result. A failure is kept for [`failure`], unless the reader closed the pipe: then it has
/// read what it wanted.
pub(crate) fn print_line(line: &str) {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => drop(FAILURE.set(error.to_string())),
        _ => {}
    }
}

/// A whole number with a comma before each three digits.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Why a part of the result was not written; none if all of it was.
pub(crate) fn failure() -> Option<&'static str> {
    FAILURE.get().map(String::as_str)
}

/// Prints a note to the user, beside the result.
pub(crate) fn print_note(line: &str) {
    // Nobody is there to be told that nobody is there.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints `notes` at the end of the process; a reader that does not read holds it up for no longer than [`LOG_PATIENCE`].
pub(crate) fn print_notes(notes: Vec<String>) {
    let (printed, done) = mpsc::channel();
    std::thread::spawn(move || {
        notes.iter().for_each(|note| print_note(note));
        // Whoever waited may have gone.
        let _ = printed.send(());
    });
    let _ = done.recv_timeout(LOG_PATIENCE);
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
