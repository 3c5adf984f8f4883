//! Python's methods of texts, lists and maps, paid for with fuel before they run.
//!
//! The methods come from `minijinja-contrib`, which charges only for the value that a call returns, once it is there: a
//! `replace` or a `join` would take any amount of memory first, and a comparison of nested lists any amount of time.

use super::bounded::{Bounded, charge, charge_items};
use minijinja::value::{Value, ValueKind, from_args};
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
