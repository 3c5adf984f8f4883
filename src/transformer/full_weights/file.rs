//! A full weight set as one safetensors file in f32, written tensor by tensor and read back.
//!
//! Not a Hugging Face model file, hence the other name: norms are stored as the factors they multiply by, so that every
//! family reads back the bits that were written.

use super::param_block::{NamedShape, ParamBlock};
use super::{CriticWeights, FullWeights};
use crate::formats::adapter::Adapter;
use crate::formats::safetensors;
use crate::formats::spec::ModelSpec;
use crate::transformer::error::Result;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// The name of the file, in a folder of its own.
pub const WEIGHTS_FILE: &str = "weights.safetensors";

/// Floats that are converted to bytes at once.
const CHUNK: usize = 1 << 14;

impl FullWeights {
    /// Reads the file [`WEIGHTS_FILE`] in the folder `dir`, checked against `spec`.
    ///
    /// # Errors
    /// Where it is unreadable, lacks a tensor of the model, or has one of another shape or type.
    pub fn load(dir: &Path, spec: &ModelSpec) -> Result<Self> {
        Self::from_weights(spec, safetensors::file(&dir.join(WEIGHTS_FILE))?.as_ref())
    }
}

impl CriticWeights {
    /// Reads a PEFT folder, or a checkpoint's folder of all weights, checked against `spec`.
    ///
    /// # Errors
    /// As [`Adapter::load`] and [`FullWeights::load`].
    pub fn load(dir: &Path, spec: &ModelSpec) -> Result<Self> {
        if dir.join(WEIGHTS_FILE).is_file() {
            return Ok(Self::Full(Arc::new(FullWeights::load(dir, spec)?)));
        }
        Ok(Self::Adapter(Arc::new(Adapter::load(dir, spec)?)))
    }
}

/// Writes every weight to `out`.
///
/// # Errors
/// Where `out` fails.
pub fn write(weights: &FullWeights, out: &mut dyn Write) -> io::Result<()> {
    let spec = weights.spec();
    let blocks = ParamBlock::all(spec);
    let names: Vec<NamedShape> = blocks.iter().flat_map(|block| block.tensors(spec)).collect();
    write_header(out, &names)?;
    for block in blocks {
        for (_, values) in block.unpack(spec, weights.block(block)) {
            write_values(out, &values)?;
        }
    }
    Ok(())
}

/// Writes `tensors`, whose values `get` returns by index, as a safetensors file in f32.
///
/// # Errors
/// Where `out` fails.
pub(crate) fn write_f32<'a>(
    out: &mut dyn Write,
    tensors: &[NamedShape],
    mut get: impl FnMut(usize) -> Cow<'a, [f32]>,
) -> io::Result<()> {
    write_header(out, tensors)?;
    (0..tensors.len()).try_for_each(|index| write_values(out, &get(index)))
}

fn write_header(out: &mut dyn Write, tensors: &[NamedShape]) -> io::Result<()> {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += size_of::<f32>() * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // Values start at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)
}

fn write_values(out: &mut dyn Write, values: &[f32]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(size_of::<f32>() * CHUNK.min(values.len()));
    for piece in values.chunks(CHUNK) {
        bytes.clear();
        bytes.extend(piece.iter().flat_map(|value| value.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    Ok(())
}
