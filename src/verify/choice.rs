//! Multiple choice: which option a text chooses, by its letter or its words.
//!
//! In this order, the last match of a kind: a boxed letter; "the answer is B"; a text that begins with a letter ("B) ...");
//! letters in brackets, if all are the same; the one option whose words occur; a single letter, if all are the same. `A` and
//! `I` count as letters only where they cannot be words. A text that does not choose is wrong.

use super::text::normalised;
use regex::Regex;
use std::sync::LazyLock;

/// The letter of the option at `index`; 0 is A.
pub(super) fn letter(index: usize) -> char {
    char::from(b'A' + index.min(25) as u8)
}

/// The option that `answer` names, by its letter or its words.
pub(super) fn named(answer: &str, options: &[String]) -> Option<usize> {
    if !(2..=26).contains(&options.len()) {
        return None;
    }
    let bare = answer.trim().trim_matches(['(', ')', '.']);
    (0..options.len())
        .find(|&index| bare.eq_ignore_ascii_case(&letter(index).to_string()))
        .or_else(|| options.iter().position(|option| normalised(option) == normalised(answer)))
}

/// The option that `text` chooses.
pub(super) fn chosen(text: &str, options: &[String]) -> Option<usize> {
    static BOXED: LazyLock<Regex> = LazyLock::new(|| pattern(r"\\boxed\{\s*(?:\\text\{)?\s*\(?([A-Za-z])\b"));
    static NAMED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?:(?i:answer|choice|option|choose|pick)(?i:\s+(?:is|would be|should be))?)\s*:?\s*[*(\s]*([A-Z])\b([^\n]{0,2})",
        )
    });
    static FIRST: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[\s*(]*([A-Za-z])(?:[).:,*\n]|\s*$)"));
    static BRACKETED: LazyLock<Regex> = LazyLock::new(|| pattern(r"\(([A-Za-z])\)"));
    static ALONE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b([B-HJ-Z])\b"));
    let within = |name: &str| {
        let name = name.chars().next()?.to_ascii_uppercase();
        (0..options.len()).find(|&index| letter(index) == name)
    };
    let last = |pattern: &Regex| pattern.captures_iter(text).filter_map(|found| within(&found[1])).last();
    let only = |pattern: &Regex| {
        let mut found: Vec<usize> = pattern.captures_iter(text).filter_map(|found| within(&found[1])).collect();
        found.dedup();
        found.first().copied().filter(|_| found.len() == 1)
    };
    // "(A) or (B)" begins with a letter but does not choose.
    let first = || last(&FIRST).filter(|_| only(&BRACKETED).is_some() || !BRACKETED.is_match(text));
    let says = || {
        // "The answer is A dog" names no letter.
        let is_letter = |found: &regex::Captures<'_>| {
            let behind = found[2].as_bytes();
            let word = behind.len() == 2 && behind[0] == b' ' && behind[1].is_ascii_alphabetic();
            !(word && "AI".contains(&found[1]))
        };
        NAMED.captures_iter(text).filter(is_letter).filter_map(|found| within(&found[1])).last()
    };
    last(&BOXED)
        .or_else(says)
        .or_else(first)
        .or_else(|| only(&BRACKETED))
        .or_else(|| by_words(text, options))
        .or_else(|| only(&ALONE).filter(|_| !BRACKETED.is_match(text)))
}

fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant of this file: a test compiles each")
}

/// The one option whose words occur in the text; if one option contains another, the longer one.
fn by_words(text: &str, options: &[String]) -> Option<usize> {
    let text = format!(" {} ", normalised(text));
    let options: Vec<String> = options.iter().map(|option| format!(" {} ", normalised(option))).collect();
    let occurs = |option: &&String| !option.trim().is_empty() && text.contains(option.as_str());
    let longest = options.iter().filter(occurs).max_by_key(|option| option.len())?;
    let apart = |option: &&String| !longest.contains(option.as_str()) || *option == longest;
    let rivals = options.iter().filter(occurs).filter(apart).count();
    if rivals == 1 { options.iter().position(|option| option == longest) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Vec<String> {
        ["a red apple", "blue", "dark blue", "it depends"].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_choice_is_read_by_letter_or_words() {
        for (text, index) in [
            ("B", 1),
            ("b", 1),
            ("(B)", 1),
            ("B.", 1),
            ("**B**", 1),
            ("B) blue", 1),
            ("The answer is B", 1),
            ("The answer is (C).", 2),
            ("The correct answer is: **D**", 3),
            ("Answer: A", 0),
            ("Answer: A, because it is red", 0),
            ("A or B? It is not (A) by far, so the answer is B.", 1),
            (r"so \boxed{C}", 2),
            (r"\boxed{\text{D}}", 3),
            ("I would go with the red apple.", 0),
            ("It is dark blue.", 2),
            ("blue", 1),
            ("Well, it depends!", 3),
            ("It must be (D).", 3),
            ("I believe C fits best", 2),
        ] {
            assert_eq!(chosen(text, &options()), Some(index), "{text:?}");
        }
    }

    #[test]
    fn a_text_that_does_not_choose_chooses_nothing() {
        for text in ["", "I do not know.", "A dog", "E", "(A) or (B)", "a red apple or blue", "B or C"] {
            assert_eq!(chosen(text, &options()), None, "{text:?}");
        }
    }

    #[test]
    fn an_answer_is_a_letter_or_an_options_words() {
        assert_eq!(named("c", &options()), Some(2));
        assert_eq!(named("(A)", &options()), Some(0));
        assert_eq!(named("Dark blue", &options()), Some(2));
        assert_eq!(named("E", &options()), None);
    }
}
