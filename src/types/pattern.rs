//! Regular expressions that are constants of the code.

use regex::Regex;

/// The constant `pattern`, compiled.
///
/// # Panics
/// If it does not compile, which every test that reaches it shows.
pub(crate) fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern: a test compiles each")
}
