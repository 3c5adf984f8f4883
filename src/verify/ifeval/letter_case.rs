//! Letter case, for the instruction checks and the word count.

/// Whether the text has an upper-case letter and no lower-case one.
pub(super) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)
}
