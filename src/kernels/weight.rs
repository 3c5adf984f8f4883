//! A linear's frozen weight in the forms that the two passes read.

use super::activation_rows::ActivationRows;
use super::bf16::Bf16Matrix;
use super::int8::{Int8Matrix, StoredInt8};
use super::layout::{Lane, PANEL};
use super::matrix_rows::{MatrixRows, StackedRows, with_held};
use super::packed_matrix::{PackedMatrix, unpack_rows};
use super::precision::{PassPrecisions, Precision};
use super::thread_pool;
use std::ops::Range;

/// A frozen matrix `W` of `(outputs, inputs)`.
#[derive(Clone, Debug)]
pub struct Weight {
    precisions: PassPrecisions,
    f32: Option<PackedMatrix>,
    bf16: Option<Bf16Matrix>,
    int8: Option<Int8Matrix>,
    outputs: usize,
    inputs: usize,
}

impl Weight {
    /// Packs row-major matrices of `(outputs_i, inputs)`, one below the other, in the forms of `precisions`.
    ///
    /// # Panics
    /// Where a matrix's length is not a multiple of `inputs`.
    pub fn new(matrices: &[&[f32]], inputs: usize, precisions: PassPrecisions) -> Self {
        with_held(matrices, inputs, |rows| Self::pack(rows, precisions))
    }

