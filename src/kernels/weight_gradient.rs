//! The gradient of a linear's weight, in the layout of the packed weight.

use super::gemm::product;
use super::isa::Isa;
use super::layout::{Lane, NO_SUM, PANEL, tiles};
use super::operands::{Lhs, Strided};
use super::packed_matrix::packed_len;
use super::parallel::PARALLEL_MIN;
use super::thread_pool;
use std::cell::RefCell;

/// Panels of a gradient that one thread computes at a time.
const PANELS: usize = 8;

/// A thread's buffers, reused.
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

/// Adds `dy^T x`, the gradient of the weight of `y = x W^T`, to `gradient`, which has the packed weight's layout. `x`
/// is `(rows, inputs)`, `dy` is `(rows, outputs)`, both row-major; rows of `dy` may have a larger stride. Each sum is
/// one chain in the order of the rows.
///
/// # Panics
/// Where the lengths do not fit.
pub(crate) fn add_weight_gradient(x: &[f32], inputs: usize, dy: &[f32], outputs: usize, gradient: &mut [f32]) {
    let (rows, isa) = (x.len() / inputs, Isa::detect());
    let stride = dy.len() / rows.max(1);
    let fits = x.len() == rows * inputs && dy.len() == rows * stride && (rows == 0 || stride >= outputs);
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
                for (lane, dy) in lanes.iter_mut().zip(dy.chunks_exact(stride.max(1))) {
                    lane.0[..count].copy_from_slice(&dy[first..][..count]);
                }
            }
            for tile in tiles(inputs, isa.single_panel_rows()) {
                // The tile's columns of `x` are gathered, since every panel reads them.
                columns.clear();
                columns.extend(x.chunks_exact(inputs).flat_map(|x| &x[tile.clone()]));
                let transposed = Strided::columns(columns, tile.len());
                for (panel, gradient) in gradient.chunks_exact_mut(inputs * PANEL).enumerate() {
                    let to = &mut gradient[tile.start * PANEL..];
                    let lanes = &lanes[panel * rows..][..rows];
                    product(isa, (transposed, Lhs::Cached), tile.len(), lanes, &mut |row, sums| {
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

#[cfg(test)]
mod tests {
    use super::super::packed_matrix::unpack_rows;
    use super::*;

    fn wave(count: usize, pace: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * pace).sin()).collect()
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
            assert_eq!(set(&gradient), set(&found), "padding past the last output stays zero");
        }
    }
}
