//! IFEval's 25 verifiable instructions (Zhou et al., arXiv 2311.07911), each followed or not.
//!
//! Behaves like the checker published with the paper (strict mode), including its oddities; tests compare it with that
//! checker's verdicts; [`repaired`] judges as the instructions say instead. Three parts only approximate it: the language of a text (`language`), sentences (`sentences`), and
//! JSON, where `NaN` is invalid here. A keyword is a regular expression, matched in linear time. A blank text follows no
//! instruction.

mod language;
mod letter_case;
pub(super) mod repaired;
mod sentences;
mod words;

use crate::types::pattern::pattern;
use crate::types::verifier::Instruction;
use letter_case::is_upper;
use regex::{Regex, RegexBuilder};
use std::sync::LazyLock;

/// Characters that end a first word.
const ENDS_FIRST_WORD: [char; 6] = ['.', ',', '?', '!', '\'', '"'];

const CONSTRAINED_RESPONSES: [&str; 3] = ["My answer is yes.", "My answer is no.", "My answer is maybe."];

/// What is wrong with the arguments of `instruction`.
pub(super) fn complaint(instruction: &Instruction) -> Option<String> {
    let pattern = |key: &str, text: &str| match compile(text) {
        _ if text.trim().is_empty() => Some(format!("expected a text in {key:?}, got {text:?}")),
        Ok(_) => None,
        Err(error) => Some(format!("expected a regular expression in {key:?}, got {text:?}: {error}")),
    };
    let patterns = |key: &str, texts: &[String]| match texts {
        [] => Some(format!("expected at least one text in {key:?}, got none")),
        texts => texts.iter().find_map(|text| pattern(key, text)),
    };
    match instruction {
        Instruction::Existence { keywords } => patterns("keywords", keywords),
        Instruction::ForbiddenWords { forbidden_words } => patterns("forbidden_words", forbidden_words),
        Instruction::Frequency { keyword, .. } => pattern("keyword", keyword),
        Instruction::MultipleSections { section_spliter, .. } => pattern("section_spliter", section_spliter),
        Instruction::Postscript { postscript_marker } => pattern("postscript_marker", postscript_marker),
        Instruction::ResponseLanguage { language } if !language::is_known(language) => {
            Some(format!("expected a language's ISO 639-1 code in \"language\", got {language:?}"))
        }
        Instruction::NthParagraphFirstWord { num_paragraphs, nth_paragraph, .. }
            if !(1..=*num_paragraphs).contains(nth_paragraph) =>
        {
            Some(format!("expected \"nth_paragraph\" from 1 to {num_paragraphs}, got {nth_paragraph}"))
        }
        Instruction::RepeatPrompt { prompt_to_repeat } if prompt_to_repeat.trim().is_empty() => {
            Some("expected a text in \"prompt_to_repeat\", got an empty one".to_owned())
        }
        _ => None,
    }
}

/// Whether `text` follows `instruction`; `None` if its pattern does not compile, which [`complaint`] reports beforehand.
pub(super) fn follows(instruction: &Instruction, text: &str) -> Option<bool> {
    if text.trim().is_empty() {
        return Some(false);
    }
    Some(match instruction {
        Instruction::Existence { keywords } => {
            for keyword in keywords {
                if !compile(keyword).ok()?.is_match(text) {
                    return Some(false);
                }
            }
            true
        }
        Instruction::Frequency { keyword, frequency, relation } => {
            relation.holds(compile(keyword.trim()).ok()?.find_iter(text).count(), *frequency)
        }
        Instruction::ForbiddenWords { forbidden_words } => {
            for word in forbidden_words {
                if compile(&format!(r"\b(?:{word})\b")).ok()?.is_match(text) {
                    return Some(false);
                }
            }
            true
        }
        Instruction::LetterFrequency { letter, let_frequency, let_relation } => {
            let letter: String = letter.to_lowercase().collect();
            let_relation.holds(text.to_lowercase().matches(&letter).count(), *let_frequency)
        }
        Instruction::ResponseLanguage { language } => language::of(text).is_none_or(|found| found == language.as_str()),
        Instruction::NumberSentences { num_sentences, relation } => {
            relation.holds(sentences::count(text), *num_sentences)
        }
        Instruction::NumberWords { num_words, relation } => relation.holds(words::count(text), *num_words),
        Instruction::CapitalWordFrequency { capital_frequency, capital_relation } => {
            capital_relation.holds(words::count_capital(text), *capital_frequency)
        }
        Instruction::EnglishCapital {} => {
            is_upper(text) && language::of(&text.to_lowercase()).is_none_or(|found| found == "en")
        }
        Instruction::EnglishLowercase {} => is_lower(text) && language::of(text).is_none_or(|found| found == "en"),
        other => return shape(other, text),
    })
}

