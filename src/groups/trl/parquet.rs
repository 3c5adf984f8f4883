//! Rows as Parquet, uncompressed. No value is null.

use super::row::{Cell, Row};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use std::sync::Arc;

/// Rows of a row group.
const GROUP_ROWS: usize = 16_384;

/// The content of a file of `rows`, of which there is at least one.
pub(super) fn render(rows: &[Row]) -> Result<Vec<u8>> {
    let columns: Vec<(&str, &Cell)> = rows[0].0.iter().map(|(name, cell)| (*name, cell)).collect();
    let fields: String = columns.iter().map(|(name, cell)| field(name, cell)).collect();
    let schema = Arc::new(parse_message_type(&format!("message rows {{\n{fields}}}"))?);
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(WriterProperties::default()))?;
    for rows in rows.chunks(GROUP_ROWS) {
        let mut group = writer.next_row_group()?;
        for column in 0..columns.len() {
            let cells: Vec<&Cell> = rows.iter().map(|row| &row.0[column].1).collect();
            write(&mut group, &cells)?;
        }
        group.close()?;
    }
    writer.into_inner()
}

/// The field of a column that has values like `cell`.
fn field(name: &str, cell: &Cell) -> String {
    match cell {
        Cell::Text(_) => format!("required binary {name} (STRING);\n"),
        Cell::Bool(_) => format!("required boolean {name};\n"),
        Cell::Integer(_) => format!("required int64 {name};\n"),
        Cell::Float(_) => format!("required double {name};\n"),
        Cell::Turns(_) => format!(
            "required group {name} (LIST) {{ repeated group list {{ required group element {{\n\
             required binary role (STRING); required binary content (STRING); }} }} }}\n"
        ),
    }
}

/// Writes one column: one of Parquet's, or two for conversations.
fn write(group: &mut SerializedRowGroupWriter<'_, Vec<u8>>, cells: &[&Cell]) -> Result<()> {
    if let Cell::Turns(_) = cells[0] {
        return write_turns(group, cells);
    }
    let mut column = group.next_column()?.ok_or_else(missing)?;
    match column.untyped() {
        ColumnWriter::BoolColumnWriter(_) => {
            let values: Vec<bool> = cells.iter().map(|cell| matches!(cell, Cell::Bool(true))).collect();
            column.typed::<BoolType>().write_batch(&values, None, None)?;
        }
        ColumnWriter::Int64ColumnWriter(_) => {
            let values =
                cells.iter().filter_map(|cell| if let Cell::Integer(value) = cell { Some(*value) } else { None });
            column.typed::<Int64Type>().write_batch(&values.collect::<Vec<_>>(), None, None)?;
        }
        ColumnWriter::DoubleColumnWriter(_) => {
            let values =
                cells.iter().filter_map(|cell| if let Cell::Float(value) = cell { Some(*value) } else { None });
            column.typed::<DoubleType>().write_batch(&values.collect::<Vec<_>>(), None, None)?;
        }
        _ => {
            let values =
                cells.iter().filter_map(|cell| if let Cell::Text(text) = cell { Some(bytes(text)) } else { None });
            column.typed::<ByteArrayType>().write_batch(&values.collect::<Vec<_>>(), None, None)?;
        }
    }
    column.close()
}

/// Writes the roles of all turns, then their texts. A value's repetition level is 0 at the first turn of a row, and 1 after.
fn write_turns(group: &mut SerializedRowGroupWriter<'_, Vec<u8>>, cells: &[&Cell]) -> Result<()> {
    let (mut roles, mut texts, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
    for cell in cells {
        let Cell::Turns(turns) = cell else { return Err(missing()) };
        for (place, turn) in turns.iter().enumerate() {
            let role = serde_json::to_value(turn.role).expect("the name of a role is JSON");
            roles.push(bytes(role.as_str().unwrap_or_default()));
            texts.push(bytes(&turn.content));
            repetitions.push(i16::from(place > 0));
        }
    }
    let definitions = vec![1; roles.len()];
    for values in [roles, texts] {
        let mut column = group.next_column()?.ok_or_else(missing)?;
        column.typed::<ByteArrayType>().write_batch(&values, Some(&definitions), Some(&repetitions))?;
        column.close()?;
    }
    Ok(())
}

fn bytes(text: &str) -> ByteArray {
    ByteArray::from(text)
}

fn missing() -> ParquetError {
    ParquetError::General("the rows have different columns".to_owned())
}
