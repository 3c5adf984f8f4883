//! What training wants of packed weights: their values in the open, and a linear's gradient in their own layout.
//!
//! An optimizer goes from value to value and does not care in which order they lie: so gradient and moments lie as the
//! weights do, and nothing is ever turned around but for a file.

use super::full::product;
use super::isa::Isa;
use super::strided::Strided;
use super::tile::Tile;
use super::transpose16::{floats, floats_mut};
use super::{Lane, NO_SUM, PANEL, PARALLEL_MIN, PackedMatrix, thread_pool, tiles};
use std::cell::RefCell;
use std::ops::Range;

/// Panels of a gradient that one thread computes at a time.
const PANELS: usize = 8;

/// What a thread works with, used again.
#[derive(Default)]
struct Scratch {
    /// Panels of `dy`.
    lanes: Vec<Lane>,
    /// A tile's columns of `x`.
    columns: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Values that a packed matrix of `(outputs, inputs)` takes, those past the last output included.
pub(crate) fn packed_len(outputs: usize, inputs: usize) -> usize {
    outputs.next_multiple_of(PANEL) * inputs
}

/// Where row `row` begins; its inputs are a panel apart.
fn row_start(row: usize, inputs: usize) -> usize {
    row / PANEL * inputs * PANEL + row % PANEL
}

/// `rows` of a packed matrix in row-major order, `(rows, inputs)`.
pub(crate) fn unpack_rows(packed: &[f32], inputs: usize, rows: Range<usize>) -> Vec<f32> {
    let row = |row| packed[row_start(row, inputs)..].iter().step_by(PANEL).take(inputs).copied();
    rows.flat_map(row).collect()
}

/// Writes row-major `values`, `(rows, inputs)`, to a packed matrix from row `first` on.
pub(crate) fn pack_rows(values: &[f32], inputs: usize, first: usize, packed: &mut [f32]) {
    for (row, values) in values.chunks_exact(inputs).enumerate() {
        let to = packed[row_start(first + row, inputs)..].iter_mut().step_by(PANEL);
        to.zip(values).for_each(|(to, value)| *to = *value);
    }
}

/// `packed[row] += scale * values`.
pub(crate) fn add_row(values: &[f32], scale: f32, row: usize, packed: &mut [f32]) {
    let to = packed[row_start(row, values.len())..].iter_mut().step_by(PANEL);
    to.zip(values).for_each(|(to, value)| *to += scale * value);
}

/// Adds `dy^T x`, the gradient of the weight of `y = x W^T`, to `gradient`, which lies as the packed weight does: `x` is
/// `(rows, inputs)`, `dy` is `(rows, outputs)`, both row-major, rows of `dy` perhaps further apart than they are wide. Each
/// sum is one chain in the order of the rows.
///
/// # Panics
/// Where the lengths do not fit.
pub(crate) fn add_weight_gradient(x: &[f32], inputs: usize, dy: &[f32], outputs: usize, gradient: &mut [f32]) {
    let (rows, isa) = (x.len() / inputs, Isa::detect());
    let apart = dy.len() / rows.max(1);
    let fits = x.len() == rows * inputs && dy.len() == rows * apart && (rows == 0 || apart >= outputs);
    let fits = fits && gradient.len() == packed_len(outputs, inputs);
    assert!(fits, "x, dy and gradient of a linear of {outputs} x {inputs}");
    let piece = |piece: usize, gradient: &mut &mut [f32]| {
        SCRATCH.with_borrow_mut(|Scratch { lanes, columns }| {
            let panels = gradient.len() / (inputs * PANEL);
            lanes.clear(); // columns past the last are zero
            lanes.resize(panels * rows, NO_SUM);
            for (panel, lanes) in lanes.chunks_exact_mut(rows.max(1)).enumerate() {
                let first = (piece * PANELS + panel) * PANEL;
                let count = PANEL.min(outputs - first);
                for (lane, dy) in lanes.iter_mut().zip(dy.chunks_exact(apart.max(1))) {
                    lane.0[..count].copy_from_slice(&dy[first..][..count]);
                }
            }
            for tile in tiles(inputs, isa.rows_alone()) {
                // The tile's columns of `x` side by side: they meet every panel, and lie far apart.
                columns.clear();
                columns.extend(x.chunks_exact(inputs).flat_map(|x| &x[tile.clone()]));
                let turned = Strided::columns(columns, tile.len());
                for (panel, gradient) in gradient.chunks_exact_mut(inputs * PANEL).enumerate() {
                    let to = &mut gradient[tile.start * PANEL..];
                    let lanes = &lanes[panel * rows..][..rows];
                    product(isa, (turned, Tile::Near), tile.len(), lanes, &mut |row, sums| {
                        to[row * PANEL..][..PANEL].iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
                    });
                }
            }
        });
    };
    let is_small = rows * gradient.len() < PARALLEL_MIN;
    let mut pieces: Vec<&mut [f32]> = gradient.chunks_mut(PANELS * inputs * PANEL).collect();
    if is_small {
        pieces.iter_mut().enumerate().for_each(|(index, gradient)| piece(index, gradient));
    } else {
        thread_pool::each_mut(&mut pieces, piece);
    }
}

impl PackedMatrix {
    /// The values as they lie: in panels of 16 outputs, input by input.
    pub(crate) fn values(&self) -> &[f32] {
        floats(&self.lanes)
    }

