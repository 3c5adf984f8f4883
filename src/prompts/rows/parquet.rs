//! The rows of a Parquet file.
//!
//! The crate that reads it is given a file and never more rows than allowed. Where it panics on a malformed file, that is an error.

use crate::prompts::line::Fields;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Number, Value};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How deep lists and groups may lie in each other.
const DEPTH_MAX: usize = 16;

/// The rows of `file`.
///
/// # Errors
/// If it is no Parquet file, or has more than `rows_max` rows.
pub(super) fn read(file: File, rows_max: usize) -> Result<Vec<Fields>, String> {
    let read = catch_unwind(AssertUnwindSafe(|| rows(file, rows_max)));
    read.unwrap_or_else(|_| Err("expected a whole Parquet file, got one that cannot be read".to_owned()))
}

fn rows(file: File, rows_max: usize) -> Result<Vec<Fields>, String> {
    let expected = |error: parquet::errors::ParquetError| format!("expected a whole Parquet file: {error}");
    let reader = SerializedFileReader::new(file).map_err(expected)?;
    let count = reader.metadata().file_metadata().num_rows();
    if usize::try_from(count).map_or(true, |count| count > rows_max) {
        return Err(format!("expected at most {rows_max} rows, got {count}"));
    }
    let mut rows = Vec::new();
    for row in reader.get_row_iter(None).map_err(expected)? {
        rows.push(fields(&row.map_err(expected)?, 0));
    }
    Ok(rows)
}

fn fields(row: &Row, depth: usize) -> Fields {
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field, depth + 1))).collect()
}

/// A value as JSON. What a prompt cannot use, such as a date, is the text that people read.
fn value(field: &Field, depth: usize) -> Value {
    if depth > DEPTH_MAX {
        return Value::Null;
    }
    match field {
        Field::Null => Value::Null,
        Field::Bool(flag) => Value::from(*flag),
        Field::Byte(whole) => Value::from(*whole),
        Field::Short(whole) => Value::from(*whole),
        Field::Int(whole) => Value::from(*whole),
        Field::Long(whole) => Value::from(*whole),
        Field::UByte(whole) => Value::from(*whole),
        Field::UShort(whole) => Value::from(*whole),
        Field::UInt(whole) => Value::from(*whole),
        Field::ULong(whole) => Value::from(*whole),
        Field::Float16(real) => number(f64::from(*real)),
        // Its shortest text, so that 0.1 stays 0.1.
        Field::Float(real) => number(real.to_string().parse().unwrap_or_else(|_| f64::from(*real))),
        Field::Double(real) => number(*real),
        Field::Str(text) => Value::from(text.as_str()),
        Field::Bytes(bytes) => Value::from(String::from_utf8_lossy(bytes.data()).into_owned()),
        Field::Group(row) => Value::Object(fields(row, depth)),
        Field::ListInternal(list) => list.elements().iter().map(|field| value(field, depth + 1)).collect(),
        Field::MapInternal(map) => {
            let name = |key: &Field| value(key, depth).as_str().map_or_else(|| key.to_string(), str::to_owned);
            Value::Object(map.entries().iter().map(|(key, field)| (name(key), value(field, depth + 1))).collect())
        }
        Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => Value::from(field.to_string()),
    }
}

/// A number that is not finite is none.
fn number(real: f64) -> Value {
    Number::from_f64(real).map_or(Value::Null, Value::Number)
}