    /// As [`Weight::new`], of rows that are read while they are packed, on all threads.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn read<E: Send>(
        parts: &[&dyn MatrixRows<Error = E>],
        inputs: usize,
        precisions: PassPrecisions,
    ) -> Result<Self, E> {
        Self::pack(StackedRows::new(parts, inputs), precisions)
    }

    fn pack<E: Send>(rows: StackedRows<'_, E>, precisions: PassPrecisions) -> Result<Self, E> {
        let has = |precision| precisions.have(precision);
        Ok(Self {
            precisions,
            int8: has(Precision::Int8).then(|| Int8Matrix::read(rows)).transpose()?,
            bf16: has(Precision::Bf16).then(|| Bf16Matrix::read(rows)).transpose()?,
            f32: has(Precision::F32).then(|| PackedMatrix::read(rows)).transpose()?,
            outputs: rows.outputs(),
            inputs: rows.inputs,
        })
    }

    /// The int8 form as a file keeps it, codes and scales; none if there is none.
    pub(crate) fn stored(&self) -> Option<(StoredInt8, [&[u8]; 2])> {
        self.int8.as_ref().map(Int8Matrix::stored)
    }

    /// A weight of which `fill` writes codes and scales of the int8 form, the only one of `precisions`.
    ///
    /// # Errors
    /// As `fill`.
    ///
    /// # Panics
    /// Where `precisions` have another form.
    pub(crate) fn from_stored<E>(
        stored: StoredInt8,
        precisions: PassPrecisions,
        fill: impl FnOnce([&mut [u8]; 2]) -> Result<(), E>,
    ) -> Result<Self, E> {
        assert!(precisions.have_only(Precision::Int8), "int8 alone: {precisions:?}");
        let int8 = Some(Int8Matrix::from_stored(stored, fill)?);
        let [outputs, inputs] = stored.shape();
        Ok(Self { precisions, f32: None, bf16: None, int8, outputs, inputs })
    }

    /// Bytes that a matrix will take, all forms together; `coarse` if its file has 4 bits a weight.
    pub fn planned_bytes(outputs: usize, inputs: usize, precisions: PassPrecisions, coarse: bool) -> usize {
        let of = |precision| match precision {
            Precision::F32 => size_of::<f32>() * outputs * inputs,
            Precision::Bf16 => 2 * outputs * inputs,
            Precision::Int8 => Int8Matrix::planned_bytes(outputs, inputs, coarse),
        };
        Precision::ALL.into_iter().filter(|precision| precisions.have(*precision)).map(of).sum()
    }

    /// An empty placeholder.
    pub(crate) fn empty() -> Self {
        let precisions = PassPrecisions::F32;
        Self { precisions, f32: None, bf16: None, int8: None, outputs: 0, inputs: 0 }
    }

    /// A matrix that both passes read in f32.
    pub(crate) fn of_f32(matrix: PackedMatrix) -> Self {
        let (precisions, outputs, inputs) = (PassPrecisions::F32, matrix.outputs(), matrix.inputs());
        Self { precisions, f32: Some(matrix), bf16: None, int8: None, outputs, inputs }
    }

    /// A copy of the f32 form, used by both passes.
    ///
    /// # Panics
    /// Where there is no f32 form.
    pub(crate) fn copied(&self) -> Self {
        Self::of_f32(self.in_f32().clone())
    }

    /// The f32 form packed for a decode pass of `precision`, and for that pass alone.
    ///
    /// # Panics
    /// As [`Weight::copied`].
    pub(crate) fn for_decode(&self, precision: Precision) -> Self {
        let values = unpack_rows(self.in_f32().values(), self.inputs, 0..self.outputs);
        Self::new(&[&values], self.inputs, PassPrecisions::decode_only(precision))
    }

    /// The f32 form.
    ///
    /// # Panics
    /// Where there is none.
    pub(crate) fn in_f32(&self) -> &PackedMatrix {
        self.f32.as_ref().expect("weights loaded in f32")
    }

    /// The f32 form, mutable.
    ///
    /// # Panics
    /// As [`Weight::copied`].
    pub(crate) fn in_f32_mut(&mut self) -> &mut PackedMatrix {
        self.f32.as_mut().expect("weights loaded in f32")
    }

    /// Rows of the matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes it holds, all forms together.
    pub fn bytes(&self) -> usize {
        Precision::ALL.into_iter().map(|precision| self.bytes_of(precision)).sum()
    }

    /// Bytes that one decode pass reads.
    pub fn decode_bytes(&self) -> usize {
        self.bytes_of(self.precisions.decode)
    }

    fn bytes_of(&self, precision: Precision) -> usize {
        match precision {
            Precision::F32 => self.f32.as_ref().map_or(0, PackedMatrix::bytes),
            Precision::Bf16 => self.bf16.as_ref().map_or(0, Bf16Matrix::bytes),
            Precision::Int8 => self.int8.as_ref().map_or(0, Int8Matrix::bytes),
        }
    }

    /// `y = x W^T` of the decode pass: `x` is `(rows, inputs)`, `y` becomes `(rows, outputs)`, both row-major.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn decode(&self, x: &[f32], y: &mut [f32]) {
        match (self.precisions.decode, &self.bf16, &self.int8) {
            (Precision::Bf16, Some(matrix), _) => matrix.forward(x, y),
            (Precision::Int8, _, Some(matrix)) => matrix.forward(x, y),
            _ => self.in_f32().forward(x, y),
        }
    }

    /// [`Weight::decode`] of rows that may be quantised.
    pub(crate) fn decode_rows(&self, x: &ActivationRows, y: &mut [f32]) {
        match (self.precisions.decode, &self.int8) {
            (Precision::Int8, Some(matrix)) if !x.codes().is_empty() => matrix.forward_codes(x.codes(), y),
            _ => self.decode(x.values(), y),
        }
    }

    /// Copies row `row` of the decode pass's weights into `out`: the embedding of a token.
    ///
    /// # Panics
    /// Where `row` or the length of `out` is not the matrix's.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        self.row(self.precisions.decode, row, out);
    }

    /// [`Weight::decode_row`] of the score pass.
    ///
    /// # Panics
    /// As there, and where the weight was loaded for the decode pass alone.
    pub(crate) fn score_row(&self, row: usize, out: &mut [f32]) {
        self.row(self.score_precision(), row, out);
    }

    fn row(&self, precision: Precision, row: usize, out: &mut [f32]) {
        match (precision, &self.bf16, &self.int8) {
            (Precision::Bf16, Some(matrix), _) => matrix.row(row, out),
            (Precision::Int8, _, Some(matrix)) => matrix.row(row, out),
            _ => self.in_f32().row(row, out),
        }
    }

    /// What the passes read.
    pub(crate) fn precisions(&self) -> PassPrecisions {
        self.precisions
    }

    fn score_precision(&self) -> Precision {
        self.precisions.score.expect("weights loaded for the score pass too")
    }

    /// The weights of the score pass in f32: as they are held, or widened into `scratch`, on all threads.
    ///
    /// # Panics
    /// Where the weight was loaded for the decode pass alone.
    pub(crate) fn score_in<'a>(&'a self, scratch: &'a mut PackedMatrix) -> &'a PackedMatrix {
        if self.score_precision() == Precision::F32 {
            return self.in_f32();
        }
        scratch.reshape(self.outputs, self.inputs);
        let mut panels: Vec<_> = scratch.panels_mut().collect();
        thread_pool::each_mut(&mut panels, |panel, lanes| self.widen_panel(panel, lanes));
        scratch
    }

    /// The outputs of `panels` of the score pass's weights in f32, and the panel that is the first of the matrix returned:
    /// all of it where that is held, else those panels alone in `scratch`.
    ///
    /// # Panics
    /// As [`Weight::score_in`].
    pub(super) fn score_panels<'a>(
        &'a self,
        panels: &Range<usize>,
        scratch: &'a mut PackedMatrix,
    ) -> (&'a PackedMatrix, usize) {
        if self.score_precision() == Precision::F32 {
            return (self.in_f32(), 0);
        }
        scratch.reshape(self.outputs.min(panels.end * PANEL) - panels.start * PANEL, self.inputs);
        panels.clone().zip(scratch.panels_mut()).for_each(|(panel, lanes)| self.widen_panel(panel, lanes));
        (scratch, panels.start)
    }

    /// Panel `panel` of the narrow form that the score pass reads.
    fn widen_panel(&self, panel: usize, lanes: &mut [Lane]) {
        match (self.score_precision(), &self.bf16, &self.int8) {
            (Precision::Bf16, Some(matrix), _) => matrix.widen_panel(panel, lanes),
            (Precision::Int8, _, Some(matrix)) => matrix.widen_panel(panel, lanes),
            _ => unreachable!("f32 is read as it is"),
        }
        let outputs = self.outputs - panel * PANEL;
        if outputs < PANEL {
            lanes.iter_mut().for_each(|lane| lane.0[outputs..].fill(0.0));
        }
    }
}
