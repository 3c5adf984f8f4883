//! Options named by their place: "the second option", "option 2".

use super::letter::{is_denied_before, is_denied_behind};
use crate::types::pattern::pattern;
use regex::Regex;
use std::sync::LazyLock;

const PLACES: [&str; 6] = ["first", "second", "third", "fourth", "fifth", "sixth"];

/// Whether "option 2" in `text` may mean another option than the one at `index`.
pub(super) fn is_another_place(text: &str, index: usize) -> bool {
    static NUMBER: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?i)\b(?:option|choice|alternative)\s+(?:number\s+|#)?([1-9])\b"));
    NUMBER.captures_iter(text).any(|found| found[1].parse() != Ok(index + 1))
}

/// The only option that `text` names by its place and does not deny. Where options have digits, "option 2" may mean one of those.
pub(super) fn by_place(text: &str, options: &[String]) -> Option<usize> {
    static PLACE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)\b(?:(first|second|third|fourth|fifth|sixth|last)\s+(?:option|choice|answer|alternative|one)\b|(?:option|choice|alternative)\s+(?:number\s+|#)?([1-9])\b)",
        )
    });
    static LISTED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)\b(?:first|second|third|fourth|fifth|sixth|last)\s*(?:,|or|and|nor)\s+(?:the\s+)?$")
    });
    let has_digits = options.iter().any(|option| option.contains(|c: char| c.is_ascii_digit()));
    let mut named = Vec::new();
    for found in PLACE.captures_iter(text) {
        let whole = found.get(0)?;
        let (before, behind) = (&text[..whole.start()], &text[whole.end()..]);
        if LISTED.is_match(before) {
            return None;
        }
        if is_denied_before(before.trim_end_matches(' ').trim_end_matches("the")) || is_denied_behind(behind) {
            continue;
        }
        named.push(match (found.get(1), found.get(2)) {
            (Some(place), _) if place.as_str().eq_ignore_ascii_case("last") => options.len() - 1,
            (Some(place), _) => PLACES.iter().position(|known| place.as_str().eq_ignore_ascii_case(known))?,
            (None, Some(number)) if !has_digits => number.as_str().parse::<usize>().ok()?.checked_sub(1)?,
            _ => return None,
        });
    }
    named.dedup();
    match named[..] {
        [index] if index < options.len() => Some(index),
        _ => None,
    }
}
