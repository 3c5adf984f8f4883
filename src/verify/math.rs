//! Answers to mathematical tasks: what a text arrives at, however it is written.
//!
//! A text's answer is where its last mark is ([`marks`]), else the formula at its end, else its last number ([`prose`]). A box
//! holds an expression that is read whole or matches nothing; formulas are read as [`expression`] has it and compared
//! exactly ([`form`]). `50%` is 0.5 too, and 50. Units and words are left out. What prose asks, bounds, takes back or
//! contradicts is no answer ([`claim`]), nor are equal sides that differ ([`statement`]). A prompt's own answer is read whole
//! or refused, and so is one that can be read in two ways: `10-12`.

use super::marker::{Mark, braced, marks, without_questions};
use crate::types::pattern::pattern;
use answer::Answer;
use claim::{belongs, contradicts, gives_up, is_range, opens_range, takes_back, without_confidence};
use expression::read;
use form::Form;
use num_rational::BigRational;
use numeral::{Comma, in_words, last_in_words};
use plain::plain;
use prose::Found;
use regex::Regex;
use std::sync::LazyLock;

mod answer;
mod claim;
mod expression;
mod form;
mod numeral;
mod plain;
mod prose;
mod repeating;
mod statement;
mod token;

/// The answer of a text: what it can be read as. `13,5` is a decimal, and two numbers.
#[derive(Clone, Debug)]
pub(super) struct MathAnswer {
    readings: Vec<Answer>,
}

impl MathAnswer {
    /// The answer of `text`, which has no thoughts.
    pub(super) fn of(text: &str) -> Option<Self> {
        let text = plain(text);
        if takes_back(&text) {
            return None;
        }
        match marks(&text).into_iter().find_map(marked) {
            Some(readings) => readings,
            None => unmarked(&without_questions(&text)),
        }
    }

    /// A prompt's own answer.
    pub(super) fn expected(text: &str) -> Option<Self> {
        let text = plain(text);
        match marks(&text).into_iter().next() {
            Some(Mark::Box(inside)) => read(inside?, Comma::Separates).map(Self::one),
            Some(Mark::Hashes(line)) => read(line, Comma::Separates).map(Self::one),
            _ if is_range(text.trim()) => None,
            _ => read(text.trim(), Comma::Separates).map(Self::one).or_else(|| Self::words(&text)),
        }
    }

    /// Whether it is what `expected` says.
    pub(super) fn agrees(&self, expected: &Self) -> bool {
        self.readings.iter().any(|given| expected.readings.iter().any(|expected| given.agrees(expected)))
    }

    /// The answer as people write it.
    pub(super) fn shown(&self) -> String {
        let mut readings: Vec<String> = self.readings.iter().map(ToString::to_string).collect();
        readings.dedup();
        readings.join(" or ")
    }

    fn one(answer: Answer) -> Self {
        Self { readings: vec![answer] }
    }

    /// The answer that all of `text` is: a formula, or a number in words.
    fn whole(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(words) = Self::words(text) {
            return Some(words);
        }
        static UNIT: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(-?\d[\d.,]*)[mgshL]$"));
        // `{1,2}` is a set.
        let set = braced(text).filter(|(inside, rest)| inside.contains(',') && rest.is_empty());
        if let Some((inside, _)) = set {
            return read(&format!("\\{{{inside}\\}}"), Comma::Lists).map(Self::one);
        }
        let mut readings: Vec<Answer> =
            [Comma::Decimal, Comma::Separates].iter().filter_map(|comma| read(text, *comma)).collect();
        // `540m` is a product, and a length.
        readings.extend(UNIT.captures(text).and_then(|found| read(found.get(1)?.as_str(), Comma::Separates)));
        (!readings.is_empty()).then_some(Self { readings })
    }

    /// The number that all of `text` says in words, which may stand in LaTeX's `\text{}`.
    fn words(text: &str) -> Option<Self> {
        let face = text.strip_prefix("\\text{").and_then(|rest| rest.strip_suffix('}'));
        in_words(face.unwrap_or(text)).map(Self::number)
    }

    fn number(value: BigRational) -> Self {
        Self::one(Answer::Value(Form::number(value), false))
    }

    fn found(found: Found) -> Self {
        Self::one(Answer::Value(Form::number(found.value), found.percent))
    }
}

/// The answer at a mark; none if the mark marks nothing. The answer may be one that cannot be read, which is no answer.
fn marked(mark: Mark<'_>) -> Option<Option<MathAnswer>> {
    match mark {
        Mark::Box(inside) => Some(inside.and_then(MathAnswer::whole)),
        Mark::Tag(inside) => Some(MathAnswer::whole(inside).or_else(|| in_formula(inside)).or_else(|| last(inside))),
        Mark::Said(text) | Mark::Hashes(text) => stated(text),
        Mark::Bold(inside) => {
            let inside = inside.trim().trim_end_matches(['.', ':', '!']);
            let says = inside.contains(|c: char| c.is_ascii_digit() || c == '\\') || last_in_words(inside).is_some();
            MathAnswer::whole(inside).filter(|_| says).map(Some)
        }
    }
}

/// The answer of a text without marks.
fn unmarked(text: &str) -> Option<MathAnswer> {
    if gives_up(text) || contradicts(text) || in_last_formula(text, contradicts) == Some(true) {
        return None;
    }
    in_prose(text)
        .or_else(|| in_formula(text))
        .or_else(|| predicate(text))
        .or_else(|| last(&without_confidence(text)))
        .or_else(|| last_in_words(text).map(MathAnswer::number))
}

