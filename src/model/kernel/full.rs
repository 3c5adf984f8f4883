//! Weights in f32: what the learner differentiates through, forward and backward over the same panels.

use super::isa::Isa;
use super::pages::filled;
use super::strided::Strided;
use super::{Columns, Line, NO_SUMS, PANEL, Put, Sums, each_panel, tiles};
use std::cell::RefCell;
use std::ops::Range;

/// Outputs that the transposed product turns at a time: a multiple of a panel.
const TURNED_MAX: usize = 2048;

thread_local! {
    /// A thread's panel of `W^T`: used again, since memory fresh from the system costs as much as the product.
    static TURNED: RefCell<Vec<Lane>> = const { RefCell::new(vec![]) };
}

/// 16 weights that share an input, one cache line.
pub(super) type Lane = Line<[f32; PANEL]>;

/// A matrix `W` of `(outputs, inputs)` in panels of 16 outputs.
#[derive(Clone)]
pub struct PackedMatrix {
    /// `panels x inputs` lanes; outputs past the last are zero.
    pub(super) lanes: Vec<Lane>,
    outputs: usize,
    inputs: usize,
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix({} x {})", self.outputs, self.inputs)
    }
}

impl PackedMatrix {
    /// Packs row-major matrices of `(outputs_i, inputs)`, one below the other.
    ///
    /// # Panics
    /// Where a part's length is no multiple of `inputs`.
    pub fn new(parts: &[&[f32]], inputs: usize) -> Self {
        assert!(inputs > 0 && parts.iter().all(|part| part.len().is_multiple_of(inputs)), "whole rows only");
        let outputs = parts.iter().map(|part| part.len() / inputs).sum();
        let mut lanes = filled(usize::div_ceil(outputs, PANEL) * inputs, Line([0.0; PANEL]));
        let rows = parts.iter().flat_map(|part| part.chunks_exact(inputs));
        for (row, values) in rows.enumerate() {
            let panel = &mut lanes[row / PANEL * inputs..][..inputs];
            for (lane, &value) in panel.iter_mut().zip(values) {
                lane.0[row % PANEL] = value;
            }
        }
        Self { lanes, outputs, inputs }
    }

    /// Rows of the matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        std::mem::size_of_val(self.lanes.as_slice())
    }

    /// Copies row `row` into `out`: the embedding of a token.
    ///
    /// # Panics
    /// Where `row` or the length of `out` is not the matrix's.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.outputs && out.len() == self.inputs, "row {row} of {self:?}");
        let panel = &self.lanes[row / PANEL * self.inputs..][..self.inputs];
        for (out, lane) in out.iter_mut().zip(panel) {
            *out = lane.0[row % PANEL];
        }
    }

    /// `y = x W^T`: `x` is `(rows, inputs)`, `y` becomes `(rows, outputs)`, both row-major.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        self.forward_by(Put::Write, x, y);
    }

    /// `y += x W^T`, otherwise as [`PackedMatrix::forward`].
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn forward_add(&self, x: &[f32], y: &mut [f32]) {
        self.forward_by(Put::Add, x, y);
    }

    fn forward_by(&self, put: Put, x: &[f32], y: &mut [f32]) {
        let rows = x.len() / self.inputs;
        assert!(x.len() == rows * self.inputs && y.len() == rows * self.outputs, "x and y of {self:?}");
        let (y, isa, x) = (Columns::new(y, self.outputs), Isa::detect(), Strided::rows(x, self.inputs));
        each_panel(self.outputs, rows * self.inputs * self.outputs, |panel| {
            let lanes = &self.lanes[panel * self.inputs..][..self.inputs];
            product(isa, x, rows, lanes, &mut |row, sums| y.put(put, row, panel * PANEL, sums));
        });
    }

    /// `dx = dy W`: `dy` is `(rows, outputs)`, `dx` becomes `(rows, inputs)`, both row-major.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32]) {
        self.backward_by(Put::Write, dy, dx);
    }

    /// `dx += dy W`, otherwise as [`PackedMatrix::backward`].
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn backward_add(&self, dy: &[f32], dx: &mut [f32]) {
        self.backward_by(Put::Add, dy, dx);
    }

    fn backward_by(&self, put: Put, dy: &[f32], dx: &mut [f32]) {
        let rows = dy.len() / self.outputs;
        assert!(dy.len() == rows * self.outputs && dx.len() == rows * self.inputs, "dy and dx of {self:?}");
        let (dx, isa) = (Columns::new(dx, self.inputs), Isa::detect());
        // So many outputs at a time that a turned panel and the rows' part of `dy` stay in the cache.
        for outputs in (0..self.outputs).step_by(TURNED_MAX).map(|at| at..(at + TURNED_MAX).min(self.outputs)) {
            let put = if outputs.start == 0 { put } else { Put::Add };
            let dy = Strided { values: &dy[outputs.start..], row: self.outputs, step: 1 };
            each_panel(self.inputs, rows * outputs.len() * self.inputs, |block| {
                TURNED.with_borrow_mut(|lanes| {
                    self.transposed_panel(block * PANEL, outputs.clone(), lanes);
                    product(isa, dy, rows, lanes, &mut |row, sums| dx.put(put, row, block * PANEL, sums));
                });
            });
        }
    }

    /// Inputs `first .. first + 16` of `outputs`, the first of them a multiple of 16, as a panel of `W^T`: one lane an
    /// output.
    fn transposed_panel(&self, first: usize, outputs: Range<usize>, lanes: &mut Vec<Lane>) {
        let width = PANEL.min(self.inputs - first);
        if width < PANEL {
            lanes.clear(); // columns past the last stay zero
        }
        lanes.resize(outputs.len().next_multiple_of(PANEL), Line([0.0; PANEL]));
        for (panel, out) in lanes.chunks_exact_mut(PANEL).enumerate() {
            let tile = &self.lanes[(outputs.start / PANEL + panel) * self.inputs + first..][..width];
            for (column, lane) in tile.iter().enumerate() {
                for (out, value) in out.iter_mut().zip(lane.0) {
                    out.0[column] = value;
                }
            }
        }
        lanes.truncate(outputs.len());
    }

    #[cfg(test)]
    pub(super) fn panel(&self, panel: usize) -> &[Lane] {
        &self.lanes[panel * self.inputs..][..self.inputs]
    }
}

