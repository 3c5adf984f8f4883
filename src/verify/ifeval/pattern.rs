//! Constant patterns and letter case, for the instruction checks and the word count.

use regex::Regex;

/// A constant pattern.
pub(super) fn fixed(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern: a test compiles each")
}

/// Whether the text has an upper-case letter and no lower-case one.
pub(super) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)
}
