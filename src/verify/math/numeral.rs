//! Written numbers: digits with thousands separators of any custom, decimal points and commas, powers of ten, and words.
//!
//! `1,234,567.5`, `12,34,567`, `1 234 567,5`, `1'234'567` and `1.234.567,5` are numbers; a lone `1.234` is a decimal. More than 400 digits
//! are none, which bounds the time.

use crate::types::pattern::pattern;
use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Signed, Zero};
use regex::Regex;
use std::sync::LazyLock;

/// Maximum digits and maximum power of ten of a number.
const DIGITS_MAX: usize = 400;
/// Maximum length of a mixed number in words.
const WORDS_BYTES_MAX: usize = 100;

/// What a comma is that separates no thousands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comma {
    /// It stands between the things of a list, and so do those between thousands.
    Lists,
    /// It stands between the things of a list.
    Separates,
    /// It is a decimal comma.
    Decimal,
}

/// The number that `text` begins with, and its length in bytes.
pub(super) fn numeral(text: &str, comma: Comma) -> Option<(BigRational, usize)> {
    static WESTERN: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\d{1,3}(?:,\d{3})+(?:\.\d+)?"));
    static INDIAN: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?"));
    static DOTTED: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^\d{1,3}(?:(?:\.\d{3}){2,}(?:,\d+)?|(?:\.\d{3})+,\d{1,2})"));
    static SPACED: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[1-9]\d{0,2}(?: \d{3})+(?:[.,]\d+)?"));
    static MARKED: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\d{1,3}(?:(?:'\d{3})+|(?:_\d{3})+)(?:\.\d+)?"));
    static COMMA: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\d+,\d+"));
    static PLAIN: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(?:\d+(?:\.\d+)?|\.\d+)"));
    if !text.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let patterns: [(&Regex, bool, char); 7] = [
        (&WESTERN, comma != Comma::Lists, '.'),
        (&INDIAN, comma != Comma::Lists, '.'),
        (&DOTTED, comma != Comma::Lists, ','),
        (&SPACED, true, '.'),
        (&MARKED, true, '.'),
        (&COMMA, comma == Comma::Decimal, ','),
        (&PLAIN, true, '.'),
    ];
    // What goes on with digits is another number, or none.
    let ends = |end: usize| {
        let mut behind = text[end..].chars();
        match (behind.next(), behind.next()) {
            (Some(',' | '.'), Some(c)) => !c.is_ascii_digit(),
            (Some(c), _) => !c.is_ascii_digit(),
            (None, _) => true,
        }
    };
    let mut found = patterns.iter().filter(|(_, applies, _)| *applies).filter_map(|(pattern, _, point)| {
        let end = pattern.find(text)?.end();
        (ends(end) || std::ptr::eq(*pattern, &raw const *PLAIN)).then_some((end, *point))
    });
    let (end, point) = found.next()?;
    // Either sign may stand before the decimals of a spaced number.
    let point = if point == '.' && !text[..end].contains('.') && text[..end].contains(' ') { ',' } else { point };
    let (exponent, end) = power_of_ten(text, end);
    let digits_end = text[..end].find(['e', 'E']).unwrap_or(end);
    Some((value(&text[..digits_end], point, exponent)?, end))
}

/// The power in `1.5e3` and where it ends; 0 where there is none, as in `2 em` and `2e`.
fn power_of_ten(text: &str, end: usize) -> (i64, usize) {
    static POWER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[eE]([+-]?\d{1,6})(?:[^A-Za-z\d]|$)"));
    match POWER.captures(&text[end..]).and_then(|found| found.get(1)) {
        Some(power) => (power.as_str().parse().unwrap_or_default(), end + power.end()),
        None => (0, end),
    }
}

fn value(written: &str, point: char, exponent: i64) -> Option<BigRational> {
    let (whole, part) = written.split_once(point).unwrap_or((written, ""));
    let digits: String = whole.chars().chain(part.chars()).filter(char::is_ascii_digit).collect();
    if digits.len() > DIGITS_MAX || exponent.unsigned_abs() as usize > DIGITS_MAX {
        return None;
    }
    let digits = BigRational::from_integer(digits.parse::<BigInt>().ok()?);
    let power = BigRational::from_integer(10.into()).pow((exponent - part.len() as i64) as i32);
    Some(digits * power)
}

/// Numbers in words, from 0.
const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
/// Tens in words, from 20.
const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];

/// The number that `text` says in English words, and nothing else: `forty-two`, `a hundred`, `two thousand and five`.
pub(super) fn in_words(text: &str) -> Option<BigRational> {
    let lower = text.trim().trim_end_matches(['.', '!']).to_lowercase();
    if let Some(mixed) = lower.rsplit_once(" and ").filter(|_| lower.len() < WORDS_BYTES_MAX).and_then(mixed) {
        return Some(mixed);
    }
    let mut words = lower.split([' ', '-']).filter(|word| !word.is_empty()).peekable();
    let negative = words.next_if(|word| ["minus", "negative"].contains(word)).is_some();
    let (mut sum, mut part, mut any, mut least) = (BigInt::zero(), BigInt::zero(), false, BigInt::from(u64::MAX));
    let place = |list: &[&str], word: &str| list.iter().position(|known| *known == word);
    for word in words {
        if lower == "half" {
            return Some(BigRational::new(1.into(), 2.into()));
        }
        // "and" stands behind hundreds and thousands alone, and "two three" is two numbers.
        let rest: BigInt = &part % 100;
        if word == "and" {
            if !any || !rest.is_zero() {
                return None;
            }
            continue;
        }
        if let Some(parts) = denominator(word).filter(|_| any && part < 10.into() && sum.is_zero()) {
            let part = BigRational::new(part, parts.into());
            return lower.ends_with(word).then(|| if negative { -part } else { part });
        }
        if let Some(small) = place(&SMALL, word) {
            let behind_tens = small < 10 && small > 0 && (&rest % 10u32).is_zero() && rest >= 20.into();
            if !(rest.is_zero() && (small > 0 || !any) || behind_tens) {
                return None;
            }
            part += small;
        } else if let Some(tens) = place(&TENS, word) {
            if !rest.is_zero() {
                return None;
            }
            part += 10 * (tens + 2);
        } else if word == "a" && !any {
            part += 1;
        } else if word == "hundred" && !part.is_zero() && part < 100.into() {
            part *= 100;
        } else {
            let scale = scale(word).filter(|scale| !part.is_zero() && *scale < least)?;
            sum += std::mem::take(&mut part) * &scale;
            least = scale;
        }
        any = true;
    }
    let sum = sum + part;
    // "a" alone says no number.
    (any && lower != "a").then(|| BigRational::from_integer(if negative { -sum } else { sum }))
}

/// The number that a whole number and a part of one in words are together: `three` and `a half`.
fn mixed((whole, part): (&str, &str)) -> Option<BigRational> {
    let (whole, part) = (in_words(whole)?, in_words(part)?);
    let is_mixed = whole.is_integer() && !part.is_integer() && part.is_positive();
    is_mixed.then(|| if whole.is_negative() { whole - part } else { whole + part })
}

/// The number of parts of a whole that a word names: `thirds`.
fn denominator(word: &str) -> Option<u32> {
    const PARTS: [&str; 9] = ["half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"];
    let word = match word.strip_suffix('s').unwrap_or(word) {
        "halve" => "half",
        "fourth" => "quarter",
        word => word,
    };
    PARTS.iter().position(|known| *known == word).map(|place| place as u32 + 2)
}

/// The last number in words of `text`, which has no digits: `There are five apples`. `one` alone is a pronoun.
pub(super) fn last_in_words(text: &str) -> Option<BigRational> {
    static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"[A-Za-z]+(?:-[A-Za-z]+)*"));
    if text.contains(|c: char| c.is_numeric()) {
        return None;
    }
    let words: Vec<&str> = WORD.find_iter(text).map(|found| found.as_str()).collect();
    let is_number = |word: &str| in_words(word).is_some() || scale(&word.to_lowercase()).is_some();
    let is_link = |word: &str| ["and", "a"].contains(&word.to_lowercase().as_str());
    let mut left = words.len();
    while let Some(last) = words[..left].iter().rposition(|word| is_number(word)) {
        let start = words[..last].iter().rposition(|word| !is_number(word) && !is_link(word));
        let start = start.map_or(0, |before| before + 1);
        let links = words[start..last].iter().take_while(|word| is_link(word)).count();
        // "A hundred" is a number, "a seven" has one.
        let start = (start..=start + links).find(|start| in_words(&words[*start..=last].join(" ")).is_some())?;
        let run = words[start..=last].join(" ");
        let ahead = start.checked_sub(1).map(|before| words[before].to_lowercase());
        let denied = ahead.is_some_and(|word| ["not", "no", "than", "of", "the"].contains(&word.as_str()));
        if !denied && !run.eq_ignore_ascii_case("one") {
            return in_words(&run);
        }
        left = start;
    }
    None
}

