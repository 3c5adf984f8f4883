//! Answers in words: equal exactly, or equal apart from case, articles, punctuation and white space.
//!
//! The second is SQuAD's normalisation (Rajpurkar et al., arXiv 1606.05250), but for signs that tell numbers apart. If a text marks its answer ("the answer is
//! ..."), that part is compared too. Texts that Unicode calls equal are equal.

use super::marker::{Mark, marks};
use crate::types::pattern::pattern;
use regex::Regex;
use std::sync::LazyLock;
use unicode_normalization::UnicodeNormalization;

/// Whether `text` equals one of `accepted`, apart from surrounding white space.
pub(super) fn matches_exactly<'a>(text: &str, mut accepted: impl Iterator<Item = &'a str>) -> bool {
    accepted.any(|answer| answer.trim().nfc().eq(text.trim().nfc()))
}

/// Whether one of the [`readings`] of `text` equals one of `accepted` after normalisation.
pub(super) fn matches_normalised<'a>(text: &str, mut accepted: impl Iterator<Item = &'a str>) -> bool {
    let readings = readings(text);
    accepted.any(|answer| readings.iter().any(|given| are_equal(given, answer)))
}

/// What `text` may say: all of it, the answer that it marks or what its one sentence ends with ("... is Paris"), each without an
/// apposition too.
pub(super) fn readings(text: &str) -> Vec<&str> {
    static APPOSITION: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)^([^,;]+)[,;] (?:the|a|an|which|who|where|because|since|as|for|not|in|on|near)\b")
    });
    static PREDICATE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)^[^.!?\n]*(?:\b(?:is|are|was|were|called)|\b(?:it|that)'s)\s+([^.!?\n]+)[.!]?$")
    });
    static FACE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\s*\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}\s*$"));
    let text = text.trim();
    let marked = marks(text).into_iter().find_map(|mark| match mark {
        Mark::Said(inside) | Mark::Tag(inside) | Mark::Box(Some(inside)) => {
            Some(group(&FACE, inside).unwrap_or(inside))
        }
        Mark::Box(None) | Mark::Hashes(_) | Mark::Bold(_) => None,
    });
    let mut readings = vec![text];
    readings.extend(marked.or_else(|| group(&PREDICATE, text)));
    let ahead: Vec<&str> = readings.iter().filter_map(|text| group(&APPOSITION, text)).collect();
    readings.extend(ahead);
    readings
}

fn group<'a>(pattern: &Regex, text: &'a str) -> Option<&'a str> {
    Some(pattern.captures(text)?.get(1)?.as_str())
}

fn are_equal(given: &str, answer: &str) -> bool {
    static HYPHEN: LazyLock<Regex> = LazyLock::new(|| pattern(r"(\p{L})-([\p{L}\d])"));
    let spaced = |text: &str| normalised(&HYPHEN.replace_all(text, "$1 $2"));
    let negative = |text: &str| text.trim_start().starts_with('-');
    normalised(given) == normalised(answer) || negative(given) == negative(answer) && spaced(given) == spaced(answer)
}

