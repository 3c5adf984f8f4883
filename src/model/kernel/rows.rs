//! Activations between linears: values, and beside them the codes that an 8-bit linear reads.
//!
//! Whatever makes rows quantises each piece while it is still in the cache, so that a linear finds its codes ready.

use super::Precision;
use super::int8_rows::{BLOCK, RowBlock, quantise_rows};
use rayon::prelude::*;

/// Values below which waking a second thread costs more than it gives.
const PARALLEL_MIN: usize = 1 << 13;

/// Rows of activations, `(rows, width)`. Their memory is used again from step to step.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    values: Vec<f32>,
    /// `(rows, blocks of 32)`, where the next linear is one of 8 bits.
    codes: Vec<RowBlock>,
}

impl Rows {
    /// The values, row-major.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values, to be changed; codes no longer stand for them.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        self.codes.clear();
        &mut self.values
    }

    pub(super) fn codes(&self) -> &[RowBlock] {
        &self.codes
    }

    /// Becomes `count` values, whatever they are.
    pub(crate) fn resize(&mut self, count: usize) {
        self.codes.clear();
        self.values.resize(count, 0.0);
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
        self.values.resize(rows * width, 0.0);
        let depth = if precision == Precision::Int8 { width.div_ceil(BLOCK) } else { 0 };
        self.codes.resize(rows * depth, RowBlock::EMPTY);
        let threads = rayon::current_num_threads();
        if rows * width < PARALLEL_MIN || threads == 1 {
            part(0, &mut self.values);
            quantise_rows(&self.values, width, &mut self.codes);
            return;
        }
        let piece = rows.div_ceil(2 * threads);
        let values = self.values.par_chunks_mut(piece * width);
        if depth == 0 {
            values.enumerate().for_each(|(index, values)| part(index * piece, values));
            return;
        }
        values.zip(self.codes.par_chunks_mut(piece * depth)).enumerate().for_each(|(index, (values, codes))| {
            part(index * piece, values);
            quantise_rows(values, width, codes);
        });
    }
}
