//! Answers in words: equal exactly, or equal apart from case, articles, punctuation and white space.
//!
//! The second is SQuAD's normalisation (Rajpurkar et al., arXiv 1606.05250). If a text names its answer ("the answer is
//! ..."), that part is compared too.

use regex::Regex;
use std::sync::LazyLock;

/// Whether `text` equals one of `accepted`, apart from surrounding white space.
pub(super) fn matches_exactly<'a>(text: &str, mut accepted: impl Iterator<Item = &'a str>) -> bool {
    accepted.any(|answer| answer.trim() == text.trim())
}

/// Whether `text`, or the answer that it names, equals one of `accepted` after normalisation.
pub(super) fn matches_normalised<'a>(text: &str, mut accepted: impl Iterator<Item = &'a str>) -> bool {
    let given = [Some(normalised(text)), named(text).map(normalised)];
    accepted.any(|answer| given.iter().flatten().any(|given| *given == normalised(answer)))
}

/// The text after the last "answer is" or "answer:", to the end of the line.
fn named(text: &str) -> Option<&str> {
    static NAMED: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)\banswer(?:\s+is\b|\s*:)[\s*]*:?\s*([^\n]+)").expect("a constant: a test compiles it")
    });
    NAMED.captures_iter(text).last().and_then(|found| found.get(1)).map(|place| place.as_str())
}

/// Lower case, without punctuation and articles, with single spaces.
pub(super) fn normalised(text: &str) -> String {
    let kept: String =
        text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation() && !"‘’“”«»…".contains(*c)).collect();
    kept.split_whitespace().filter(|word| !["a", "an", "the"].contains(word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_articles_punctuation_and_blanks_do_not_matter() {
        for text in [
            "Paris",
            " the  paris.",
            "\u{201c}PARIS\u{201d}",
            "I think so. The answer is: **Paris**.",
            "Answer: Paris\nWhy: it is.",
        ] {
            assert!(matches_normalised(text, ["Paris"].into_iter()), "{text:?}");
        }
        for text in ["", "London", "Paris or London", "the answer", "answer is Rome, not Paris"] {
            assert!(!matches_normalised(text, ["Paris"].into_iter()), "{text:?}");
        }
        assert!(matches_normalised("NYC", ["New York", "nyc"].into_iter()));
    }

    #[test]
    fn to_the_letter_is_to_the_letter() {
        assert!(matches_exactly(" olleh\n", ["olleh"].into_iter()));
        assert!(!matches_exactly("Olleh", ["olleh"].into_iter()));
        assert!(!matches_exactly("olleh.", ["olleh"].into_iter()));
    }
}
