//! Verdicts of JSON replies that rank or score both answers: `{"ranking": ["B", "A"]}`, `{"scores": {"A": 3, "B": 7}}`.
//!
//! Numbers of a kind that is not known, such as counts of errors, say nothing.

use crate::types::Choice;
use serde_json::{Map, Value};

/// Places at which JSON may begin that are tried.
const STARTS_MAX: usize = 8;
/// Maximum nesting that is read.
const DEPTH_MAX: usize = 4;
/// Words of a key that say that a higher number is better, or a lower one.
const SCORES: [&str; 9] =
    ["score", "rating", "grade", "point", "overall", "total", "quality", "probability", "confidence"];
const RANKS: [&str; 4] = ["rank", "order", "place", "position"];
/// Words of a key or name beside the letter of an answer.
const NOUNS: [&str; 9] =
    ["answer", "response", "assistant", "model", "option", "candidate", "output", "solution", "choice"];

/// What numbers or a list mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The higher is better.
    Score,
    /// The lower is better; the first of a list is best.
    Rank,
    Unknown,
}

/// The verdict of the JSON in `text`; `None` if it compares no answers, `Some(None)` if it is not clear which is better.
pub(super) fn ranked(text: &str) -> Option<Option<Choice>> {
    let starts = text.match_indices(['{', '[']).map(|(at, _)| at).take(STARTS_MAX);
    let value = |at: usize| serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>().next()?.ok();
    of(&starts.filter_map(value).next()?, Kind::Score, DEPTH_MAX)
}

fn of(value: &Value, kind: Kind, depth: usize) -> Option<Option<Choice>> {
    match value {
        Value::Object(fields) if depth > 0 => of_fields(fields, kind, depth),
        Value::Array(items) => of_items(items, kind),
        _ => None,
    }
}

fn of_fields(fields: &Map<String, Value>, kind: Kind, depth: usize) -> Option<Option<Choice>> {
    let mut sides: [Option<(f64, Kind)>; 2] = [None; 2];
    for (key, value) in fields {
        if let Some(choice) = named(key) {
            let own = Some(meaning(key)).filter(|own| *own != Kind::Unknown).unwrap_or(kind);
            sides[usize::from(choice == Choice::B)] =
                number(value).map(|number| (number, own)).or_else(|| inside(value));
        }
    }
    if let [Some((a, kind)), Some((b, other))] = sides {
        return Some(if kind == other { compared(a, b, kind) } else { None });
    }
    let mut verdicts: Vec<Option<Choice>> =
        fields.iter().filter_map(|(key, value)| of(value, meaning(key), depth - 1)).collect();
    verdicts.dedup();
    match verdicts[..] {
        [] => None,
        [verdict] => Some(verdict),
        _ => Some(None),
    }
}

/// A ranking of both names, or two objects with a name and a number each.
fn of_items(items: &[Value], kind: Kind) -> Option<Option<Choice>> {
    let [first, second] = items else { return None };
    if let (Some(first), Some(second)) = (spoken(first), spoken(second)) {
        return Some(Some(first).filter(|_| kind == Kind::Rank && first != second));
    }
    let side = |item: &Value| Some((item.as_object()?.values().find_map(spoken)?, inside(item)?));
    let ((one, (a, kind)), (two, (b, other))) = (side(first)?, side(second)?);
    let verdict = match (one, two) {
        (Choice::A, Choice::B) if kind == other => compared(a, b, kind),
        (Choice::B, Choice::A) if kind == other => compared(b, a, kind),
        _ => None,
    };
    Some(verdict)
}

/// The number of an object under a key that says what it means.
fn inside(value: &Value) -> Option<(f64, Kind)> {
    let fields = value.as_object()?;
    let mut known = fields.iter().filter_map(|(key, value)| {
        let kind = meaning(key);
        Some((number(value)?, kind)).filter(|_| kind != Kind::Unknown)
    });
    let first = known.next()?;
    known.next().is_none().then_some(first)
}

fn compared(a: f64, b: f64, kind: Kind) -> Option<Choice> {
    match kind {
        _ if a == b && kind != Kind::Unknown => Some(Choice::Tie),
        Kind::Score => Some(if a > b { Choice::A } else { Choice::B }),
        Kind::Rank => Some(if a < b { Choice::A } else { Choice::B }),
        Kind::Unknown => None,
    }
}

/// A number, which may stand before what it is out of: `"7/10"`.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.split('/').next()?.trim().trim_end_matches('%').parse().ok(),
        _ => None,
    }
}

fn meaning(key: &str) -> Kind {
    let key = key.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| key.contains(word));
    match (has(&SCORES), has(&RANKS)) {
        (_, true) => Kind::Rank,
        (true, false) => Kind::Score,
        (false, false) => Kind::Unknown,
    }
}

/// The answer that a string or number is the name of.
fn spoken(value: &Value) -> Option<Choice> {
    match value {
        Value::String(text) => named(text),
        Value::Number(number) => named(&number.to_string()),
        _ => None,
    }
}

/// The answer that `key` names: `A`, `answer b`, `score A`, `response 2`.
fn named(key: &str) -> Option<Choice> {
    let lower = key.to_lowercase();
    let known = |word: &&str| SCORES.iter().chain(&RANKS).chain(&NOUNS).any(|known| word.starts_with(known));
    let mut letters = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty() && !known(word));
    let choice = match letters.next()? {
        "a" | "1" => Choice::A,
        "b" | "2" => Choice::B,
        _ => return None,
    };
    letters.next().is_none().then_some(choice)
}
