//! Lines that begin with an option's letter: a list of the options, a verdict on each.

use super::letter::{at_letter, folded};
use crate::types::pattern::pattern;
use regex::Regex;
use std::sync::LazyLock;

/// The lines of `text` that begin with the letter of an option: the line, the option and the rest of the line.
fn labelled<'a>(text: &'a str, options: &[String]) -> Vec<(&'a str, usize, &'a str)> {
    static LABEL: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"^[\s*_>-]*(?:(?i:option|choice)\s+)?\(?([A-Z])(?:[)*_]*[.:)][)*_]*|\)|\*\*)\s*(\S.*)$")
    });
    let label = |line: &'a str| {
        let found = LABEL.captures(line)?;
        Some((line, at_letter(&found[1], options)?, found.get(2)?.as_str()))
    };
    text.lines().filter_map(label).collect()
}

fn bare(text: &str) -> String {
    folded(text.trim_matches(|c: char| c.is_whitespace() || "*_.;,".contains(c)))
}

/// `text` without lines that only repeat the options.
pub(super) fn without_list(text: &str, options: &[String]) -> String {
    let repeated: Vec<&str> = labelled(text, options)
        .into_iter()
        .filter(|(_, index, rest)| bare(rest) == bare(&options[*index]))
        .map(|(line, ..)| line)
        .collect();
    if repeated.len() < 2 {
        return text.to_owned();
    }
    text.lines().filter(|line| !repeated.contains(line)).collect::<Vec<_>>().join("\n")
}

/// The only option that a list of verdicts calls right; `None` if there is no such list, `Some(None)` if several are, or none: `A. Wrong.` and `B. Correct.` on lines of their own.
pub(super) fn by_verdicts(text: &str, options: &[String]) -> Option<Option<usize>> {
    static WRONG: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?i)\b(?:incorrect|wrong|false|no|not|cannot|untrue)\b|n't\b|[✗✘❌×]"));
    static RIGHT: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)\b(?:correct|right|true|yes)\b|[✓✔✅]"));
    let lines = labelled(text, options);
    let mut right = Vec::new();
    for (_, index, rest) in &lines {
        let (rest, option) = (folded(rest), folded(&options[*index]));
        let verdict = rest.strip_prefix(&option).unwrap_or(&rest);
        match (WRONG.is_match(verdict), RIGHT.is_match(verdict)) {
            (true, _) => {}
            (false, true) => right.push(*index),
            (false, false) => return None,
        }
    }
    let only = right.first().copied().filter(|_| right.len() == 1);
    (lines.len() > 1).then_some(only)
}

/// Whether a line or the list in one of `text` names a letter besides `chosen`: `B` and `C` on lines of their own, `A: 0.1, B: 0.7`.
pub(super) fn lists_letters(text: &str, chosen: &str) -> bool {
    static LINE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^[\s*_`(\[]*([A-Z])[\s*_`)\].,]*$"));
    static LABEL: LazyLock<Regex> = LazyLock::new(|| pattern(r"[,;]\s*\(?([A-Z])\s*[:=]"));
    let line = text.trim_start().lines().next().unwrap_or_default();
    let others = |mention: &Regex, text: &str| mention.captures_iter(text).any(|found| found[1] != *chosen);
    others(&LINE, text) || others(&LABEL, line)
}
