//! One notation for what is written in many: full-width digits, superscripts, vulgar fractions, dashes, LaTeX's spaces.

use super::repeating::repeating;
use crate::types::pattern::pattern;
use regex::{Captures, Regex};
use std::sync::LazyLock;
use unicode_normalization::UnicodeNormalization;

/// What stands for something else wherever it stands. LaTeX's spaces come before its signs, which may follow them.
const SAME: [(&str, &str); 50] = [
    ("\u{2212}", "-"),
    ("\u{2010}", "-"),
    ("\u{2011}", "-"),
    ("\u{2014}", " "),
    ("\u{d7}", "*"),
    ("\u{b7}", "*"),
    ("\u{22c5}", "*"),
    ("\u{f7}", "/"),
    ("\u{2044}", "/"),
    ("\u{2215}", "/"),
    ("\u{2264}", "\\le "),
    ("\u{2265}", "\\ge "),
    ("\u{2260}", "\\ne "),
    ("\u{2248}", "\\approx "),
    ("\u{2205}", "\\emptyset "),
    ("\\varnothing", "\\emptyset"),
    ("\\euro", "€"),
    ("\\pounds", "£"),
    ("{-}", "-"),
    ("\\framebox", "\\boxed"),
    ("\u{221e}", "\\infty "),
    ("\u{221a}", "\\sqrt "),
    ("\u{b1}", "\\pm "),
    ("\u{222a}", "\\cup "),
    ("\u{2208}", "\\in "),
    ("^{\u{b0}}", "^\\circ "),
    ("^\u{b0}", "^\\circ "),
    ("\u{b0}", "^\\circ "),
    ("^{\\degree}", "^\\circ "),
    ("^\\degree", "^\\circ "),
    ("\\degree", "^\\circ "),
    ("\u{2261}", "="),
    ("\u{230a}", "\\lfloor "),
    ("\u{230b}", "\\rfloor "),
    ("\u{2308}", "\\lceil "),
    ("\u{2309}", "\\rceil "),
    ("{,}", ","),
    ("\\!", ""),
    ("\\,", " "),
    ("\\;", " "),
    ("\\:", " "),
    ("~", " "),
    ("\\%", "%"),
    ("\\$", "$"),
    ("\\times", "*"),
    ("\\cdot", "*"),
    ("\\fbox", "\\boxed"),
    ("\u{201c}", "\""),
    ("\u{201d}", "\""),
    ("\u{2019}", "'"),
];

/// Vulgar fractions.
const FRACTIONS: [(char, &str); 18] = [
    ('½', "1/2"),
    ('⅓', "1/3"),
    ('⅔', "2/3"),
    ('¼', "1/4"),
    ('¾', "3/4"),
    ('⅕', "1/5"),
    ('⅖', "2/5"),
    ('⅗', "3/5"),
    ('⅘', "4/5"),
    ('⅙', "1/6"),
    ('⅚', "5/6"),
    ('⅐', "1/7"),
    ('⅛', "1/8"),
    ('⅜', "3/8"),
    ('⅝', "5/8"),
    ('⅞', "7/8"),
    ('⅑', "1/9"),
    ('⅒', "1/10"),
];

/// `text` in plain notation.
pub(super) fn plain(text: &str) -> String {
    let text = if text.is_ascii() { text.to_owned() } else { spelled(text).nfkc().collect() };
    let text =
        SAME.iter().fold(text, |text, (from, to)| if text.contains(from) { text.replace(from, to) } else { text });
    repeating(&dollars_and_cents(&signs(&dashes(&text))))
}

