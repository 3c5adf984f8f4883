//! Numbers in prose, with their signs, fractions, powers and percent signs.
//!
//! A number that the text denies ("not 9"), the exponent of a unit and digits behind a letter (`x2`) are none. What stands in
//! brackets beside a number outside them is a gloss.

use super::form::Form;
use super::numeral::{Comma, numeral, scale};
use crate::types::pattern::pattern;
use num_rational::BigRational;
use num_traits::Signed;
use regex::Regex;
use std::sync::LazyLock;

/// A number of a text.
#[derive(Debug)]
pub(super) struct Found {
    pub value: BigRational,
    pub percent: bool,
    /// Where it begins, its sign and currency included, and where it ends, in bytes.
    pub start: usize,
    pub end: usize,
    /// Brackets around it.
    depth: usize,
}

/// All numbers of `text`, which is in plain notation.
pub(super) fn numbers(text: &str) -> Vec<Found> {
    let (mut found, mut at, mut depth) = (Vec::<Found>::new(), 0, 0usize);
    let counts = counts(text);
    while let Some(here) = text[at..].chars().next() {
        match here {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let before = text[..at].chars().next_back();
        let glued = before.is_some_and(|c| c.is_alphanumeric() && !is_cjk(c) || c == '_');
        let begins = here.is_ascii_digit() || here == '.' && !glued;
        let Some((value, length)) = numeral(&text[at..], Comma::Separates).filter(|_| begins) else {
            at += here.len_utf8();
            continue;
        };
        let end = at + length;
        if glued || is_exponent(&text[..at]) || counts.contains(&at) || is_label(&text[..at]) {
            at = end;
            continue;
        }
        let number = with_context(text, at, end, value, depth);
        at = number.end;
        if !is_denied(&text[..number.start]) && !is_denied_behind(&text[at..]) {
            found.push(number);
        }
    }
    found
}

/// Whether a number behind `before` is a label: "step 7", "Figure 2".
fn is_label(before: &str) -> bool {
    static LABEL: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?i)\b(?:steps?|figure|equation|eq\.|example|problem|exercise|question)\s+\(?$"));
    LABEL.is_match(before)
}

/// Where the numbers stand that count the items of a list: `1.` and `2.` at the start of lines.
fn counts(text: &str) -> Vec<usize> {
    static COUNT: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^[ \t]*(\d{1,2})[.)][ \t]+\S"));
    let mut counts = Vec::new();
    for number in COUNT.captures_iter(text).filter_map(|found| found.get(1)) {
        if number.as_str().parse() == Ok(counts.len() + 1) {
            counts.push(number.start());
        }
    }
    if counts.len() > 1 { counts } else { Vec::new() }
}

/// The last number of `text` outside brackets, else in them.
pub(super) fn last_number(text: &str) -> Option<Found> {
    let mut found = numbers(text);
    let outside = found.iter().rposition(|found| found.depth == 0);
    match outside {
        Some(place) => Some(found.swap_remove(place)),
        None => found.pop(),
    }
}

pub(super) fn is_cjk(c: char) -> bool {
    ('\u{2e80}'..='\u{9fff}').contains(&c) || ('\u{ac00}'..='\u{d7a3}').contains(&c)
}

/// Whether what follows `before` is the exponent of a unit or variable: `cm^2`.
fn is_exponent(before: &str) -> bool {
    let raised = before.strip_suffix('{').unwrap_or(before).strip_suffix('^');
    raised.is_some_and(|base| base.ends_with(|c: char| c.is_alphabetic() || c == '}' || c == ')'))
}

fn is_denied(before: &str) -> bool {
    let before = before.trim_end();
    ["not", "Not", "n't", "instead of", "rather than", "out of"].iter().any(|word| {
        let behind = before.strip_suffix(word);
        behind.is_some_and(|rest| !rest.ends_with(char::is_alphabetic) || *word == "n't")
    })
}