/// The answer that a sentence states: its formula, its number if it begins with one, else its last number.
fn stated(text: &str) -> Option<Option<MathAnswer>> {
    static HEDGE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)^(?:(?:about|approximately|approx\.?|around|roughly|exactly|just|only|simply)\s+)")
    });
    static BOUND: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)^(?:(?:more|less|fewer|greater|larger|smaller|higher|lower) than|between|unknown)\b")
    });
    static CORRECTED: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?i)\b(?:no,? wait|wait,? no|or rather|i mean|scratch that|actually)\b"));
    let bare = text.replace("**", if text.contains("^") || !text.contains("**") { "**" } else { "" }).replace('`', "");
    let bare = bare.trim().trim_matches(['*', '"', ':', '_']).trim();
    let bare = &bare[HEDGE.find(bare).map_or(0, |found| found.end())..];
    if BOUND.is_match(bare) || CORRECTED.is_match(bare) || opens_range(bare) {
        return Some(None);
    }
    if let Some(answer) = opening_formula(bare).or_else(|| in_prose(bare)) {
        return Some(Some(answer));
    }
    let mut found = prose::numbers(bare);
    if found.first().is_some_and(|first| first.start == 0) {
        let first = found.swap_remove(0);
        let behind = &bare[first.end..];
        // "12 - 5 = 7 apples"
        if let Some((_, result)) =
            behind.rsplit_once('=').filter(|_| behind.trim_start().starts_with(['+', '-', '*', '/']))
        {
            return Some(if contradicts(bare) { None } else { last(result) });
        }
        let goes_on = prose::goes_on(behind);
        return Some((!goes_on).then(|| MathAnswer::found(first)));
    }
    in_formula(bare).or_else(|| last(bare)).or_else(|| last_in_words(bare).map(MathAnswer::number)).map(Some)
}

/// What the last sentence says that something is: `The roots are 2 and 3.`
fn predicate(text: &str) -> Option<MathAnswer> {
    static PREDICATE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)^.*(?:\b(?:is|are|equals|was|were|get|have|be)\b|=)(?: exactly| about| approximately| just| only)?:? +(.*\d.*?)[.!]*$",
        )
    });
    static END: LazyLock<Regex> = LazyLock::new(|| pattern(r"[.!?]\s+"));
    let line = text.trim_end().lines().next_back()?;
    let sentence = END.split(line).filter(|sentence| sentence.contains(|c: char| c.is_ascii_digit())).last()?;
    in_prose(PREDICATE.captures(sentence)?.get(1)?.as_str())
}

/// The answer that all of `text` is, outside a formula: there, `1.5k` is a number.
fn in_prose(text: &str) -> Option<MathAnswer> {
    static THOUSANDS: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\S*\d[kKM][.!]?$"));
    let text = text.trim();
    if is_range(text) {
        return None;
    }
    if THOUSANDS.is_match(text) { last(text) } else { MathAnswer::whole(text) }
}

/// The formula that `text` begins with.
fn opening_formula(text: &str) -> Option<MathAnswer> {
    let formula = formulas(text).next().filter(|(start, ..)| *start == 0);
    formula.and_then(|(_, _, inside)| MathAnswer::whole(inside))
}

/// The last formula, if no number stands behind it.
fn in_formula(text: &str) -> Option<MathAnswer> {
    in_last_formula(text, MathAnswer::whole).flatten()
}

fn in_last_formula<T>(text: &str, read: impl FnOnce(&str) -> T) -> Option<T> {
    let (_, end, inside) = formulas(text).last()?;
    prose::last_number(&text[end..]).is_none().then(|| read(inside))
}

/// Formulas between `$`, `$$`, `\(` or `\[`, with where they begin and end. `$7 and $9` are amounts.
fn formulas(text: &str) -> impl Iterator<Item = (usize, usize, &str)> {
    static FORMULA: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?s)\$\$(.+?)\$\$|\$([^\s$](?:[^$\n]*[^\s$])?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]"));
    FORMULA.captures_iter(text).filter_map(move |found| {
        let (whole, inside) = (found.get(0)?, (1..=4).find_map(|group| found.get(group))?);
        let amount = found.get(2).is_some() && text[whole.end()..].starts_with(|c: char| c.is_ascii_digit());
        (!amount).then(|| (whole.start(), whole.end(), inside.as_str().trim().trim_end_matches(['.', ','])))
    })
}

/// The last number of `text`, unless it is part of something else there.
fn last(text: &str) -> Option<MathAnswer> {
    let text = fractions(text);
    let found = prose::last_number(&text)?;
    (!belongs(&text[..found.start], &found.value, &text[found.end..])).then(|| MathAnswer::found(found))
}

/// `\frac{3}{4}` in prose as `3/4`.
fn fractions(text: &str) -> String {
    static FRACTION: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(\d?)\\[dtc]?frac\s*(?:\{\s*(-?\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"));
    let written = |found: &regex::Captures<'_>| {
        let part = |one: usize, two: usize| found.get(one).or(found.get(two)).map_or("", |part| part.as_str());
        let gap = if found[1].is_empty() { "" } else { " " };
        format!("{}{gap}{}/{}", &found[1], part(2, 3), part(4, 5))
    };
    if text.contains("frac") { FRACTION.replace_all(text, written).into_owned() } else { text.to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