/// Minus signs in words (`negative 5`) and LaTeX's space (`1\ 000`) as signs; currencies in letters (`USD 5`) are left out.
fn signs(text: &str) -> String {
    static NEGATIVE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)(^\W*|\b(?:is|are|be|equals|answer)[:=]?\s+|\\text\{\s*|[{=:(]\s*)(?:negative|minus)[}\s]+([$\d.\\(])",
        )
    });
    static SPACE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(^|[^\\])\\ "));
    // The modulus of a congruence is no part of its value.
    static MODULUS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"\s*\(\s*(?:\\(?:text|mathrm|operatorname)\s*\{\s*)?\\?b?mod\s*\}?\s*\d+\s*\}?\s*\)|\s*\\pmod\s*(?:\{\s*\d+\s*\}|\d+)",
        )
    });
    static CURRENCY: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"\b(?:(?:USD|EUR|GBP|INR|JPY|CNY|Rs\.?)\s*|(?:US|CA|AU|HK))([$\d])"));
    let negative = |found: &Captures<'_>| {
        let lead = found[1].strip_suffix("\\text{").unwrap_or(&found[1]);
        format!("{lead}-{}", &found[2])
    };
    let text = NEGATIVE.replace_all(text, negative);
    let text = SPACE.replace_all(&text, "$1 ");
    let text = if text.contains("mod") { MODULUS.replace_all(&text, "") } else { text };
    CURRENCY.replace_all(&text, "$1").into_owned()
}

/// Superscripts and vulgar fractions in ASCII, which their compatibility forms are not: `11½` would be 111/2.
fn spelled(text: &str) -> String {
    let mut spelled = String::with_capacity(text.len() + 16);
    let mut raised = false;
    for c in text.chars() {
        let superscript = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻".chars().position(|known| known == c);
        if superscript.is_some() != raised {
            spelled += if raised { "}" } else { "^{" };
            raised = !raised;
        }
        let c = western_digit(c);
        match (superscript, FRACTIONS.iter().find(|(known, _)| *known == c)) {
            (Some(place), _) => spelled.push(b"0123456789-"[place].into()),
            (None, Some((_, fraction))) => {
                if spelled.ends_with(|c: char| c.is_ascii_digit()) {
                    spelled.push(' ');
                }
                spelled += fraction;
            }
            (None, None) => spelled.push(c),
        }
    }
    if raised {
        spelled.push('}');
    }
    spelled
}

/// `c` as a digit from 0 to 9, if it is one of another script.
fn western_digit(c: char) -> char {
    const ZEROS: [char; 5] = ['\u{660}', '\u{6f0}', '\u{966}', '\u{9e6}', '\u{e50}'];
    let value = |zero: char| (c as u32).checked_sub(zero as u32).filter(|value| *value < 10);
    ZEROS.into_iter().find_map(value).and_then(|value| char::from_digit(value, 10)).unwrap_or(c)
}

/// En dashes as minus signs, but between numbers, where they say "to".
fn dashes(text: &str) -> String {
    static RANGE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(\d)\x{2013}(\d)"));
    if !text.contains('\u{2013}') {
        return text.to_owned();
    }
    RANGE.replace_all(text, "$1 to $2").replace('\u{2013}', "-")
}

/// `29 dollars and 5 cents` as `29.05 dollars`.
fn dollars_and_cents(text: &str) -> String {
    static CENTS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b(\d+) dollars? and (\d{1,2}) cents?\b"));
    let joined = |found: &Captures<'_>| format!("{}.{:0>2} dollars", &found[1], &found[2]);
    if text.contains(" cent") { CENTS.replace_all(text, joined).into_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_many_ways_is_one() {
        for (text, expected) in [
            ("７ m²", "7 m^{2}"),
            ("11½", "11 1/2"),
            ("½", "1/2"),
            ("3–5 and –2", "3 to 5 and -2"),
            ("70\u{202f}000", "70 000"),
            (r"70{,}000\,\%", "70,000 %"),
            ("29 dollars and 5 cents", "29.05 dollars"),
            ("x ≤ 5", "x \\le  5"),
            ("١٨", "18"),
            ("It is negative 5", "It is -5"),
            (r"\text{negative }5", "-5"),
            ("16 minus 3", "16 minus 3"),
            (r"1\ 000", "1 000"),
            (r"1 \\ 2", r"1 \\ 2"),
            ("USD 18.90 or US$5", "18.90 or $5"),
        ] {
            assert_eq!(plain(text), expected, "{text}");
        }
    }
}
