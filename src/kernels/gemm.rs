//! Products with packed f32 weights, forward and backward.
//!
//! Few rows: threads share out the outputs. Many rows: threads share out the rows ([`gemm_lora`]).

use super::column_writer::ColumnWriter;
use super::gemm_lora;
use super::isa::Isa;
use super::layout::{Lane, NO_SUMS, PANEL, tiles};
use super::operands::{Beta, Lhs, RhsPanels, Strided};
use super::packed_matrix::PackedMatrix;
use super::parallel::each_panel;
use super::thread_pool::Overlap;
use super::tile::tile;

/// Rows from which [`gemm_lora`] is faster.
const GEMM_ROWS_MIN: usize = 96;

impl PackedMatrix {
    /// `y = x W^T`: `x` is `(rows, inputs)`, `y` becomes `(rows, outputs)`, both row-major.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        let rows = x.len() / self.inputs();
        if rows >= GEMM_ROWS_MIN {
            return gemm_lora::forward(self, None, x, &mut [], y);
        }
        assert!(x.len() == rows * self.inputs() && y.len() == rows * self.outputs(), "x and y of {self:?}");
        let (y, isa, x) = (ColumnWriter::new(y, self.outputs()), Isa::detect(), Strided::rows(x, self.inputs()));
        each_panel(self.outputs(), rows * self.inputs() * self.outputs(), |panel| {
            let put = &mut |row, sums: &_| y.write(row, panel * PANEL, sums);
            product(isa, (x, Lhs::Strided), rows, self.panel(panel), put);
        });
    }

    /// `dx = dy W`: `dy` is `(rows, outputs)`, `dx` becomes `(rows, inputs)`, both row-major.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32]) {
        gemm_lora::backward(self, None, dy, [&mut [], dx], Overlap::NONE);
    }
}

/// The first `rows` rows of `a` times one panel; `put` takes each row's index and sums. `read` makes tiles' operands of
/// the rows.
pub(super) fn product<'a>(
    isa: Isa,
    (a, read): (Strided<'a>, fn(Strided<'a>) -> Lhs<'a>),
    rows: usize,
    lanes: &[Lane],
    put: &mut impl FnMut(usize, &[f32; PANEL]),
) {
    let mut sums = NO_SUMS;
    for rows in tiles(rows, isa.single_panel_rows()) {
        tile(isa, rows.len(), read(a.skip_rows(rows.start)), RhsPanels::one(lanes), (&mut sums, 0), Beta::Zero);
        for (row, sums) in rows.zip(&sums) {
            put(row, &sums.0);
        }
    }
}
