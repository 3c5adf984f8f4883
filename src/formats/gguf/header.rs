//! The metadata of a GGUF file by key. Errors name the key that is missing, of the wrong type or not supported.

use crate::formats::error::{Error, Result};
use candle_core::quantized::gguf_file::{Content, Value};
use std::path::Path;

/// The metadata of a file.
pub(crate) struct Header<'a> {
    pub(crate) path: &'a Path,
    pub(crate) content: &'a Content,
}

impl Header<'_> {
    pub(crate) fn malformed(&self, why: String) -> Error {
        Error::Malformed { path: self.path.to_owned(), why }
    }

    pub(crate) fn unsupported(&self, what: &'static str, got: &str, expected: &str) -> Error {
        Error::Unsupported { path: self.path.to_owned(), what, got: got.to_owned(), expected: expected.to_owned() }
    }

    fn wrong(&self, key: &str, expected: &str, got: &Value) -> Error {
        self.malformed(format!("{key}: expected {expected}, got {:?}", got.value_type()))
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a string", other)),
        }
    }

    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>> {
        self.content.metadata.get(key).map(|value| self.whole(key, value)).transpose()
    }

    fn whole(&self, key: &str, value: &Value) -> Result<usize> {
        // The values' own conversions make an error, with the backtrace of each, of every other type.
        let whole = match *value {
            Value::U8(n) => Some(n.into()),
            Value::U16(n) => Some(n.into()),
            Value::U32(n) => usize::try_from(n).ok(),
            Value::U64(n) => usize::try_from(n).ok(),
            Value::I8(n) => usize::try_from(n).ok(),
            Value::I16(n) => usize::try_from(n).ok(),
            Value::I32(n) => usize::try_from(n).ok(),
            Value::I64(n) => usize::try_from(n).ok(),
            Value::Bool(flag) => Some(flag.into()),
            _ => None,
        };
        whole.ok_or_else(|| self.wrong(key, "a whole number from 0 up", value))
    }

    pub(crate) fn real(&self, key: &str) -> Result<Option<f32>> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::F32(number)) => Ok(Some(*number)),
            Some(Value::F64(number)) => Ok(Some(*number as f32)),
            Some(other) => Err(self.wrong(key, "a real number", other)),
        }
    }

    fn list(&self, key: &str) -> Result<Option<&[Value]>> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(other) => Err(self.wrong(key, "an array", other)),
        }
    }

    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(values) = self.list(key)? else { return Ok(None) };
        let texts = values.iter().map(|value| match value {
            Value::String(text) => Ok(text.as_str()),
            other => Err(self.wrong(key, "strings", other)),
        });
        texts.collect::<Result<_>>().map(Some)
    }

    pub(crate) fn counts(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let Some(values) = self.list(key)? else { return Ok(None) };
        values.iter().map(|value| self.whole(key, value)).collect::<Result<_>>().map(Some)
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.content.metadata.get(key).map(|value| self.yes_or_no(key, value)).transpose()
    }

    pub(crate) fn flags(&self, key: &str) -> Result<Option<Vec<bool>>> {
        let Some(values) = self.list(key)? else { return Ok(None) };
        values.iter().map(|value| self.yes_or_no(key, value)).collect::<Result<_>>().map(Some)
    }

    fn yes_or_no(&self, key: &str, value: &Value) -> Result<bool> {
        value.to_bool().map_err(|_| self.wrong(key, "true or false", value))
    }

    pub(crate) fn reals(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some(values) = self.list(key)? else { return Ok(None) };
        let real = |value: &Value| value.to_f32().map_err(|_| self.wrong(key, "real numbers", value));
        values.iter().map(real).collect::<Result<_>>().map(Some)
    }

    pub(crate) fn needed<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.malformed(format!("metadata {key} is missing")))
    }
}
