//! What prose says of a number besides stating it: that it bounds, begins a range, is asked for, taken back or contradicted.

use super::expression::read;
use super::numeral::{Comma, numeral};
use crate::types::pattern::pattern;
use num_rational::BigRational;
use regex::Regex;
use std::sync::LazyLock;

/// An amount with its sign, currency and percent sign.
const AMOUNT: &str = r"[$€£¥₹]?\s?\d+(?:[.,]\d+)*\s?%?";

/// Maximum length of a text that may be an equation as a whole.
const WHOLE_BYTES_MAX: usize = 200;

/// Whether all of `text` is two numbers with a hyphen or "to" between them, which is a range as well as a difference: `10-12 cm`.
pub(super) fn is_range(text: &str) -> bool {
    static RANGE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(&format!(
            r"^(?:(?i:about|around|roughly|approximately|between|from)\s+)?{AMOUNT}\s*(?:-|to)\s*{AMOUNT}(?:(?:\s+[A-Za-z]|[A-Za-z]{{2}})[A-Za-z ]*)?\.?$"
        ))
    });
    RANGE.is_match(text)
}

/// Whether `text` begins with a range: `3 to 5 days`.
pub(super) fn opens_range(text: &str) -> bool {
    static OPENS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(&format!(r"^{AMOUNT}(?:\s*-\s*|\s+to\s+){AMOUNT}(?:[^\dA-Za-z+*/^]*$|\s+[A-Za-z]|[A-Za-z]{{2}})"))
    });
    OPENS.is_match(text) && !text.contains('=')
}

/// Whether the number `value` between `before` and `behind` is part of something else: a formula, a time, a date, a range, a bound.
pub(super) fn belongs(before: &str, value: &BigRational, behind: &str) -> bool {
    static GOES_ON: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"^(?:\s*(?:π|\^)|\\(?:sqrt|pi)|[inxyz](?:[^\p{L}\d]|$)|\+(?:\s|$)|-?ish\b|\s+(?:\w+\s+)?or (?:more|less|fewer|above|below|higher|lower|over|under)\b)",
        )
    });
    static BELONGS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?:sqrt\s*[({]?\s*|\d:|\d{4}-\d\d-|(?i:\b(?:more|less|fewer|greater|larger|smaller|higher|lower|bigger)\s+than\s+)|(?:^|[^=-])[<>]=?\s*|\\(?:ge|le|geq|leq|gt|lt|geqslant|leqslant)\s*)$",
        )
    });
    static TO: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)(\bfrom\s+)?(?:[$€£¥₹]?\d[\d.,]*%?\s+to\s+|\b(between)\s+\S+(?:\s+\w+)?\s+and\s+)$")
    });
    static HYPHEN: LazyLock<Regex> = LazyLock::new(|| pattern(r"(\d+(?:[.,]\d+)*)\s?%?\s?-\s?$"));
    let ascends = HYPHEN.captures(before).and_then(|found| numeral(found.get(1)?.as_str(), Comma::Separates));
    // `<b>5</b>`
    static TAG: LazyLock<Regex> = LazyLock::new(|| pattern(r"</?[A-Za-z]\w*>\s*$"));
    let before = TAG.find(before).map_or(before, |tag| &before[..tag.start()]);
    // "from 3 to 5" may say where something arrives.
    let in_range = TO.captures(before).is_some_and(|found| found.get(1).is_none());
    GOES_ON.is_match(behind) || BELONGS.is_match(before) || in_range || ascends.is_some_and(|(low, _)| low < *value)
}

/// Whether the last sentence of `text` says that there is no answer.
pub(super) fn gives_up(text: &str) -> bool {
    static GIVES_UP: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)\b(?:i (?:do not|don't|really don't) know|(?:cannot|can't|can not|could not|couldn't|unable to|not able to|impossible to) (?:\w+ )?(?:solve|determine|answer|find|compute|calculate|be (?:determined|solved|answered|found))|(?:not enough|insufficient) information)\b[^.!?\n]*[.!?\s]*$",
        )
    });
    GIVES_UP.is_match(text)
}

/// Whether `text` ends by calling wrong what it said.
pub(super) fn takes_back(text: &str) -> bool {
    static TAKES_BACK: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)(?:[.!?}\n]|\bwait|\bno|\bhmm|\bactually|-)[,.]?\s*(?:wait,? |no,? |but )?(?:that|this|it)(?:'s| is| was| can't be| cannot be) (?:wrong|incorrect|not (?:right|correct)|a mistake|right|correct)[.!\s]*$",
        )
    });
    static RIGHT: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)(?:is|'s|was) (?:right|correct)[.!\s]*$"));
    TAKES_BACK.is_match(text) && !RIGHT.is_match(text)
}

/// Whether `text` ends with an equation of numbers whose sides differ: `2 + 3 = 6`.
pub(super) fn contradicts(text: &str) -> bool {
    static EQUATION: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"([\d(.$][\d\s.,+*/()$-]*[+*/-][\d\s.,+*/()$-]*)=\s*(-?[$]?\d[\d.,]*)[^\d=+*/^\\%-]*$")
    });
    let reads = |text: &str| read(text, Comma::Separates).is_some();
    if let Some((left, right)) =
        text.trim().trim_end_matches('.').rsplit_once('=').filter(|_| text.len() < WHOLE_BYTES_MAX)
    {
        let differ = |comma| read(&format!("{left} = {right}"), comma).is_none();
        if reads(left) && reads(right) && differ(Comma::Separates) && differ(Comma::Decimal) {
            return true;
        }
    }
    let Some(found) = EQUATION.captures(text) else { return false };
    let (left, right) = (found[1].trim(), found[2].trim_end_matches(['.', ',']));
    let whole = format!("{left} = {right}");
    reads(left) && reads(right) && !reads(&whole) && read(&whole, Comma::Decimal).is_none()
}

/// `text` without lines that say how sure it is.
pub(super) fn without_confidence(text: &str) -> String {
    static CONFIDENCE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?im)^\W*confidence\b.*$"));
    if text.len() > 10 { CONFIDENCE.replace_all(text, "").into_owned() } else { text.to_owned() }
}
