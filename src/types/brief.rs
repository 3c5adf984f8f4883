//! Texts of others in errors: one short line, whatever they hold.

use std::borrow::Cow;

/// Characters of a text in an error. What a file holds may be megabytes long.
const CHARS_MAX: usize = 600;

/// `text` on one line and not too long: its end is cut off, and control characters are escaped.
pub(crate) fn brief(text: &str) -> Cow<'_, str> {
    let end = text.char_indices().nth(CHARS_MAX).map(|(at, _)| at);
    if end.is_none() && !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut short = String::new();
    for c in text[..end.unwrap_or(text.len())].chars() {
        match c.is_control() {
            true => short.extend(c.escape_default()),
            false => short.push(c),
        }
    }
    short.push_str(if end.is_some() { "..." } else { "" });
    Cow::Owned(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_stays_one_short_line() {
        let line = brief(&("a\nb\u{1b}[2J".to_owned() + &"\u{e9}".repeat(1 << 20))).into_owned();
        assert!(line.starts_with(r"a\nb\u{1b}[2J") && line.ends_with("..."), "{line}");
        assert!(line.chars().count() < CHARS_MAX + 50 && !line.contains(char::is_control), "{line}");
        assert_eq!(brief("as it is"), "as it is");
    }
}
