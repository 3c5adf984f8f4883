//! Parsers of command-line values.

/// A number of at least 1.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err(format!("expected a number of at least 1, got {text:?}")),
    }
}
