//! The header of a safetensors file, checked before anything relies on it.
//!
//! The `safetensors` crate takes the last of two tensors of one name, and adds the ends of tensors without a check for
//! overflow. Here each name comes once and every tensor lies within the file, which ends with the last of them.

use crate::formats::error::{Error, Result};
use crate::formats::json;
use safetensors::tensor::{Metadata, SafeTensors};
use std::io::Read;
use std::path::Path;

/// The longest header. One of a thousand tensors has a hundred kilobytes.
const HEADER_BYTES_MAX: u64 = 32 << 20;
/// Levels of nesting: the header, a tensor, its shape.
const DEPTH_MAX: usize = 3;

/// Reads the header of `reader`, which is at the start of a file of `file_bytes`; `path` is for errors. Returns where the
/// values start.
///
/// # Errors
/// If the file is cut short or its header is malformed.
pub(super) fn read(reader: &mut impl Read, file_bytes: u64, path: &Path) -> Result<(u64, Metadata)> {
    let mut length = [0; 8];
    reader.read_exact(&mut length).map_err(Error::io(path))?;
    let malformed = |why: String| Error::Malformed { path: path.to_owned(), why };
    let length = header_length(length, file_bytes).map_err(malformed)?;
    let mut header = vec![0; length as usize];
    reader.read_exact(&mut header).map_err(Error::io(path))?;
    let data = 8 + length;
    Ok((data, checked(&header, file_bytes - data).map_err(malformed)?))
}

/// The tensors of a whole file in memory.
///
/// # Errors
/// What is wrong with its header.
pub(crate) fn parse(bytes: &[u8]) -> Result<SafeTensors<'_>, String> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(format!("expected a header, got {} bytes", bytes.len()));
    };
    let length = header_length(*length, bytes.len() as u64)?;
    let (header, data) = rest.split_at(length as usize);
    checked(header, data.len() as u64)?;
    SafeTensors::deserialize(bytes).map_err(|error| error.to_string())
}

fn header_length(length: [u8; 8], file_bytes: u64) -> Result<u64, String> {
    let length = u64::from_le_bytes(length);
    match length > HEADER_BYTES_MAX.min(file_bytes.saturating_sub(8)) {
        true => Err(format!("expected a header that fits the file, got one of {length} bytes")),
        false => Ok(length),
    }
}

/// The header, if its tensors fill the `data_bytes` after it.
fn checked(header: &[u8], data_bytes: u64) -> Result<Metadata, String> {
    json::check(header, DEPTH_MAX)?;
    // Deserialising sorts the tensors by their offsets.
    let metadata: Metadata = serde_json::from_slice(header).map_err(|error| error.to_string())?;
    let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
    tensors.sort_unstable_by_key(|(_, info)| info.data_offsets);
    let mut filled = 0;
    for (name, info) in tensors {
        let (start, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        if start > end || end > data_bytes {
            return Err(format!("tensor {name}: its bytes {start}..{end} lie outside the file"));
        }
        if start != filled {
            return Err(format!("tensor {name}: expected its bytes to start at {filled}, got {start}"));
        }
        let values = info.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let bits = values.and_then(|values| values.checked_mul(info.dtype.bitsize()));
        if bits.is_none_or(|bits| bits % 8 != 0 || bits as u64 / 8 != end - start) {
            let (shape, dtype, got) = (&info.shape, info.dtype, end - start);
            return Err(format!("tensor {name}: expected the bytes of {shape:?} in {dtype:?}, got {got}"));
        }
        filled = end;
    }
    match filled == data_bytes {
        true => Ok(metadata),
        false => Err(format!("expected {filled} bytes of tensors, got {data_bytes}")),
    }
}
