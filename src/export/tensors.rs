//! safetensors files, one tensor in memory at a time.
//!
//! The header is known before the first value is: names, shapes and types are. Metadata stays in the order given, so that
//! the same weights make the same bytes. Knows no model.

use super::{Error, Result};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// How values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    F32,
    F16,
    Bf16,
}

impl Stored {
    /// The name in a header.
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// Bytes of a value.
    pub(super) fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its name.
    pub(super) name: String,
    /// Its sizes.
    pub(super) shape: Vec<usize>,
}

impl Entry {
    /// Bytes of its values.
    pub(super) fn bytes(&self, stored: Stored) -> usize {
        self.shape.iter().product::<usize>() * stored.width()
    }
}

/// Writes `entries` in their order; `bytes_of` gives each one's values, row-major and little-endian.
pub(super) fn write(
    path: &Path,
    metadata: &[(&str, String)],
    stored: Stored,
    entries: &[Entry],
    mut bytes_of: impl FnMut(&Entry) -> Result<Vec<u8>>,
) -> Result<()> {
    let mut header = Map::new();
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), Value::from(value.as_str()))).collect();
    header.insert("__metadata__".to_owned(), Value::Object(metadata));
    let mut end = 0;
    for entry in entries {
        let start = end;
        end += entry.bytes(stored);
        let place = json!({"dtype": stored.name(), "shape": entry.shape, "data_offsets": [start, end]});
        header.insert(entry.name.clone(), place);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // Values begin at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut file = BufWriter::new(File::create_new(path).map_err(Error::io(path))?);
    let length = (header.len() as u64).to_le_bytes();
    file.write_all(&length).and_then(|()| file.write_all(&header)).map_err(Error::io(path))?;
    for entry in entries {
        file.write_all(&bytes_of(entry)?).map_err(Error::io(path))?;
    }
    let file = file.into_inner().map_err(|error| Error::io(path)(error.into_error()))?;
    file.sync_all().map_err(Error::io(path))
}
