//! Repeating decimals as fractions: `0.\overline{3}`, `0.\dot{1}4285\dot{7}`, `0.(3)` and `0.333...` are `\frac{1}{3}`.
//!
//! Dots behind decimals stand for a period only if the digits show it: `3.14159...` is left as it is.

use crate::types::pattern::pattern;
use num_bigint::BigInt;
use num_rational::BigRational;
use regex::{Captures, Regex};
use std::sync::LazyLock;

/// Maximum digits.
const DIGITS_MAX: usize = 60;

/// `text`, in plain notation, without repeating decimals.
pub(super) fn repeating(text: &str) -> String {
    static LINE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(^|[^\d.,])(\d*)\.(\d*)\\(?:overline|bar|dot)\s*(?:\{\s*(\d+)\s*\}|(\d))(?:(\d*)\\dot\s*(?:\{\s*(\d)\s*\}|(\d)))?",
        )
    });
    static BRACKET: LazyLock<Regex> = LazyLock::new(|| pattern(r"(^|[^\d.,])(\d+)[.,]()\((\d+)\)"));
    static DOTS: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(^|[^\d.,])(\d+)\.(\d{2,})(?:\.{3,}|\s*\\(?:ldots|dots|cdots)\b)"));
    // A line over each digit.
    static OVERLINES: LazyLock<Regex> = LazyLock::new(|| pattern(r"(^|[^\d.,])(\d*)\.(\d*?)((?:\d\x{305})+)"));
    let part = |found: &Captures<'_>, group: usize| found.get(group).map_or("", |part| part.as_str()).to_owned();
    let marked = |found: &Captures<'_>| {
        let period: String = (4..=8).map(|group| part(found, group)).collect();
        let period: String = period.chars().filter(char::is_ascii_digit).collect();
        written(&found[1], &found[2], &found[3], &period).unwrap_or_else(|| found[0].to_owned())
    };
    let shown = |found: &Captures<'_>| {
        let fraction = period(&found[3]).and_then(|length| {
            let (ahead, period) = found[3].split_at(found[3].len() - length);
            written(&found[1], &found[2], ahead, period)
        });
        fraction.unwrap_or_else(|| found[0].to_owned())
    };
    let mut text = text.to_owned();
    for (mark, pattern) in [("\\", &LINE), ("(", &BRACKET), ("\u{305}", &OVERLINES)] {
        if text.contains(mark) {
            text = pattern.replace_all(&text, marked).into_owned();
        }
    }
    if text.contains("...") || text.contains("dots") { DOTS.replace_all(&text, shown).into_owned() } else { text }
}

/// The length of the period that `digits` end with.
fn period(digits: &str) -> Option<usize> {
    let digits = digits.as_bytes();
    (1..=digits.len() / 2).find(|&length| {
        let again =
            digits.iter().rev().zip(digits.iter().rev().skip(length)).take_while(|(one, two)| one == two).count();
        match length {
            1 => again >= 2 || again + 1 == digits.len(),
            _ => again >= length,
        }
    })
}

/// The fraction that is `whole.ahead` and then `period` for ever.
fn written(before: &str, whole: &str, ahead: &str, period: &str) -> Option<String> {
    let count = [whole, ahead, period].map(str::len).iter().sum::<usize>();
    let number = |digits: &str| format!("0{digits}").parse::<BigInt>().ok();
    if period.is_empty() || count > DIGITS_MAX {
        return None;
    }
    let ten = |power: usize| BigInt::from(10).pow(power as u32);
    let without = number(&format!("{whole}{ahead}"))?;
    let over = number(&format!("{whole}{ahead}{period}"))? - without;
    let value = BigRational::new(over, ten(ahead.len()) * (ten(period.len()) - 1));
    Some(if value.is_integer() {
        format!("{before}{value}")
    } else {
        format!("{before}\\frac{{{}}}{{{}}}", value.numer(), value.denom())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeating_decimals_become_fractions() {
        for (text, expected) in [
            (r"0.\overline{3}", r"\frac{1}{3}"),
            (r"-0.1\overline{6}", r"-\frac{1}{6}"),
            (r".\bar3", r"\frac{1}{3}"),
            (r"0.\dot{1}4285\dot{7}", r"\frac{1}{7}"),
            (r"0.\dot{3}", r"\frac{1}{3}"),
            ("0.(3) m", r"\frac{1}{3} m"),
            ("0,(27)", r"\frac{3}{11}"),
            ("x = 1.666...", r"x = \frac{5}{3}"),
            (r"0.2727\ldots", r"\frac{3}{11}"),
            ("0.142857142857...", r"\frac{1}{7}"),
            ("0.33...", r"\frac{1}{3}"),
            ("0.999...", "1"),
            ("0.3\u{305}", r"\frac{1}{3}"),
            ("3.14159...", "3.14159..."),
            ("1.41...", "1.41..."),
            ("2.5(4)", "2.5(4)"),
            ("and so on...", "and so on..."),
            ("1, 2, 3, ...", "1, 2, 3, ..."),
        ] {
            assert_eq!(repeating(text), expected, "{text}");
        }
    }
}