/// The first `rows` rows of `a` times one panel as deep, handed on row by row.
pub(super) fn product(
    isa: Isa,
    a: Strided<'_>,
    rows: usize,
    lanes: &[Lane],
    put: &mut impl FnMut(usize, &[f32; PANEL]),
) {
    let mut sums = NO_SUMS;
    for rows in tiles(rows, isa.rows()) {
        tile(isa, rows.len(), a.below(rows.start), lanes, &mut sums);
        for (row, sums) in rows.zip(&sums) {
            put(row, sums);
        }
    }
}

/// `height` rows, each as deep as there are lanes, times one panel: `sums[r][c] = sum_k a[r][k] * lanes[k][c]`.
pub(super) fn tile(isa: Isa, height: usize, a: Strided<'_>, lanes: &[Lane], sums: &mut Sums) {
    assert!((1..=isa.rows()).contains(&height) && a.holds(height, lanes.len()), "a tile of {height} rows");
    #[cfg(target_arch = "x86_64")]
    {
        use super::x86::{tile_avx2, tile_avx512};
        macro_rules! by_height {
            ($tile:ident: $($h:literal)+) => {
                match height {
                    // SAFETY: the processor has the instructions, and `a` holds `height` rows as deep as the panel.
                    $($h => unsafe { $tile::<$h>(a, lanes, sums) },)+
                    _ => unreachable!("the height was just checked"),
                }
            };
        }
        if isa.is_wide() {
            by_height!(tile_avx512: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            return;
        }
        if isa == Isa::Avx2 {
            by_height!(tile_avx2: 1 2 3 4 5 6);
            return;
        }
    }
    portable_tile(height, a, lanes, sums);
}

/// The same product without intrinsics.
fn portable_tile(height: usize, a: Strided<'_>, lanes: &[Lane], sums: &mut Sums) {
    sums[..height].fill([0.0; PANEL]);
    for (k, lane) in lanes.iter().enumerate() {
        for (row, sums) in sums.iter_mut().enumerate().take(height) {
            let factor = a.values[row * a.row + k * a.step];
            for (sum, weight) in sums.iter_mut().zip(lane.0) {
                *sum += factor * weight;
            }
        }
    }
}
