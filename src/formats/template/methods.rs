//! Python's methods of texts, lists and maps, paid for with fuel before they run.
//!
//! The methods come from `minijinja-contrib`, which charges only for the value that a call returns, once it is there: a
//! `replace` or a `join` would take any amount of memory first, and a comparison of nested lists any amount of time.

use super::bounded::{Bounded, charge, charge_items};
use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;
use std::fmt::Write as _;

/// The longest text that `join` returns.
const JOINED_BYTES_MAX: usize = 16 << 20;

/// Calls `method` of `value`.
pub(super) fn call(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.as_str(), method) {
        (Some(separator), "join") => return join(state, separator, args),
        (Some(text), "format") => charge(state, formatted_bytes(text, args)?)?,
        (Some(text), "rsplit") => {
            charge(state, bytes_of(text, "split", args))?;
            return rsplit(text, args);
        }
        (Some(text), _) => charge(state, bytes_of(text, method, args))?,
        (None, "count") if value.kind() == ValueKind::Seq => {
            let length = value.len().unwrap_or(0);
            if args
                .iter()
                .any(|wanted| !matches!(wanted.kind(), ValueKind::String | ValueKind::Number | ValueKind::Bool))
            {
                return Err(refused("count: expected a text, a number or a boolean to count"));
            }
            charge(state, length.saturating_mul(64))?;
        }
        _ => {}
    }
    unknown_method_callback(state, value, method, args)
}

fn refused(why: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.to_owned())
}

/// Bytes that `text.format(args)` reads and writes, at most. Its arguments must be texts and numbers, because nested lists can
/// hold themselves many times over, and its widths at most three digits long.
fn formatted_bytes(text: &str, args: &[Value]) -> Result<usize, Error> {
    let mut bytes = text.len();
    for arg in args {
        let inner: Vec<Value> = match arg.is_kwargs() {
            true => arg.try_iter()?.map(|key| arg.get_item(&key)).collect::<Result<_, _>>()?,
            false => vec![arg.clone()],
        };
        for value in inner {
            if matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Plain) {
                return Err(refused("format: expected texts and numbers"));
            }
            bytes = bytes.saturating_add(value.as_str().map_or(1 << 10, str::len));
        }
    }
    if text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 3) {
        return Err(refused("format: expected widths below 1000"));
    }
    // A field can be named many times.
    Ok(bytes.saturating_mul(text.matches('{').count() + 1))
}

/// Bytes that `text.method(args)` reads and writes, at most.
fn bytes_of(text: &str, method: &str, args: &[Value]) -> usize {
    let argument = |index: usize| args.get(index).and_then(Value::as_str).unwrap_or_default();
    match method {
        "replace" => {
            let (old, new) = (argument(0), argument(1));
            text.len().saturating_add(text.matches(old).count().saturating_mul(new.len()))
        }
        // Each character is compared with each of the set.
        "strip" | "lstrip" | "rstrip" => text.len().saturating_mul(argument(0).len().max(1)),
        // A part of a list takes more than its bytes.
        "split" | "splitlines" => text.len().saturating_mul(16),
        "startswith" | "endswith" => match args.first() {
            Some(list) if list.kind() == ValueKind::Seq => list.len().unwrap_or(0).saturating_mul(text.len().max(64)),
            _ => text.len(),
        },
        _ => text.len().saturating_mul(3),
    }
}

/// `str.rsplit(sep=None, maxsplit=-1)`.
fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (positional, named): (&[Value], Kwargs) = from_args(args)?;
    if positional.len() > 2 {
        return Err(refused("rsplit: expected a separator and a number of splits"));
    }
    let separator = positional.first().cloned().or(named.get("sep")?).filter(|value| !value.is_none());
    let splits: Option<i64> = match positional.get(1) {
        Some(splits) => Some(splits.clone().try_into()?),
        None => named.get("maxsplit")?,
    };
    named.assert_all_used()?;
    let pieces_max = splits.and_then(|splits| usize::try_from(splits).ok()).map(|splits| splits + 1);
    let mut pieces: Vec<&str> = match separator.as_ref().map(|separator| separator.as_str()) {
        None => words_from_the_end(text, pieces_max.unwrap_or(usize::MAX)),
        Some(Some(separator)) if !separator.is_empty() => match pieces_max {
            Some(pieces_max) => text.rsplitn(pieces_max, separator).collect(),
            None => text.rsplit(separator).collect(),
        },
        Some(_) => return Err(refused("rsplit: expected a separator of at least one character")),
    };
    pieces.reverse();
    Ok(pieces.into_iter().map(Value::from).collect())
}

/// Words from the last one on; the last of `pieces_max` pieces is all that is left before them.
fn words_from_the_end(text: &str, pieces_max: usize) -> Vec<&str> {
    let (mut rest, mut pieces) = (text.trim_end(), Vec::new());
    while !rest.is_empty() {
        let start = match pieces.len() + 1 < pieces_max {
            true => rest.char_indices().rev().find(|(_, c)| c.is_whitespace()).map(|(at, c)| at + c.len_utf8()),
            false => None,
        };
        let (before, word) = rest.split_at(start.unwrap_or(0));
        // With no splits left, Python keeps the spaces at the beginning.
        pieces.push(word);
        rest = before.trim_end();
    }
    pieces
}

/// The texts of a list with `separator` between them.
fn join(state: &State<'_, '_>, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (list,): (&Value,) = from_args(args)?;
    let mut joined = Bounded::new(JOINED_BYTES_MAX);
    for (index, item) in list.try_iter()?.enumerate() {
        charge_items(state, &item)?;
        charge(state, separator.len().saturating_add(item.as_str().map_or(64, str::len)))?;
        let separator = if index > 0 { separator } else { "" };
        write!(joined, "{separator}{item}")
            .map_err(|_| refused(&format!("join: expected a text of at most {JOINED_BYTES_MAX} bytes, got more")))?;
    }
    joined.into_text().map(Value::from).map_err(|error| refused(&error.to_string()))
}
