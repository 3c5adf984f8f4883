//! Instructions judged as they say, where the published checker counts otherwise.
//!
//! A keyword is a word and no part of one, nor a pattern; words are counted between blanks; bullets, highlights and placeholders
//! have content, and a horizontal rule, a link and a list of checkboxes are none; blank paragraphs do not count; one of the
//! three answers means one. What is not named here is judged as it was published.

use super::{CONSTRAINED_RESPONSES, ENDS_FIRST_WORD, compile};
use crate::types::pattern::pattern;
use crate::types::verifier::Instruction;
use regex::Regex;
use std::sync::LazyLock;

/// Whether `text` follows `instruction`; `None` if its arguments cannot be used.
pub(crate) fn follows(instruction: &Instruction, text: &str) -> Option<bool> {
    static BULLET: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^[ \t]*[*\-+•][ \t]+\S"));
    static HIGHLIGHT: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"\*\*\*[^\s*][^\n*]*\*\*\*|\*\*[^\s*][^\n*]*\*\*|\*[^\s*][^\n*]*\*"));
    static PLACEHOLDER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\[[^\[\]\n]*[^\[\]\s][^\[\]\n]*\](?:[^(]|$)"));
    static CHECKBOX: LazyLock<Regex> = LazyLock::new(|| pattern(r"\[[xX]\]"));
    if text.trim().is_empty() {
        return Some(false);
    }
    Some(match instruction {
        Instruction::Existence { keywords } => all(keywords, |keyword| Some(count(keyword, text)? > 0))?,
        Instruction::ForbiddenWords { forbidden_words } => all(forbidden_words, |word| Some(count(word, text)? == 0))?,
        Instruction::Frequency { keyword, frequency, relation } => relation.holds(count(keyword, text)?, *frequency),
        Instruction::NumberWords { num_words, relation } => {
            let words = text.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).count();
            relation.holds(words, *num_words)
        }
        Instruction::NumberBulletLists { num_bullets } => BULLET.find_iter(text).count() == *num_bullets,
        Instruction::NumberHighlightedSections { num_highlights } => {
            HIGHLIGHT.find_iter(text).count() >= *num_highlights
        }
        Instruction::NumberPlaceholders { num_placeholders } => {
            PLACEHOLDER.find_iter(text).filter(|found| !CHECKBOX.is_match(found.as_str())).count() >= *num_placeholders
        }
        Instruction::ConstrainedResponse {} => {
            CONSTRAINED_RESPONSES.iter().filter(|response| text.contains(*response)).count() == 1
        }
        Instruction::NthParagraphFirstWord { num_paragraphs, nth_paragraph, first_word } => {
            let paragraphs = paragraphs(text);
            let first = paragraphs.get(nth_paragraph.checked_sub(1)?).and_then(|part| part.split_whitespace().next());
            let bare = |word: &str| {
                word.trim_matches(|c: char| ENDS_FIRST_WORD.contains(&c) || "*_(“”:;".contains(c)).to_lowercase()
            };
            paragraphs.len() == *num_paragraphs && first.is_some_and(|word| bare(word) == bare(first_word))
        }
        Instruction::EndChecker { end_phrase } => {
            let bare = |text: &str| text.trim_matches(|c: char| c.is_whitespace() || "\"*_".contains(c)).to_lowercase();
            bare(text).ends_with(&bare(end_phrase))
        }
        Instruction::Postscript { postscript_marker } => {
            let marker = regex::escape(postscript_marker.trim().trim_end_matches(['.', ':']));
            Regex::new(&format!(r"(?im)^[\s*_]*{marker}[.:]?[\s*_]*\S")).ok()?.is_match(text)
        }
        other => return super::follows(other, text),
    })
}

/// Whether `holds` for all of `words`.
fn all(words: &[String], holds: impl Fn(&str) -> Option<bool>) -> Option<bool> {
    words.iter().try_fold(true, |all, word| Some(all && holds(word)?))
}

