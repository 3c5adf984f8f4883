//! Rows of a matrix as whoever holds them gives them: a few at a time, in f32, or in the codes that a file stores.
//!
//! A packed form reads the rows of one panel after the other, on all threads, so that no matrix is ever in memory in f32
//! only to be packed. Knows no file format.

use super::layout::PANEL;
use std::convert::Infallible;
use std::ops::Range;

/// Inputs that share a step in a file with codes.
pub(crate) const CODED_INPUTS: usize = 32;

/// 32 weights of one output as a file stores them: `w = step * code + floor`.
#[derive(Clone, Copy, Debug)]
pub struct CodedBlock {
    /// The distance of neighbouring codes; may be negative.
    pub step: f32,
    /// The weight of code 0.
    pub floor: f32,
    /// One for each input.
    pub codes: [u8; CODED_INPUTS],
}

impl CodedBlock {
    /// A block of zeros.
    pub(crate) const ZERO: Self = Self { step: 0.0, floor: 0.0, codes: [0; CODED_INPUTS] };
}

/// A matrix of which rows can be read, by several threads at once.
pub trait MatrixRows: Sync {
    /// Why rows cannot be read.
    type Error: Send;

    /// Number of rows.
    fn outputs(&self) -> usize;

    /// The largest code that [`MatrixRows::blocks`] may give; none if the rows are not stored in codes.
    fn largest_code(&self) -> Option<u8> {
        None
    }

    /// Writes the rows `rows` to `out`, `(rows, inputs)` in f32.
    ///
    /// # Errors
    /// If they cannot be read, or are not finite.
    fn values(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Self::Error>;

    /// Writes the codes of the rows `rows` to `out`, `(rows, inputs / 32)`.
    ///
    /// # Errors
    /// As [`MatrixRows::values`].
    fn blocks(&self, rows: Range<usize>, out: &mut [CodedBlock]) -> Result<(), Self::Error> {
        let _ = (rows, out);
        unreachable!("the rows are not stored in codes")
    }
}

/// Row-major values in memory.
pub(crate) struct HeldRows<'a> {
    values: &'a [f32],
    inputs: usize,
}

impl<'a> HeldRows<'a> {
    /// # Panics
    /// Where the length is not a multiple of `inputs`.
    pub(crate) fn new(values: &'a [f32], inputs: usize) -> Self {
        assert!(inputs > 0 && values.len().is_multiple_of(inputs), "whole rows only");
        Self { values, inputs }
    }
}

impl MatrixRows for HeldRows<'_> {
    type Error = Infallible;

    fn outputs(&self) -> usize {
        self.values.len() / self.inputs
    }

    fn values(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.values[rows.start * self.inputs..rows.end * self.inputs]);
        Ok(())
    }
}

/// Matrices one below the other, of as many inputs.
pub(crate) struct StackedRows<'a, E> {
    parts: &'a [&'a dyn MatrixRows<Error = E>],
    pub(super) inputs: usize,
}

impl<E> Clone for StackedRows<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for StackedRows<'_, E> {}

impl<'a, E: Send> StackedRows<'a, E> {
    /// # Panics
    /// Where there are no inputs.
    pub(crate) fn new(parts: &'a [&'a dyn MatrixRows<Error = E>], inputs: usize) -> Self {
        assert!(inputs > 0, "a matrix has inputs");
        Self { parts, inputs }
    }

    pub(super) fn outputs(&self) -> usize {
        self.parts.iter().map(|part| part.outputs()).sum()
    }

    pub(super) fn panels(&self) -> usize {
        self.outputs().div_ceil(PANEL)
    }

    /// The parts that the rows of `panel` are in: for each the first of its rows within the panel, and its own rows.
    pub(super) fn in_panel(
        &self,
        panel: usize,
    ) -> impl Iterator<Item = (usize, &'a dyn MatrixRows<Error = E>, Range<usize>)> {
        let (from, to) = (panel * PANEL, (panel + 1) * PANEL);
        let mut first = 0;
        self.parts.iter().filter_map(move |part| {
            let own = first..first + part.outputs();
            first = own.end;
            let (start, end) = (own.start.max(from), own.end.min(to));
            (start < end).then(|| (start - from, *part, start - own.start..end - own.start))
        })
    }

    /// Writes the rows of `panel` to `out`, `(rows, inputs)`. Returns how many there are.
    pub(super) fn panel(&self, panel: usize, out: &mut [f32]) -> Result<usize, E> {
        let mut count = 0;
        for (first, part, rows) in self.in_panel(panel) {
            count = first + rows.len();
            part.values(rows, &mut out[first * self.inputs..count * self.inputs])?;
        }
        Ok(count)
    }
}

/// Calls `pack` with the rows of held matrices.
pub(crate) fn with_held<T>(
    matrices: &[&[f32]],
    inputs: usize,
    pack: impl FnOnce(StackedRows<'_, Infallible>) -> Result<T, Infallible>,
) -> T {
    let held: Vec<HeldRows<'_>> = matrices.iter().map(|matrix| HeldRows::new(matrix, inputs)).collect();
    let parts: Vec<&dyn MatrixRows<Error = Infallible>> = held.iter().map(|rows| rows as _).collect();
    match pack(StackedRows::new(&parts, inputs)) {
        Ok(packed) => packed,
        Err(never) => match never {},
    }
}