    /// The values as they lie, to be changed. Those past the last output must stay zero.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        floats_mut(&mut self.lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize, pace: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * pace).sin()).collect()
    }

    #[test]
    fn rows_come_back_from_panels_wherever_they_lie() {
        for (outputs, inputs) in [(1, 1), (16, 3), (37, 5)] {
            let rows = wave(outputs * inputs, 0.3);
            let mut matrix = PackedMatrix::new(&[&rows], inputs);
            assert_eq!(matrix.values().len(), packed_len(outputs, inputs));
            assert_eq!(unpack_rows(matrix.values(), inputs, 0..outputs), rows);
            let mut packed = vec![0.0; packed_len(outputs, inputs)];
            let half = outputs / 2;
            pack_rows(&rows[half * inputs..], inputs, half, &mut packed);
            pack_rows(&rows[..half * inputs], inputs, 0, &mut packed);
            assert_eq!(packed, matrix.values());
            add_row(&vec![2.0; inputs], 0.5, outputs - 1, matrix.values_mut());
            let changed: Vec<f32> = rows[(outputs - 1) * inputs..].iter().map(|x| x + 1.0).collect();
            assert_eq!(unpack_rows(matrix.values(), inputs, outputs - 1..outputs), changed);
        }
    }

    #[test]
    fn a_gradient_in_panels_is_the_sum_of_outer_products() {
        // A single row, more rows than a tile, panels that are not full, and enough work for several threads.
        for (rows, inputs, outputs) in [(1, 3, 2), (17, 20, 37), (70, 64, 130)] {
            let (x, dy) = (wave(rows * inputs, 0.7), wave(rows * outputs, 1.3));
            let mut gradient = vec![0.0; packed_len(outputs, inputs)];
            add_weight_gradient(&x, inputs, &dy, outputs, &mut gradient);
            add_weight_gradient(&x, inputs, &dy, outputs, &mut gradient);
            let found = unpack_rows(&gradient, inputs, 0..outputs);
            for output in 0..outputs {
                for input in 0..inputs {
                    let of = |row: usize| f64::from(x[row * inputs + input]) * f64::from(dy[row * outputs + output]);
                    let expected = 2.0 * (0..rows).map(of).sum::<f64>();
                    let got = f64::from(found[output * inputs + input]);
                    assert!((got - expected).abs() < 1e-5 * rows as f64, "{output}, {input}: {got} for {expected}");
                }
            }
            let set = |values: &[f32]| values.iter().filter(|value| **value != 0.0).count();
            assert_eq!(set(&gradient), set(&found), "what lies past the last output stays zero");
        }
    }
}