/// How often `keyword` occurs as a word.
fn count(keyword: &str, text: &str) -> Option<usize> {
    let edge = |is_word: bool| if is_word { r"\b" } else { "" };
    let keyword = keyword.trim();
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let (opens, closes) = (edge(keyword.starts_with(word)), edge(keyword.ends_with(word)));
    Some(compile(&format!("{opens}{}{closes}", regex::escape(keyword))).ok()?.find_iter(text).count())
}

fn paragraphs(text: &str) -> Vec<&str> {
    static BLANK: LazyLock<Regex> = LazyLock::new(|| pattern(r"\n[ \t]*\n\s*"));
    BLANK.split(text).filter(|part| !part.trim().is_empty()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Where the published checker judges otherwise: the instruction, a text, and what is right.
    const REPAIRED: [(&str, &str, bool); 14] = [
        (r#"{"id": "keywords:existence", "keywords": ["art"]}"#, "a party", false),
        (r#"{"id": "keywords:existence", "keywords": ["C++"]}"#, "I like C.", false),
        (r#"{"id": "keywords:forbidden_words", "forbidden_words": ["a.b"]}"#, "acb", true),
        (
            r#"{"id": "keywords:frequency", "keyword": "cat", "frequency": 2, "relation": "at least"}"#,
            "cat category",
            false,
        ),
        (r#"{"id": "length_constraints:number_words", "num_words": 3, "relation": "at least"}"#, "don't stop", false),
        (r#"{"id": "detectable_format:number_bullet_lists", "num_bullets": 1}"#, "* one\n---\n", true),
        (r#"{"id": "detectable_format:number_bullet_lists", "num_bullets": 1}"#, "-5 is cold", false),
        (r#"{"id": "detectable_format:number_highlighted_sections", "num_highlights": 1}"#, "2 * 3 * 4", false),
        (r#"{"id": "detectable_content:number_placeholders", "num_placeholders": 1}"#, "[a link](http://x)", false),
        (r#"{"id": "detectable_content:number_placeholders", "num_placeholders": 1}"#, "[] and [ ]", false),
        (r#"{"id": "detectable_format:constrained_response"}"#, "My answer is yes. My answer is no.", false),
        (
            r#"{"id": "length_constraints:nth_paragraph_first_word", "num_paragraphs": 2, "nth_paragraph": 2, "first_word": "two"}"#,
            "One\n\n\n\n**Two**",
            true,
        ),
        (r#"{"id": "startend:end_checker", "end_phrase": "Any questions?"}"#, "So. **Any questions?**", true),
        (r#"{"id": "detectable_content:postscript", "postscript_marker": "P.S."}"#, "PS5 is fun, p.s. not", false),
    ];

    #[test]
    fn instructions_mean_what_they_say() {
        for (instruction, text, right) in REPAIRED {
            let instruction: Instruction = serde_json::from_str(instruction).unwrap();
            assert_eq!(follows(&instruction, text), Some(right), "{instruction:?} of {text:?}");
            assert_eq!(
                super::super::follows(&instruction, text),
                Some(!right),
                "published: {instruction:?} of {text:?}"
            );
        }
    }

    #[test]
    fn what_is_followed_plainly_is_followed_either_way() {
        for (instruction, text) in [
            (r#"{"id": "keywords:existence", "keywords": ["art"]}"#, "Art is long."),
            (r#"{"id": "detectable_format:number_bullet_lists", "num_bullets": 2}"#, "* one\n* two"),
            (r#"{"id": "detectable_format:number_highlighted_sections", "num_highlights": 2}"#, "*one* and **two**"),
            (r#"{"id": "detectable_content:number_placeholders", "num_placeholders": 1}"#, "Dear [name],"),
            (r#"{"id": "detectable_content:postscript", "postscript_marker": "P.S."}"#, "Bye.\n\nP.S. I like cake."),
            (r#"{"id": "punctuation:no_comma"}"#, "no commas"),
        ] {
            let instruction: Instruction = serde_json::from_str(instruction).unwrap();
            assert_eq!(
                [follows(&instruction, text), super::super::follows(&instruction, text)],
                [Some(true); 2],
                "{text:?}"
            );
        }
    }
}