/// Lower case, without punctuation and the articles before other words, with single spaces. Signs that tell numbers and names
/// apart stay (`-7`, `1.5`, `1/2`, `$5`, `5%`, `C++`), and so does what consists of punctuation alone.
pub(super) fn normalised(text: &str) -> String {
    let lower = text.nfkc().collect::<String>().to_lowercase().replace(['\u{2212}', '\u{2013}'], "-");
    let lower: Vec<char> = amounts(&lower).chars().collect();
    let digit = |at: Option<usize>| at.and_then(|at| lower.get(at)).is_some_and(char::is_ascii_digit);
    let end = |at: Option<usize>| {
        at.and_then(|at| lower.get(at)).is_none_or(|c| c.is_whitespace() || ".,;!?)\"".contains(*c))
    };
    let between = |at: usize| digit(at.checked_sub(1)) && digit(Some(at + 1));
    // Three digits and no more stand behind a thousands separator.
    let group =
        |at: usize, digits: usize| (1..=digits).all(|place| digit(Some(at + place))) && !digit(Some(at + digits + 1));
    // In India all groups but the last have two.
    let thousands = |at: usize| group(at, 3) || group(at, 2) && lower.get(at + 3) == Some(&',') && group(at + 3, 3);
    let stays = |at: usize, c: char| match c {
        '.' | '/' | ':' => between(at),
        ',' => between(at) && !thousands(at),
        '%' => digit(at.checked_sub(1)),
        '$' => digit(Some(at + 1)),
        // A hyphen is a sign before a number, "to" between two, and a mark behind a letter: `A-`.
        '-' if between(at) => true,
        '-' if end(Some(at + 1)) => {
            at.checked_sub(1).is_some_and(|before| lower[before].is_alphabetic()) && end(at.checked_sub(2))
        }
        '-' => digit(Some(at + 1)) && !at.checked_sub(1).is_some_and(|before| lower[before].is_alphanumeric()),
        '+' | '#' | '<' | '>' | '=' | '^' => true,
        c => !c.is_ascii_punctuation() && !"‘’“”«»…、。！？".contains(c),
    };
    let bare: String = lower.iter().enumerate().filter(|(at, c)| stays(*at, **c)).map(|(_, c)| *c).collect();
    let words: Vec<&str> = bare.split_whitespace().collect();
    let last = words.len().saturating_sub(1);
    let kept = words.iter().enumerate().filter(|(at, word)| *at == last || !["a", "an", "the"].contains(*word));
    let kept = kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ");
    if !kept.is_empty() {
        return kept;
    }
    lower.iter().collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `text`, in lower case, with one spelling of amounts: `5 percent` is `5%`, `5€` and `5 euros` are `€5`.
fn amounts(text: &str) -> String {
    static PERCENT: LazyLock<Regex> = LazyLock::new(|| pattern(r"(\d)\s*(?:%|percent\b|per cent\b)"));
    static CURRENCY: LazyLock<Regex> = LazyLock::new(|| pattern(r"([$€£¥₹])\s+(\d)"));
    static BEHIND: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(^|[^\d$€£¥₹.,])(\d+(?:[.,]\d+)*)\s*(?:([$€£¥₹])|(dollars?|us dollars?|usd)\b|(euros?|eur)\b)")
    });
    let behind = |found: &regex::Captures<'_>| {
        let sign = match (found.get(3), found.get(4)) {
            (Some(sign), _) => sign.as_str(),
            (None, Some(_)) => "$",
            (None, None) => "€",
        };
        format!("{}{sign}{}", &found[1], &found[2])
    };
    if !text.contains(|c: char| c.is_ascii_digit()) {
        return text.to_owned();
    }
    let text = PERCENT.replace_all(text, "$1%");
    let text = CURRENCY.replace_all(&text, "$1$2");
    BEHIND.replace_all(&text, behind).into_owned()
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
            r"So \boxed{Paris}",
            "<answer>Paris</answer>",
            "The capital of France is Paris.",
            "Answer: Paris, the capital of France.",
            "The capital is Paris, not Rome.",
            "It's Paris, in France.",
            r"\boxed{\text{Paris}}",
        ] {
            assert!(matches_normalised(text, ["Paris"].into_iter()), "{text:?}");
        }
        for text in [
            "",
            "London",
            "Paris or London",
            "the answer",
            "answer is Rome, not Paris",
            "It is not Paris.",
            "Is it Paris?",
        ] {
            assert!(!matches_normalised(text, ["Paris"].into_iter()), "{text:?}");
        }
        assert!(matches_normalised("NYC", ["New York", "nyc"].into_iter()));
    }

    #[test]
    fn an_answer_of_articles_or_signs_alone_is_not_the_empty_text() {
        for answer in ["The The", "?", "+", "an", "..."] {
            assert!(!matches_normalised("", [answer].into_iter()), "{answer:?}");
            assert!(!matches_normalised("!", [answer].into_iter()), "{answer:?}");
            assert!(!matches_normalised("-", [answer].into_iter()), "{answer:?}");
            assert!(matches_normalised(&answer.to_lowercase(), [answer].into_iter()), "{answer:?}");
        }
    }

    #[test]
    fn signs_that_tell_answers_apart_stay() {
        for (text, answer) in [
            ("-7", "7"),
            ("15", "1.5"),
            ("C++", "C"),
            ("vitamin", "Vitamin A"),
            ("the", "A"),
            ("5%", "$5"),
            ("5", "5%"),
            ("5%", "5"),
            ("$5", "5"),
            ("€5", "$5"),
            ("1,5", "15"),
            ("12", "1/2"),
            ("1030", "10:30"),
            ("911", "9/11"),
            ("1012", "10-12"),
            ("34", "3,4"),
            ("A", "A-"),
            ("¥500", "$500"),
        ] {
            assert!(!matches_normalised(text, [answer].into_iter()), "{text:?} is not {answer:?}");
        }
        for (text, answer) in [
            ("\u{2212}7", "-7"),
            ("twenty one", "twenty-one"),
            ("1,234", "1234"),
            ("e-mail", "email"),
            ("vitamin a", "Vitamin A"),
            ("5 percent", "5%"),
            ("5 per cent", "5 %"),
            ("5€", "€5"),
            ("5 dollars", "$5"),
            ("$1,234", "$1234"),
            ("2019\u{2013}20", "2019-20"),
            ("B-12", "B12"),
        ] {
            assert!(matches_normalised(text, [answer].into_iter()), "{text:?} is {answer:?}");
        }
    }

    #[test]
    fn unicodes_normal_forms_are_equal() {
        assert!(matches_normalised("cafe\u{301}", ["caf\u{e9}"].into_iter()));
        assert!(matches_exactly("cafe\u{301}", ["caf\u{e9}"].into_iter()));
        assert!(matches_normalised("\u{ff21}\u{ff22}", ["ab"].into_iter()));
    }

    #[test]
    fn to_the_letter_is_to_the_letter() {
        assert!(matches_exactly(" olleh\n", ["olleh"].into_iter()));
        assert!(!matches_exactly("Olleh", ["olleh"].into_iter()));
        assert!(!matches_exactly("olleh.", ["olleh"].into_iter()));
    }
}
