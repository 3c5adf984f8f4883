//! Activations between linears: values, and beside them the codes that an 8-bit linear reads.
//!
//! Whatever makes rows quantises each piece while it is still in the cache, so that a linear finds its codes ready.

use super::int8::{BLOCK_INPUTS, QuantisedRows, QuantisedRowsMut, ROW8};
use super::isa::Isa;
use super::precision::Precision;
use super::thread_pool;

/// Values below which waking a second thread costs more than it gives.
const PARALLEL_MIN: usize = 1 << 13;

/// Rows of activations, `(rows, width)`. Their memory is used again from step to step.
#[derive(Debug, Default)]
pub(crate) struct ActivationRows {
    /// As many as the most rows so far took: what is left over need not be written again when they grow.
    values: Vec<f32>,
    /// Those that count.
    len: usize,
    /// Where the next linear is one of 8 bits.
    codes: QuantisedRows,
}

impl ActivationRows {
    /// The values, row-major.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values[..self.len]
    }

    /// The values, to be changed; codes no longer stand for them.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        self.codes.clear();
        &mut self.values[..self.len]
    }

    pub(super) fn codes(&self) -> &QuantisedRows {
        &self.codes
    }

    /// Becomes `count` values, whatever they are.
    pub(crate) fn resize(&mut self, count: usize) {
        self.codes.clear();
        self.shape(count);
    }

    fn shape(&mut self, count: usize) {
        self.len = count;
        if self.values.len() < count {
            self.values.resize(count, 0.0);
        }
    }

    /// Becomes `rows` rows of `width`: `part` writes those from a given row on, on several threads where it
    /// pays; then they are quantised if a linear of `precision` wants that.
    pub(crate) fn write(
        &mut self,
        rows: usize,
        width: usize,
        precision: Precision,
        part: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        self.shape(rows * width);
        let isa = Isa::detect();
        let quantised = if precision == Precision::Int8 { rows } else { 0 };
        self.codes.resize(isa, quantised, width.div_ceil(BLOCK_INPUTS));
        if rows == 0 {
            return;
        }
        let few = rows * width < PARALLEL_MIN;
        // Whole octets, so that a piece's codes are its own.
        let piece = if few { rows } else { rows.div_ceil(2 * thread_pool::threads()) }.next_multiple_of(ROW8);
        let mut codes = self.codes.split_mut(piece, width).into_iter();
        let values = self.values[..self.len].chunks_mut(piece * width);
        let mut pieces: Vec<_> = values.map(|values| (values, codes.next().unwrap_or_default())).collect();
        let write = |index: usize, (values, codes): &mut (&mut [f32], QuantisedRowsMut<'_>)| {
            part(index * piece, values);
            codes.quantise(isa, values, width);
        };
        if few {
            pieces.iter_mut().enumerate().for_each(|(index, piece)| write(index, piece));
        } else {
            thread_pool::each_mut(&mut pieces, write);
        }
    }
}