/// Whether what follows a number says that it is wrong: "8 is not the answer".
fn is_denied_behind(behind: &str) -> bool {
    static DENIED: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\s+(?:is not|isn't|is wrong|is incorrect)\b"));
    DENIED.is_match(behind)
}

/// The number whose digits are `text[at..end]`, with what belongs to it on both sides.
fn with_context(text: &str, at: usize, end: usize, value: BigRational, depth: usize) -> Found {
    static TEN: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^\s*(?:[xX]\s|\*|\\times)\s*10\s*(?:\^|\*\*)\s*\{?\s*([+-]?\d{1,3})\s*\}?"));
    static POWER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(?:\^|\*\*)\s*(?:\{([+-]?\d{1,3})\}|([+-]?\d{1,3}))"));
    static SCALE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^ (hundred|thousand|million|billion|trillion)\b"));
    static LETTER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[kKM]\b"));
    static PERCENT: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\s*(?:%|percent|per cent)"));
    let (start, negative) = sign_before(&text[..at]);
    let (mut value, mut end) = fraction(text, at, end, value);
    let rest = &text[end..];
    let ten = |power: i32| BigRational::from_integer(10.into()).pow(power);
    if let Some(power) = TEN.captures(rest) {
        value *= ten(power[1].parse().unwrap_or_default());
        end += power[0].len();
    } else if let Some(power) = POWER.captures(rest) {
        let exponent = power.get(1).or(power.get(2)).and_then(|power| power.as_str().parse().ok()).unwrap_or(1);
        let raised = Form::number(value.clone()).power(&Form::whole(exponent)).and_then(|form| form.rational());
        value = raised.unwrap_or(value);
        end += power[0].len();
    } else if let Some((by, length)) = SCALE.captures(rest).and_then(|found| Some((scale(&found[1])?, found[0].len())))
    {
        value *= BigRational::from_integer(by);
        end += length;
    } else if let Some(letter) = LETTER.find(rest) {
        value *= ten(if letter.as_str() == "M" { 6 } else { 3 });
        end += 1;
    }
    let percent = PERCENT.is_match(&text[end..]);
    Found { value: if negative { -value } else { value }, percent, start, end, depth }
}

/// Where the number behind `before` begins with its sign and currency, and whether it is negative. A minus behind a letter, a digit
/// or a bracket is none, and behind a space it is one only at the start of a value: `x = - 5`.
fn sign_before(before: &str) -> (usize, bool) {
    let currency = |text: &str| text.trim_end_matches(['$', '€', '£', '¥', '₹']).len();
    let bare = currency(before);
    let spaced = before[..bare].trim_end();
    let Some(ahead) = spaced.strip_suffix('-') else { return (bare, false) };
    let apart = spaced.len() < bare;
    let ahead = &ahead[..currency(ahead)];
    let negative = if apart {
        ahead.trim_end().ends_with(['=', ':', '(', ',']) && !ahead.ends_with('\n')
    } else {
        !ahead.ends_with(|c: char| c.is_alphanumeric() && !is_cjk(c) || c == ')' || c == ']' || c == '}')
    };
    if negative { (ahead.len(), true) } else { (bare, false) }
}

/// The value of `11 5/6` or `472/100,000`, and its end; dates such as `1/2/2024` are separate numbers.
fn fraction(text: &str, at: usize, end: usize, value: BigRational) -> (BigRational, usize) {
    static MIXED: LazyLock<Regex> = LazyLock::new(|| pattern(r"^ (\d{1,9})/(\d{1,9})(?:[^\d/]|$)"));
    let rest = &text[end..];
    if !value.is_integer() || text[..at].ends_with('/') {
        return (value, end);
    }
    if let Some(found) = MIXED.captures(rest) {
        let part = |index: usize| found.get(index).map_or(("", 0), |part| (part.as_str(), part.end()));
        let (over, under) = (part(1).0.parse::<i64>(), part(2).0.parse::<i64>());
        if let (Ok(over), Ok(under @ 1..)) = (over, under) {
            return (value + BigRational::new(over.into(), under.into()), end + part(2).1);
        }
    }
    let under = rest.strip_prefix('/').and_then(|rest| numeral(rest, Comma::Separates).map(|found| (found, rest)));
    let whole = under.filter(|((under, length), rest)| {
        under.is_integer() && under.is_positive() && !rest[*length..].starts_with('/')
    });
    match whole {
        Some(((under, length), _)) => (value / under, end + 1 + length),
        None => (value, end),
    }
}

/// Whether a letter or sign right behind a number makes it part of a formula: `3x`, `5!`.
pub(super) fn goes_on(rest: &str) -> bool {
    let mut behind = rest.chars();
    match (behind.next(), behind.next()) {
        (Some('^' | '_' | '\\' | '!' | '*' | '+'), Some(next)) => !next.is_whitespace(),
        (Some(letter), next) if letter.is_ascii_lowercase() => {
            "abcfijnpqrtuvwxyz".contains(letter) && !next.is_some_and(char::is_alphabetic)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn last(text: &str) -> Option<String> {
        last_number(text).map(|found| format!("{}{}", found.value, if found.percent { "%" } else { "" }))
    }

    #[test]
    fn numbers_are_found_with_what_belongs_to_them() {
        for (text, expected) in [
            ("It is -$5.", "-5"),
            ("$-5", "-5"),
            ("x = - 5", "-5"),
            ("7-5", "5"),
            ("- 5 apples", "5"),
            ("11 5/6 cups", "71/6"),
            ("472/100,000", "59/12500"),
            ("on 1/2/2024", "2024"),
            ("1.575 x 10^1", "63/4"),
            ("2^10", "1024"),
            ("10 cm^2", "10"),
            ("10 cm^{2}", "10"),
            ("1.5 million", "1500000"),
            ("1.5k", "1500"),
            ("50 %", "50%"),
            ("it is 7, not 9", "7"),
            ("70,000 (a 54% return)", "70000"),
            ("(5)", "5"),
            ("x2 is 3", "3"),
            ("version .5", "1/2"),
            ("1. I add 5.\n2. I see", "5"),
            ("18 are left, out of 20", "18"),
            ("$12M", "12000000"),
        ] {
            assert_eq!(last(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "none", "x2", "not 9", "isn't 9", "8 is not the answer"] {
            assert_eq!(last(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_scanned_without_a_panic(text in "([0-9.,/^%$() -]|not|x|million|\\PC){0,60}") {
            for found in numbers(&text) {
                prop_assert!(found.start < found.end && found.end <= text.len());
                prop_assert!(text.is_char_boundary(found.start) && text.is_char_boundary(found.end));
            }
        }

        #[test]
        fn a_decimal_is_read_as_it_is_written(whole in 0u32..100_000, part in 0u32..100) {
            let hundredths = BigRational::new((u64::from(whole) * 100 + u64::from(part)).into(), 100.into());
            let found = last_number(&format!("It is {whole}.{part:02}.")).map(|found| found.value);
            prop_assert_eq!(found, Some(hundredths));
        }
    }
}
