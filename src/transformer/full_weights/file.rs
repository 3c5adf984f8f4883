//! All weights as one safetensors file in f32, written tensor by tensor.
//!
//! Not a Hugging Face folder's file, hence not its name: norms lie there as the factors they are, so that what is read
//! back is what was written to the last bit, in every family.

use super::{FullWeights, Named, ParamBlock};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::io::{self, Write};

/// The name of the file, in a folder of its own.
pub const WEIGHTS_FILE: &str = "weights.safetensors";

/// Floats that are turned into bytes at once.
const PIECE: usize = 1 << 14;

/// Writes every weight to `out`.
///
/// # Errors
/// Where `out` fails.
pub fn write(whole: &FullWeights, out: &mut dyn Write) -> io::Result<()> {
    let spec = whole.spec();
    let blocks = ParamBlock::all(spec);
    let names: Vec<Named> = blocks.iter().flat_map(|block| block.tensors(spec)).collect();
    write_header(out, &names)?;
    for block in blocks {
        for (_, values) in block.unpack(spec, whole.block(block)) {
            write_values(out, &values)?;
        }
    }
    Ok(())
}

/// Writes `tensors`, whose values `get` gives by their place in the list, as a safetensors file in f32.
///
/// # Errors
/// Where `out` fails.
pub(crate) fn write_f32<'a>(
    out: &mut dyn Write,
    tensors: &[Named],
    mut get: impl FnMut(usize) -> Cow<'a, [f32]>,
) -> io::Result<()> {
    write_header(out, tensors)?;
    (0..tensors.len()).try_for_each(|index| write_values(out, &get(index)))
}

fn write_header(out: &mut dyn Write, tensors: &[Named]) -> io::Result<()> {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += size_of::<f32>() * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // Values begin at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)
}

fn write_values(out: &mut dyn Write, values: &[f32]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(size_of::<f32>() * PIECE.min(values.len()));
    for piece in values.chunks(PIECE) {
        bytes.clear();
        bytes.extend(piece.iter().flat_map(|value| value.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    Ok(())
}
