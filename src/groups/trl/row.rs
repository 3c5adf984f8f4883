//! A row of a data set.

use crate::types::Turn;
use serde::ser::{Serialize, SerializeMap, Serializer};

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A text.
    Text(String),
    /// A conversation.
    Turns(Vec<Turn>),
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Float(f64),
}

impl Cell {
    /// A conversation of one turn as its text; anything else as it is.
    pub(super) fn plain(self) -> Self {
        match self {
            Self::Turns(mut turns) if turns.len() == 1 => Self::Text(turns.remove(0).content),
            other => other,
        }
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(serializer),
            Self::Turns(turns) => turns.serialize(serializer),
            Self::Bool(value) => value.serialize(serializer),
            Self::Integer(value) => value.serialize(serializer),
            Self::Float(value) => value.serialize(serializer),
        }
    }
}

/// A row: the names of its columns and their values. All rows of a data set have the same columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Row(pub Vec<(&'static str, Cell)>);

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, cell) in &self.0 {
            map.serialize_entry(name, cell)?;
        }
        map.end()
    }
}
