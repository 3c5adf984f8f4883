//! Texts of others for a terminal: whatever it would obey becomes a visible escape.

/// `text` with visible escapes for whatever a terminal would obey. Line ends stay.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push(c),
            c if c.is_control() || is_format(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// The line of JSON `line` with `\\u` escapes for whatever a terminal would obey: such characters stand in its strings alone, so it says
/// the same.
pub(crate) fn json(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    for c in line.chars() {
        if c.is_control() || is_format(c) {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| shown += &format!("\\u{unit:04x}"));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Marks that are not seen but change how the text around them is: its direction, or which characters it seems to have.
fn is_format(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_steer_a_terminal_or_turn_its_line_around() {
        assert_eq!(visible("a\u{1b}[2Jb\r\u{9b}1m\tc"), "a\\u{1b}[2Jb\\u{d}\\u{9b}1m\\u{9}c");
        assert_eq!(visible("x\u{202e}y\u{2066}z\u{200b}"), "x\\u{202e}y\\u{2066}z\\u{200b}");
        let line = serde_json::to_string("a\u{1b}\u{9b}1m\u{202e}\u{e0041}é").unwrap_or_default();
        assert_eq!(json(&line), r#""a\u001b\u009b1m\u202e\udb40\udc41é""#);
        assert_eq!(visible("two\nlines, é 日 🎉"), "two\nlines, é 日 🎉");
    }
}