/// Instructions about the shape of the text.
fn shape(instruction: &Instruction, text: &str) -> Option<bool> {
    static PLACEHOLDER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\[.*?\]"));
    static TITLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"<<[^\n]+>>"));
    let bare = text.trim();
    Some(match instruction {
        Instruction::NumberParagraphs { num_paragraphs } => paragraphs(text) == Some(*num_paragraphs),
        Instruction::NthParagraphFirstWord { num_paragraphs, nth_paragraph, first_word } => {
            nth_paragraph_begins(text, *num_paragraphs, *nth_paragraph, first_word)
        }
        Instruction::NumberPlaceholders { num_placeholders } => {
            PLACEHOLDER.find_iter(text).count() >= *num_placeholders
        }
        Instruction::Postscript { postscript_marker } => has_postscript(text, postscript_marker.trim())?,
        Instruction::NumberBulletLists { num_bullets } => bullets(text) == *num_bullets,
        Instruction::ConstrainedResponse {} => CONSTRAINED_RESPONSES.iter().any(|response| text.contains(response)),
        Instruction::NumberHighlightedSections { num_highlights } => highlights(text) >= *num_highlights,
        Instruction::MultipleSections { section_spliter, num_sections } => {
            let pattern = format!(r"\s?(?:{})\s?\d+\s?", section_spliter.trim());
            Regex::new(&pattern).ok()?.find_iter(text).count() >= *num_sections
        }
        Instruction::JsonFormat {} => is_json(bare),
        Instruction::Title {} => {
            let named = |title: &str| !title.trim_start_matches('<').trim_end_matches('>').trim().is_empty();
            TITLE.find_iter(text).any(|title| named(title.as_str()))
        }
        Instruction::TwoResponses {} => are_two_responses(text),
        Instruction::RepeatPrompt { prompt_to_repeat } => {
            bare.to_lowercase().starts_with(&prompt_to_repeat.trim().to_lowercase())
        }
        Instruction::EndChecker { end_phrase } => {
            bare.trim_matches('"').to_lowercase().ends_with(&end_phrase.trim().to_lowercase())
        }
        Instruction::Quotation {} => bare.chars().count() > 1 && bare.starts_with('"') && bare.ends_with('"'),
        Instruction::NoComma {} => !text.contains(','),
        _ => return None,
    })
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).case_insensitive(true).build()
}

fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)
}

/// Number of paragraphs between `***`; `None` if one in the middle is blank.
fn paragraphs(text: &str) -> Option<usize> {
    static SPLIT: LazyLock<Regex> = LazyLock::new(|| pattern(r"\s?\*\*\*\s?"));
    let parts: Vec<&str> = SPLIT.split(text).collect();
    let last = parts.len() - 1;
    let blank = |index: &usize| parts[*index].trim().is_empty();
    if (1..last).any(|index| blank(&index)) {
        return None;
    }
    let ends = if last == 0 { vec![0] } else { vec![0, last] };
    Some(parts.len() - ends.iter().filter(|index| blank(index)).count())
}

/// Whether there are `count` paragraphs between blank lines and the `nth` begins with `first_word`.
fn nth_paragraph_begins(text: &str, count: usize, nth: usize, first_word: &str) -> bool {
    let parts: Vec<&str> = text.split("\n\n").collect();
    let written = parts.iter().filter(|part| !part.trim().is_empty()).count();
    if written != count || nth > written {
        return false;
    }
    let Some(word) = parts[nth - 1].split_whitespace().next() else { return false };
    let word = word.trim_start_matches('\'').trim_start_matches('"');
    let word = word.split(ENDS_FIRST_WORD).next().unwrap_or_default();
    word.to_lowercase() == first_word.to_lowercase()
}

fn has_postscript(text: &str, marker: &str) -> Option<bool> {
    let pattern = match marker {
        "P.P.S" => r"\s*p\.\s?p\.\s?s.*$".to_owned(),
        "P.S." => r"\s*p\.\s?s\..*$".to_owned(),
        other => format!(r"\s*(?:{}).*$", other.to_lowercase()),
    };
    Some(Regex::new(&format!("(?m){pattern}")).ok()?.is_match(&text.to_lowercase()))
}

/// Lines that begin with one `*`, and lines that begin with `-`.
fn bullets(text: &str) -> usize {
    static STAR: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^\s*\*[^*].*$"));
    static DASH: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^\s*-.*$"));
    STAR.find_iter(text).count() + DASH.find_iter(text).count()
}

/// Number of texts between single stars plus texts between double stars.
fn highlights(text: &str) -> usize {
    static ONE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\*[^\n*]*\*"));
    static TWO: LazyLock<Regex> = LazyLock::new(|| pattern(r"\*\*[^\n*]*\*\*"));
    let filled = |found: &regex::Match<'_>| !found.as_str().trim_matches('*').trim().is_empty();
    ONE.find_iter(text).filter(filled).count() + TWO.find_iter(text).filter(filled).count()
}

/// Whether it is JSON, bare or in a code fence.
fn is_json(text: &str) -> bool {
    let mut body = text;
    for fence in ["```json", "```Json", "```JSON", "```"] {
        body = body.strip_prefix(fence).unwrap_or(body);
    }
    let body = body.strip_suffix("```").unwrap_or(body).trim();
    serde_json::from_str::<serde::de::IgnoredAny>(body).is_ok()
}

fn are_two_responses(text: &str) -> bool {
    let parts: Vec<&str> = text.split("******").collect();
    let last = parts.len() - 1;
    let written: Vec<&str> = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).collect();
    let blank_inside = (1..last).any(|index| parts[index].trim().is_empty());
    !blank_inside && written.len() == 2 && written[0] != written[1]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
