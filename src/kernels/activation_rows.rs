//! Activations between linears: f32 values, and the codes that an 8-bit linear reads.
//!
//! Rows are quantised by whoever writes them, while they are still in the cache.

use super::int8::{BLOCK_INPUTS, QuantisedRows, QuantisedRowsMut, ROW8};
use super::isa::Isa;
use super::precision::Precision;
use super::thread_pool;

/// Values below which waking a second thread costs more than it gives.
const PARALLEL_MIN: usize = 1 << 13;

/// Rows of activations, `(rows, width)`. Their memory is reused from step to step.
#[derive(Debug, Default)]
pub(crate) struct ActivationRows {
    /// Never shrinks, so that growing again writes no zeros.
    values: Vec<f32>,
    /// Values in use.
    len: usize,
    /// The quantised values, if the next linear is an 8-bit one.
    codes: QuantisedRows,
}

impl ActivationRows {
    /// The values, row-major.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values[..self.len]
    }

    /// The values, mutable; drops their codes.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        self.codes.clear();
        &mut self.values[..self.len]
    }

    pub(super) fn codes(&self) -> &QuantisedRows {
        &self.codes
    }

    /// Resizes to `count` unspecified values.
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

    /// Writes `rows` rows of `width`: `part` writes the rows from a given one on, on several threads if there are
    /// enough. Then they are quantised if a linear of `precision` reads codes.
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
        // Whole groups of eight rows, so that no two pieces share a group's codes.
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
