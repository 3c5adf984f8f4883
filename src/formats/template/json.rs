//! `tojson` as transformers defines it: Python's `json.dumps`.

use super::bounded::{self, Bounded, RENDERED_BYTES_MAX};
use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind, State};
use serde::Serialize as _;
use serde_json::Value as Json;
use serde_json::ser::{Formatter, Serializer};
use std::io::{Result as IoResult, Write};

/// Spaces of an indent.
const INDENT_MAX: usize = 64;
/// The longest separator.
const SEPARATOR_BYTES_MAX: usize = 64;

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(state: &State<'_, '_>, value: Value, options: Kwargs) -> Result<Value, Error> {
    let invalid = |error: &dyn std::fmt::Display| Error::new(ErrorKind::InvalidOperation, error.to_string());
    let indent: Option<usize> = options.get("indent")?;
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    if let Some(got) = indent.filter(|spaces| *spaces > INDENT_MAX) {
        return Err(invalid(&format!("tojson: expected an indent of at most {INDENT_MAX}, got {got}")));
    }
    let [item, key] = match separators.map(<[String; 2]>::try_from) {
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_owned),
        Some(Ok(two)) if two.iter().all(|text| text.len() <= SEPARATOR_BYTES_MAX) => two,
        Some(_) => return Err(invalid(&"tojson: expected separators of an item and a key, two short texts")),
    };
    let formatter = Python { indent, item, key, ascii, level: 0, is_empty: false };
    let mut text = Bounded::new(RENDERED_BYTES_MAX);
    let written = match sorted {
        true => {
            bounded::charge_items(state, &value)?;
            let value = serde_json::to_value(&value).map_err(|error| invalid(&error))?;
            by_key(value).serialize(&mut Serializer::with_formatter(&mut text, formatter))
        }
        false => value.serialize(&mut Serializer::with_formatter(&mut text, formatter)),
    };
    written.map_err(|error| invalid(&error))?;
    let text = text.into_text().map_err(|error| invalid(&error))?;
    bounded::charge(state, text.len())?;
    Ok(Value::from_safe_string(text))
}

/// `value` with the keys of every map in order.
fn by_key(value: Json) -> Json {
    match value {
        Json::Array(list) => list.into_iter().map(by_key).collect(),
        Json::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().map(|(key, value)| (key, by_key(value))).collect();
            entries.sort_by(|one, two| one.0.cmp(&two.0));
            Json::Object(entries.into_iter().collect())
        }
        other => other,
    }
}

/// Python's layout of JSON.
struct Python {
    indent: Option<usize>,
    /// Between two items, and between a key and its value.
    item: String,
    key: String,
    /// Writes other characters than ASCII as escapes.
    ascii: bool,
    level: usize,
    /// The list or map that is open has no item yet.
    is_empty: bool,
}

impl Python {
    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> IoResult<()> {
        self.level += 1;
        self.is_empty = true;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> IoResult<()> {
        self.level -= 1;
        if !self.is_empty {
            self.new_line(writer)?;
        }
        self.is_empty = false;
        writer.write_all(bracket)
    }

    fn new_line<W: ?Sized + Write>(&self, writer: &mut W) -> IoResult<()> {
        let Some(spaces) = self.indent else { return Ok(()) };
        writer.write_all(b"\n")?;
        (0..self.level).try_for_each(|_| writer.write_all(&[b' '; INDENT_MAX][..spaces]))
    }

    fn begin<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> IoResult<()> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.is_empty = false;
        self.new_line(writer)
    }
}

impl Formatter for Python {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> IoResult<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> IoResult<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> IoResult<()> {
        self.begin(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> IoResult<()> {
        self.is_empty = false;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> IoResult<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> IoResult<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> IoResult<()> {
        self.begin(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> IoResult<()> {
        writer.write_all(self.key.as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> IoResult<()> {
        if !self.ascii || fragment.is_ascii() {
            return writer.write_all(fragment.as_bytes());
        }
        for c in fragment.chars() {
            match c.is_ascii() {
                true => writer.write_all(&[c as u8])?,
                false => c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?,
            }
        }
        Ok(())
    }
}
