//! Python read as far as it takes to tell code from prose, and whole code from code that was cut.
//!
//! Knows strings, comments and brackets; no statement's meaning.

/// Words that may stand beside a name in code; `match`, `case` and `type` are such words at the start of a statement.
const KEYWORDS: [&str; 38] = [
    "and", "as", "assert", "async", "await", "break", "case", "class", "continue", "def", "del", "elif", "else",
    "except", "False", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "match", "None",
    "nonlocal", "not", "or", "pass", "raise", "return", "True", "try", "type", "while", "with", "yield",
];

/// Whether `line`, which begins outside of strings, has two names beside each other, as no code has.
pub(super) fn is_prose(line: &str) -> bool {
    let is_name = |word: &&str| !word.starts_with(|c: char| c.is_numeric()) && !KEYWORDS.contains(word);
    let (code, _) = blanked(line);
    code.split(|c: char| !c.is_alphanumeric() && c != '_' && !c.is_whitespace())
        .any(|part| part.split_whitespace().collect::<Vec<_>>().windows(2).any(|pair| pair.iter().all(is_name)))
}

/// `code` without its last statement, if that was cut off and begins behind `first`.
pub(super) fn without_cut_end(code: &str, first: usize) -> &str {
    let (blanked, is_open) = blanked(code);
    let (statements, depth) = statements(&blanked);
    let is_cut = is_open || depth > 0 || blanked.trim_end().ends_with([':', '=', ',', '+', '-', '*', '/', '.', '\\']);
    match statements.last() {
        Some(&last) if is_cut && last > first => &code[..last],
        _ => code,
    }
}

/// Where the statements at the top level of blanked code begin, with their decorators, and how many brackets are open at its end.
fn statements(blanked: &str) -> (Vec<usize>, usize) {
    let (mut found, mut depth, mut at) = (Vec::new(), 0usize, 0);
    for line in blanked.split_inclusive('\n') {
        let goes_on = ["else", "elif", "except", "finally", ")", "]", "}"].iter().any(|word| line.starts_with(word));
        let decorated =
            found.last().is_some_and(|last| blanked[*last..at].lines().all(|line| line.starts_with(['@', ' '])));
        if depth == 0 && !goes_on && !decorated && !line.starts_with(char::is_whitespace) {
            found.push(at);
        }
        depth += line.matches(['(', '[', '{']).count();
        depth = depth.saturating_sub(line.matches([')', ']', '}']).count());
        at += line.len();
    }
    (found, depth)
}

/// `code` with its strings made of quotes and its comments of spaces, byte by byte, and whether a string is open at the end. What a
/// string has on further lines is made of spaces, so that these begin no statement.
fn blanked(code: &str) -> (String, bool) {
    let (mut written, mut rest, mut is_open) = (String::with_capacity(code.len()), code, false);
    while let Some(at) = rest.find(['"', '\'', '#']) {
        written += &rest[..at];
        rest = &rest[at..];
        let length = if rest.starts_with('#') { rest.find('\n').unwrap_or(rest.len()) } else { string(rest) };
        is_open = !rest.starts_with('#') && length > rest.len();
        let (value, behind) = rest.split_at(length.min(rest.len()));
        let mut blank = if value.starts_with('#') { ' ' } else { '"' };
        for byte in value.bytes() {
            written.push(if byte == b'\n' { '\n' } else { blank });
            blank = if byte == b'\n' { ' ' } else { blank };
        }
        rest = behind;
    }
    written += rest;
    (written, is_open)
}

/// The length of the string that `text` begins with; more than that of `text` if it does not end there. A string in single quotes
/// ends with its line.
fn string(text: &str) -> usize {
    let triple = ["\"\"\"", "'''"].into_iter().find(|quotes| text.starts_with(quotes));
    let quotes = triple.unwrap_or(&text[..1]);
    let mut at = quotes.len();
    while let Some(c) = text[at..].chars().next() {
        if text[at..].starts_with(quotes) {
            return at + quotes.len();
        }
        if c == '\n' && triple.is_none() {
            return at;
        }
        at += c.len_utf8();
        if c == '\\' {
            at += text[at..].chars().next().map_or(0, char::len_utf8);
        }
    }
    text.len() + 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_names_beside_each_other_are_prose() {
        for line in [
            "Note (important): it was not tested.",
            "x = 2 gives the second value.",
            "if the input is empty, the result is too.",
            "return values are never None.",
            "import of other modules is not needed here.",
            "\"Done\" is what I call that.",
        ] {
            assert!(is_prose(line), "{line}");
        }
        for line in [
            "def f(a, *, b: int = 2) -> list[int]:  # what it does",
            "x = 'one two' if a is not b else f'{a} and {b}' r'more of it'",
            "async def f(): return await g(lambda x: not x)",
            "from a import b as c, d as e",
            "return [x for x in y if x in (1, 2) or x is None]",
            "case Point(x=0) if y: raise E from e",
            "print(\"it's here\", end='')",
            "x = 1if y else 0x1F",
            "",
        ] {
            assert!(!is_prose(line), "{line}");
        }
    }

    #[test]
    fn a_last_statement_that_was_cut_is_left_out() {
        let whole = "@same\ndef f(x):\n    return '('\n\nTEXT = \"\"\"\ndef no(\n\"\"\"\n";
        for cut in ["def g():\n    return (", "print('", "assert f(1) ==", "if f(1):", "@same\ndef g(x", "x = '''\nf"] {
            assert_eq!(without_cut_end(&format!("{whole}{cut}"), 6), whole, "{cut}");
        }
        for code in [whole, "@same\ndef f(x):\n    return (", "def f(x):\n    return x\nelse:"] {
            assert_eq!(without_cut_end(code, 6), code);
        }
    }

    proptest! {
        #[test]
        fn any_code_is_as_long_when_it_is_blanked(code in "(\"\"\"|'''|[\"'#\\\\\n a(é\\[]|\\PC){0,40}") {
            let (blanked, _) = blanked(&code);
            prop_assert_eq!(blanked.len(), code.len());
            prop_assert_eq!(blanked.lines().count(), code.lines().count());
            let (starts, _) = statements(&blanked);
            prop_assert!(starts.iter().all(|start| code.is_char_boundary(*start)));
            let _ = (is_prose(&code), without_cut_end(&code, 0));
        }
    }
}
