//! safetensors files, one tensor in memory at a time.
//!
//! The header follows from names, shapes and the type, before any value is known. Metadata stays in the order given, so
//! that the same weights make the same bytes. Knows no model.

use super::dtype::Dtype;
use super::error::{Error, Result};
use crate::types::ModelId;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// A tensor to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The name.
    pub(super) name: String,
    /// The sizes.
    pub(super) shape: Vec<usize>,
}

impl Entry {
    /// Bytes of its values.
    pub(super) fn bytes(&self, dtype: Dtype) -> usize {
        self.shape.iter().product::<usize>() * dtype.width()
    }
}

/// The metadata of a weights file of `base`, or of an adapter to it.
pub(super) fn metadata(base: &ModelId) -> [(&'static str, String); 3] {
    [("base_model", base.name.clone()), ("base_model_sha256", base.sha256.clone()), ("format", "pt".to_owned())]
}

/// Writes `entries` in their order; `bytes_of` gives the values of each, row-major and little-endian.
pub(super) fn write(
    path: &Path,
    metadata: &[(&str, String)],
    dtype: Dtype,
    entries: &[Entry],
    mut bytes_of: impl FnMut(&Entry) -> Result<Vec<u8>>,
) -> Result<()> {
    let mut header = Map::new();
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), Value::from(value.as_str()))).collect();
    header.insert("__metadata__".to_owned(), Value::Object(metadata));
    let mut end = 0;
    for entry in entries {
        let start = end;
        end += entry.bytes(dtype);
        let place = json!({"dtype": dtype.safetensors_name(), "shape": entry.shape, "data_offsets": [start, end]});
        header.insert(entry.name.clone(), place);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // The values start at a multiple of eight bytes.
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
