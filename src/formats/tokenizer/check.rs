//! Checks a `tokenizer.json` before the `tokenizers` crate reads it.
//!
//! That crate tries the variants of nested parts one after the other, so its time doubles with each level; a chain of
//! replacements can make a text longer without end; and a pattern can take a million steps for each character. Knows the names
//! of parts, not their meaning.

use crate::formats::json;
use crate::formats::time_limit::{self, Limits, NoResult};
use fancy_regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The longest file. Gemma's has 33 MB.
pub(super) const FILE_BYTES_MAX: u64 = 256 << 20;
/// Levels of lists and maps. The deepest known, a template in a sequence of post-processors, has eight.
const DEPTH_MAX: usize = 12;
/// Parts of a normalizer, a pre-tokenizer, a post-processor or a decoder, at all levels. The longest known have nine.
const PARTS_MAX: usize = 64;
/// The most that all replacements of a normalizer or a decoder together may lengthen a text by. A space becomes three bytes.
const GROWTH_MAX: usize = 64;
/// The length of all patterns of splits and replacements together. The longest known have some 2,000 bytes.
const PATTERN_BYTES_MAX: usize = 8192;
/// The sum of all counted repetitions, such as the 3 of `{1,3}`, which are compiled to so many copies. Known patterns have
/// one or two, of 3 at most.
const REPETITIONS_MAX: usize = 256;
/// The texts that patterns are tried on: one of each of these characters and of those in the patterns, so many times.
const TRIED: [char; 8] = ['a', 'A', '1', ' ', '\n', '!', 'é', '日'];
const TRIED_CHARS: usize = 1024;
/// Different characters of the patterns that are tried.
const TRIED_MAX: usize = 24;
/// The most processor time for all these texts. Known tokenizers take a tenth of it.
const TRIED_TIME_MAX: Duration = Duration::from_millis(500);
const STACK_BYTES: usize = 8 << 20;

/// The parts of a file that can be nested.
#[derive(Deserialize)]
struct Parts {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
}

/// Checks the file `text`. Returns its patterns.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(text: &[u8]) -> Result<Vec<String>, String> {
    json::check(text, DEPTH_MAX)?;
    let parts: Parts = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let named = [
        ("normalizer", parts.normalizer),
        ("pre_tokenizer", parts.pre_tokenizer),
        ("post_processor", parts.post_processor),
        ("decoder", parts.decoder),
    ];
    let mut patterns = vec![];
    for (name, part) in named {
        let mut seen = Seen { parts: 0, growth: 1, patterns: &mut patterns };
        part.map_or(Ok(()), |part| seen.walk(&part)).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(patterns)
}

/// Tries the `patterns` of `tokenizer` on texts that are hard to split.
///
/// # Errors
/// If they take too long, or if one gives up: the tokenizer would leave the rest of the text in one piece, without an error.
pub(super) fn try_patterns(tokenizer: &Arc<tokenizers::Tokenizer>, patterns: &[String]) -> Result<(), String> {
    if patterns.is_empty() {
        return Ok(());
    }
    let found: BTreeSet<char> = patterns.iter().flat_map(|pattern| pattern.chars()).collect();
    let chars: BTreeSet<char> = TRIED.into_iter().chain(found.into_iter().take(TRIED_MAX)).collect();
    let tokenizer = tokenizer.clone();
    let compiled = patterns.iter().map(|pattern| Regex::new(pattern)).collect::<Result<Vec<_>, _>>();
    let compiled = compiled.map_err(|error| error.to_string())?;
    let split = move || {
        chars.into_iter().map(|c| c.to_string().repeat(TRIED_CHARS)).all(|text| {
            // An error is that of a text, and a text of such characters is nobody's.
            drop(tokenizer.encode_fast(text.as_str(), false));
            compiled.iter().all(|pattern| pattern.find_iter(&text).all(|found| found.is_ok()))
        })
    };
    // A pattern takes no memory, and ends: it takes a limited number of steps for each character.
    let limits = Limits { time: TRIED_TIME_MAX, bytes_max: None, stack_bytes: STACK_BYTES };
    match time_limit::within(limits, "rco-tokenizer", split) {
        Err(NoResult::Late(limit)) => Err(format!(
            "expected patterns that split texts of {TRIED_CHARS} equal characters within {} ms, got slower ones",
            limit.as_millis()
        )),
        Err(other) => Err(other.to_string()),
        Ok(false) => {
            Err(format!("expected patterns that split texts of {TRIED_CHARS} equal characters, got one that gives up"))
        }
        Ok(true) => Ok(()),
    }
}

/// What was seen of a chain of parts.
struct Seen<'a> {
    parts: usize,
    /// Bytes that a byte of text can become.
    growth: usize,
    /// Of all chains.
    patterns: &'a mut Vec<String>,
}

impl Seen<'_> {
    fn walk(&mut self, value: &Value) -> Result<(), String> {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(kind)) = map.get("type") {
                    self.part(kind, map.get("content"))?;
                }
                if let Some(pattern) = map.get("Regex").and_then(Value::as_str) {
                    self.pattern(pattern)?;
                }
                map.values().try_for_each(|value| self.walk(value))
            }
            Value::Array(list) => list.iter().try_for_each(|value| self.walk(value)),
            _ => Ok(()),
        }
    }

    fn part(&mut self, kind: &str, content: Option<&Value>) -> Result<(), String> {
        self.parts += 1;
        if self.parts > PARTS_MAX {
            return Err(format!("expected at most {PARTS_MAX} parts, got more"));
        }
        if let ("Replace", Some(Value::String(content))) = (kind, content) {
            self.growth = self.growth.saturating_mul(content.len().max(1));
            if self.growth > GROWTH_MAX {
                let why = "expected replacements that lengthen a text by a factor of at most";
                return Err(format!("{why} {GROWTH_MAX}, got {}", self.growth));
            }
        }
        Ok(())
    }

    fn pattern(&mut self, pattern: &str) -> Result<(), String> {
        self.patterns.push(pattern.to_owned());
        let bytes: usize = self.patterns.iter().map(String::len).sum();
        if bytes > PATTERN_BYTES_MAX {
            return Err(format!("expected patterns of at most {PATTERN_BYTES_MAX} bytes together, got {bytes}"));
        }
        let repetitions = self.patterns.iter().map(|pattern| repetitions(pattern)).fold(0, usize::saturating_add);
        match repetitions > REPETITIONS_MAX {
            true => {
                Err(format!("expected counted repetitions of at most {REPETITIONS_MAX} together, got {repetitions}"))
            }
            false => Ok(()),
        }
    }
}

/// The sum of the numbers in `{n}`, `{n,}` and `{n,m}`, of the greater of two. What looks like one within a class counts too.
fn repetitions(pattern: &str) -> usize {
    let is_count = |c: char| c.is_ascii_digit() || c == ',' || c.is_ascii_whitespace();
    let counted = pattern
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .filter(|(inner, _)| inner.chars().all(is_count));
    let greatest = |inner: &str| {
        let numbers = inner.split(',').map(str::trim).filter(|number| !number.is_empty());
        numbers.map(|number| number.parse().unwrap_or(usize::MAX)).max().unwrap_or(0)
    };
    counted.map(|(inner, _)| greatest(inner)).fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_repetitions_are_added_up() {
        for (pattern, sum) in [
            (r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)", 3),
            ("a{2}b{ 4 , }c{,5}{7}", 18),
            ("(?:a{99999999999999999999}){2}", usize::MAX),
            (r"\x{1F600}{{}}", 0),
        ] {
            assert_eq!(repetitions(pattern), sum, "{pattern}");
        }
    }
}
