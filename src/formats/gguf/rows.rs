//! Rows of a tensor in a GGUF file, read a few at a time: in f32, or in the file's own codes.
//!
//! Types with one step, and at most one floor, for each 32 weights give their codes as they are: Q4_0, Q4_1, Q5_0, Q5_1,
//! Q8_0, Q4_K, Q5_K. All others give f32.

use super::blocks;
use crate::disk;
use crate::formats::error::{Error, Result};
use crate::formats::values;
use crate::kernels::{CODED_INPUTS, CodedBlock, MatrixRows};
use candle_core::quantized::{GgmlDType, ggml_file};
use candle_core::{Device, Storage};
use std::fs::File;
use std::ops::Range;
use std::path::Path;

/// Which row of the file is which row of the tensor.
#[derive(Clone, Copy)]
pub(super) enum RowOrder {
    /// That many rows further on.
    From(usize),
    /// In each head, of that many rows, a pair is in adjacent rows; in the tensor it is half a head apart.
    Pairs(usize),
}

/// A tensor in a file, or some rows of one.
pub(super) struct GgufRows<'a> {
    pub(super) path: &'a Path,
    pub(super) file: &'a File,
    /// The tensor's name in the file.
    pub(super) name: String,
    pub(super) dtype: GgmlDType,
    /// Where the tensor begins.
    pub(super) start: u64,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) order: RowOrder,
}

impl GgufRows<'_> {
    fn malformed(&self, why: &dyn std::fmt::Display) -> Error {
        Error::Malformed { path: self.path.to_owned(), why: format!("tensor {}: {why}", self.name) }
    }

    /// All values.
    pub(super) fn all(&self) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.outputs * self.inputs];
        self.values(0..self.outputs, &mut values)?;
        Ok(values)
    }

    fn row_bytes(&self) -> usize {
        self.inputs / self.dtype.block_size() * self.dtype.type_size()
    }

    /// The row of the file that holds the row `row`.
    fn in_file(&self, row: usize) -> usize {
        match self.order {
            RowOrder::From(first) => first + row,
            RowOrder::Pairs(head) => {
                let (half, within) = (head / 2, row % head);
                row - within + within % half * 2 + within / half
            }
        }
    }

    /// The bytes of the rows `rows`.
    fn bytes(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        let size = self.row_bytes();
        let mut bytes = vec![0; rows.len() * size];
        let read = |row: usize, bytes: &mut [u8]| {
            let start = self.start + (self.in_file(row) * size) as u64;
            disk::read_exact_at(self.file, bytes, start).map_err(|error| self.malformed(&error))
        };
        match self.order {
            RowOrder::From(_) => read(rows.start, &mut bytes)?,
            RowOrder::Pairs(_) => {
                rows.zip(bytes.chunks_exact_mut(size)).try_for_each(|(row, bytes)| read(row, bytes))?
            }
        }
        Ok(bytes)
    }
}

impl MatrixRows for GgufRows<'_> {
    type Error = Error;

    fn outputs(&self) -> usize {
        self.outputs
    }

    fn largest_code(&self) -> Option<u8> {
        blocks::largest_code(self.dtype)
    }

    fn values(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let first = rows.start * self.inputs;
        let (count, bytes) = (rows.len(), self.bytes(rows)?);
        dequantise(self.dtype, &bytes, count, out).map_err(|error| self.malformed(&error))?;
        match values::complaint(out, first, &self.name) {
            None => Ok(()),
            Some(why) => Err(Error::Malformed { path: self.path.to_owned(), why }),
        }
    }

    fn blocks(&self, rows: Range<usize>, out: &mut [CodedBlock]) -> Result<()> {
        let first = rows.start * self.inputs;
        blocks::read(self.dtype, &self.bytes(rows)?, out);
        match out.iter().position(|block| !(block.step + block.floor).is_finite()) {
            None => Ok(()),
            Some(at) => {
                let (at, value) = (first + at * CODED_INPUTS, out[at].step + out[at].floor);
                Err(self.malformed(&format_args!("expected finite values, got {value} at {at}")))
            }
        }
    }
}

/// Writes the values of `bytes`, blocks of `dtype`, to `out`, `(rows, inputs)`.
fn dequantise(dtype: GgmlDType, bytes: &[u8], rows: usize, out: &mut [f32]) -> candle_core::Result<()> {
    if dtype == GgmlDType::F32 {
        let words = bytes.as_chunks().0;
        out.iter_mut().zip(words).for_each(|(out, word)| *out = f32::from_le_bytes(*word));
        return Ok(());
    }
    let tensor = ggml_file::qtensor_from_ggml(dtype, bytes, vec![rows, out.len() / rows], &Device::Cpu)?;
    let tensor = tensor.dequantize(&Device::Cpu)?;
    let (storage, _) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => out.copy_from_slice(storage.as_slice()?),
        _ => unreachable!("the tensor is on the CPU"),
    }
    Ok(())
}
