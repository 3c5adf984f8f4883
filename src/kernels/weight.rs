//! A linear's frozen weight in up to two forms: one for the decode pass, and f32 for the score pass.

use super::activation_rows::ActivationRows;
use super::bf16::Bf16Matrix;
use super::int8::{Int8Matrix, StoredInt8};
use super::matrix_rows::{MatrixRows, StackedRows, with_held};
use super::packed_matrix::{PackedMatrix, unpack_rows};
use super::precision::Precision;

#[derive(Clone, Debug)]
enum NarrowWeight {
    Bf16(Bf16Matrix),
    Int8(Int8Matrix),
}

/// A frozen matrix `W` of `(outputs, inputs)`.
#[derive(Clone, Debug)]
pub struct Weight {
    /// For the score pass, and for a decode pass in f32.
    full: Option<PackedMatrix>,
    /// For a decode pass that is not in f32.
    narrow: Option<NarrowWeight>,
    outputs: usize,
    inputs: usize,
}

impl Weight {
    /// Packs row-major matrices of `(outputs_i, inputs)`, one below the other, for a decode pass of `precision`; with
    /// `score`, in f32 too.
    ///
    /// # Panics
    /// Where a matrix's length is not a multiple of `inputs`.
    pub fn new(matrices: &[&[f32]], inputs: usize, precision: Precision, score: bool) -> Self {
        with_held(matrices, inputs, |rows| Self::pack(rows, precision, score))
    }

    /// As [`Weight::new`], of rows that are read while they are packed, on all threads.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn read<E: Send>(
        parts: &[&dyn MatrixRows<Error = E>],
        inputs: usize,
        precision: Precision,
        score: bool,
    ) -> Result<Self, E> {
        Self::pack(StackedRows::new(parts, inputs), precision, score)
    }

    fn pack<E: Send>(rows: StackedRows<'_, E>, precision: Precision, score: bool) -> Result<Self, E> {
        let narrow = match precision {
            Precision::F32 => None,
            Precision::Bf16 => Some(NarrowWeight::Bf16(Bf16Matrix::read(rows)?)),
            Precision::Int8 => Some(NarrowWeight::Int8(Int8Matrix::read(rows)?)),
        };
        let full = (score || narrow.is_none()).then(|| PackedMatrix::read(rows)).transpose()?;
        Ok(Self { full, narrow, outputs: rows.outputs(), inputs: rows.inputs })
    }

    /// The int8 form as a file keeps it, codes and scales; none if there is none.
    pub(crate) fn stored(&self) -> Option<(StoredInt8, [&[u8]; 2])> {
        match &self.narrow {
            Some(NarrowWeight::Int8(matrix)) => Some(matrix.stored()),
            _ => None,
        }
    }

    /// A weight for the decode pass alone, of whose int8 form `fill` writes codes and scales.
    ///
    /// # Errors
    /// As `fill`.
    pub(crate) fn from_stored<E>(
        stored: StoredInt8,
        fill: impl FnOnce([&mut [u8]; 2]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let narrow = Some(NarrowWeight::Int8(Int8Matrix::from_stored(stored, fill)?));
        let [outputs, inputs] = stored.shape();
        Ok(Self { full: None, narrow, outputs, inputs })
    }

    /// Bytes that a matrix will take, both forms together; `coarse` if its file has 4 bits a weight.
    pub fn planned_bytes(outputs: usize, inputs: usize, precision: Precision, score: bool, coarse: bool) -> usize {
        let weights = outputs * inputs;
        let narrow = match precision {
            Precision::F32 => 0,
            Precision::Bf16 => 2 * weights,
            Precision::Int8 => Int8Matrix::planned_bytes(outputs, inputs, coarse),
        };
        narrow + if score || narrow == 0 { size_of::<f32>() * weights } else { 0 }
    }

    /// An empty placeholder.
    pub(crate) fn empty() -> Self {
        Self { full: None, narrow: None, outputs: 0, inputs: 0 }
    }

    /// A copy of the f32 form, used by both passes.
    ///
    /// # Panics
    /// Where the weight was loaded for the decode pass alone.
    pub(crate) fn copied(&self) -> Self {
        Self { full: Some(self.score().clone()), narrow: None, outputs: self.outputs, inputs: self.inputs }
    }

    /// The f32 form packed for a decode pass of `precision`, and for that pass alone.
    ///
    /// # Panics
    /// As [`Weight::copied`].
    pub(crate) fn for_decode(&self, precision: Precision) -> Self {
        let values = self.score().values();
        Self::new(&[&unpack_rows(values, self.inputs, 0..self.outputs)], self.inputs, precision, false)
    }

    /// The f32 form, mutable.
    ///
    /// # Panics
    /// As [`Weight::copied`].
    pub(crate) fn score_mut(&mut self) -> &mut PackedMatrix {
        self.full.as_mut().expect("weights loaded for the score pass too")
    }

    /// Rows of the matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes it holds, both forms together.
    pub fn bytes(&self) -> usize {
        self.decode_bytes() + if self.narrow.is_some() { self.full.as_ref().map_or(0, PackedMatrix::bytes) } else { 0 }
    }

    /// Bytes that one decode pass reads.
    pub fn decode_bytes(&self) -> usize {
        match (&self.narrow, &self.full) {
            (Some(NarrowWeight::Bf16(matrix)), _) => matrix.bytes(),
            (Some(NarrowWeight::Int8(matrix)), _) => matrix.bytes(),
            (None, full) => full.as_ref().map_or(0, PackedMatrix::bytes),
        }
    }

    /// `y = x W^T` of the decode pass: `x` is `(rows, inputs)`, `y` becomes `(rows, outputs)`, both row-major.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn decode(&self, x: &[f32], y: &mut [f32]) {
        match &self.narrow {
            Some(NarrowWeight::Bf16(matrix)) => matrix.forward(x, y),
            Some(NarrowWeight::Int8(matrix)) => matrix.forward(x, y),
            None => self.score().forward(x, y),
        }
    }

    /// [`Weight::decode`] of rows that may be quantised.
    pub(crate) fn decode_rows(&self, x: &ActivationRows, y: &mut [f32]) {
        match &self.narrow {
            Some(NarrowWeight::Int8(matrix)) if !x.codes().is_empty() => matrix.forward_codes(x.codes(), y),
            _ => self.decode(x.values(), y),
        }
    }

    /// Copies row `row` of the decode pass's weights into `out`: the embedding of a token.
    ///
    /// # Panics
    /// Where `row` or the length of `out` is not the matrix's.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        match &self.narrow {
            Some(NarrowWeight::Bf16(matrix)) => matrix.row(row, out),
            Some(NarrowWeight::Int8(matrix)) => matrix.row(row, out),
            None => self.score().row(row, out),
        }
    }

    /// Whether the score pass can read it.
    pub fn has_score(&self) -> bool {
        self.full.is_some()
    }

    /// The weights in f32.
    ///
    /// # Panics
    /// Where the weight was loaded for the decode pass alone.
    pub fn score(&self) -> &PackedMatrix {
        self.full.as_ref().expect("weights loaded for the score pass too")
    }
}
