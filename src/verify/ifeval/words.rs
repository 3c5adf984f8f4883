//! Words as IFEval counts them: runs of letters, digits and underscores; and words in capitals, counted among Penn Treebank
//! tokens (Robert MacIntyre's rules as NLTK implements them).
//!
//! Treebank tokens split off punctuation, brackets and clitics: `DON'T` is `DO` and `N'T`, `IT'S` is `IT` and `'S`.

use super::letter_case::is_upper;
use crate::types::pattern::pattern;
use regex::Regex;
use std::sync::LazyLock;

/// Characters that are always separate tokens.
const SIGNS: &str = "«“‘„»”’`;@#$%&?!*()[]{}<>\"\u{2012}\u{2013}\u{2014}\u{2015}";

/// Words that are split into two tokens, and where.
const PAIRS: [(&str, usize); 8] =
    [("cannot", 3), ("d'ye", 1), ("gimme", 3), ("gonna", 3), ("gotta", 3), ("lemme", 3), ("more'n", 4), ("wanna", 3)];

/// Number of runs of letters, digits and underscores.
pub(super) fn count(text: &str) -> usize {
    static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"[\p{L}\p{N}_]+"));
    WORD.find_iter(text).count()
}

/// Number of tokens with at least one letter and only capitals.
pub(super) fn count_capital(text: &str) -> usize {
    apart(text).split_whitespace().map(|word| tokens(word).filter(|token| is_upper(token)).count()).sum()
}

/// The text with spaces around all characters that are tokens.
fn apart(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len() * 2);
    let mut at = 0;
    while at < chars.len() {
        let here = chars[at];
        let twice = chars.get(at + 1) == Some(&here);
        match here {
            '.' if twice => {
                out.push_str(" .. ");
                at += chars[at..].iter().take_while(|&&other| other == '.').count();
                continue;
            }
            '-' if twice => {
                out.push_str(" -- ");
                at += 2;
                continue;
            }
            ':' | ',' if chars.get(at + 1).is_none_or(|next| !next.is_numeric()) => {
                out.extend([' ', here, ' ']);
            }
            sign if SIGNS.contains(sign) => out.extend([' ', sign, ' ']),
            // A quote before a word is a token, unless it begins a clitic.
            '\'' if opens(&chars, at) => out.push_str("' "),
            other => out.push(other),
        }
        at += 1;
    }
    out
}

/// Whether the apostrophe at `at` opens a quotation.
fn opens(chars: &[char], at: usize) -> bool {
    let is_word = |c: &char| c.is_alphanumeric() || *c == '_';
    let before = at > 0 && is_word(&chars[at - 1]);
    let word: String = chars[at + 1..].iter().take_while(|c| is_word(c)).collect::<String>().to_lowercase();
    !before && !word.is_empty() && !["re", "ve", "ll", "m", "t", "s", "d", "n"].contains(&word.as_str())
}

/// The tokens of one word.
fn tokens(word: &str) -> impl Iterator<Item = &str> {
    const CLITICS: [&str; 7] = ["'s", "'S", "'m", "'M", "'d", "'D", "'"];
    const LONG: [&str; 8] = ["'ll", "'LL", "'re", "'RE", "'ve", "'VE", "n't", "N'T"];
    let mut parts = vec![];
    let mut rest = word;
    for endings in [&CLITICS[..], &LONG[..]] {
        let cut = endings.iter().find_map(|end| {
            let stem = rest.strip_suffix(end)?;
            (!stem.is_empty() && !stem.ends_with('\'')).then_some(stem.len())
        });
        if let Some(cut) = cut {
            parts.push(&rest[cut..]);
            rest = &rest[..cut];
        }
    }
    let lower = rest.to_lowercase();
    match PAIRS.iter().find(|(pair, _)| *pair == lower) {
        Some((_, cut)) if rest.len() == lower.len() => parts.extend([&rest[..*cut], &rest[*cut..]]),
        _ => parts.push(rest),
    }
    parts.into_iter()
}