/// The number that a word multiplies by: `million`.
pub(super) fn scale(word: &str) -> Option<BigInt> {
    let zeros = match word {
        "hundred" => 2,
        "dozen" => return Some(12.into()),
        "thousand" => 3,
        "million" => 6,
        "billion" => 9,
        "trillion" => 12,
        _ => return None,
    };
    Some(BigInt::from(10).pow(zeros))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn written(value: i64, hundredths: i64) -> BigRational {
        BigRational::from_integer(value.into()) + BigRational::new(hundredths.into(), 100.into())
    }

    #[test]
    fn every_custom_of_writing_a_number_is_read() {
        for (text, value, length) in [
            ("1,234", written(1234, 0), 5),
            ("1,234,567.5 m", written(1_234_567, 50), 11),
            ("12,34,567", written(1_234_567, 0), 9),
            ("1,00,000 rupees", written(100_000, 0), 8),
            ("1.234.567,5", written(1_234_567, 50), 11),
            ("1.234,56", written(1234, 56), 8),
            ("70 000", written(70_000, 0), 6),
            ("1 234,5", written(1234, 50), 7),
            ("1.25", written(1, 25), 4),
            (".5", written(0, 50), 2),
            ("7.", written(7, 0), 1),
            ("1.5e3", written(1500, 0), 5),
            ("2 em", written(2, 0), 1),
            ("12,34", written(12, 0), 2),
            ("1,2,3", written(1, 0), 1),
            ("007", written(7, 0), 3),
            ("1234 567", written(1234, 0), 4),
            ("1'234'567.5", written(1_234_567, 50), 11),
            ("1_000_000", written(1_000_000, 0), 9),
            ("1011_2", written(1011, 0), 4),
        ] {
            assert_eq!(numeral(text, Comma::Separates), Some((value, length)), "{text}");
        }
        assert_eq!(numeral("13,5", Comma::Decimal), Some((written(13, 50), 4)));
        assert_eq!(numeral("1,234", Comma::Decimal), Some((written(1234, 0), 5)));
        assert_eq!(numeral("1,234", Comma::Lists), Some((written(1, 0), 1)));
        assert_eq!(numeral("x", Comma::Lists), None);
        assert_eq!(numeral(&"9".repeat(401), Comma::Separates), None);
        assert_eq!(numeral("1e999", Comma::Separates), None);
    }

    #[test]
    fn the_last_number_in_words_is_found_in_prose() {
        for (text, value) in [
            ("There are five apples.", Some(5)),
            ("two apples, not three", Some(2)),
            ("Not two but thirty-one", Some(31)),
            ("five of the twelve", Some(5)),
            ("no one", None),
            ("two and three", None),
            ("more than seven", None),
            ("five, or 6", None),
        ] {
            assert_eq!(last_in_words(text), value.map(|value| written(value, 0)), "{text}");
        }
    }

    #[test]
    fn numbers_in_words_are_whole_texts() {
        for (text, value) in [
            ("seven", 7),
            ("Forty-two.", 42),
            ("a hundred", 100),
            ("two thousand and five", 2005),
            ("three hundred twenty-one million", 321_000_000),
            ("minus nine", -9),
            ("fifteen hundred", 1500),
            ("one hundred and twenty-one", 121),
        ] {
            assert_eq!(in_words(text), Some(written(value, 0)), "{text}");
        }
        for (text, over, under) in [
            ("one half", 1, 2),
            ("two-thirds", 2, 3),
            ("three quarters", 3, 4),
            ("a third", 1, 3),
            ("three and a half", 7, 2),
        ] {
            assert_eq!(in_words(text), Some(BigRational::new(over.into(), under.into())), "{text}");
        }
        assert_eq!(in_words("two dozen"), Some(written(24, 0)));
        for text in [
            "",
            "a",
            "seven apples",
            "hundred",
            "no",
            "million",
            "third",
            "two third parties",
            "two and three",
            "five six",
            "twenty thirteen",
            "one million two million",
        ] {
            assert_eq!(in_words(text), None, "{text}");
        }
    }
}
