//! Elementwise loops of the transformer on raw rows: activations, norms, rotary positions, softmax.
//!
//! Safe code on slices, compiled for AVX-512, for AVX2 and for any processor.

mod activation;
mod elementwise;
pub(super) mod exp;
mod gated;
mod norm;
mod rotary;
mod rows;
mod softmax;
mod vectorised;

pub use activation::Activation;
pub(crate) use elementwise::{add, add_part, dot, scale_part};
pub(crate) use exp::exp;
pub(crate) use gated::{gated, gated_backward, gated_part};
pub(crate) use norm::{
    add_norm, norm, norm_backward, norm_backward_part, norm_backward_with_output, norm_part, norm_weight_backward,
};
pub(crate) use rotary::{rotate, rotate_head};
pub(crate) use rows::{by_rows, each_row};
pub(crate) use softmax::{log_prob, softmax_terms};
pub(crate) use vectorised::vectorised;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_and_its_norm_are_what_they_are_one_by_one() {
        for rows in [3, 4000] {
            let (x, y, weight) = (wave(9 * rows, 0.7), wave(9 * rows, 0.3), wave(9, 0.4));
            let (mut sum, mut normed) = (y.clone(), vec![0.0; 9 * rows]);
            add_norm(&x, &mut sum, &mut normed, &weight, 1e-5);
            let (mut expected, mut expected_norm) = (y, vec![0.0; 9 * rows]);
            add(&x, &mut expected);
            norm(&expected, &mut expected_norm, &weight, 1e-5);
            assert_eq!((sum, normed), (expected, expected_norm), "{rows} rows");
        }
    }

    /// Central differences of `f` against the gradient `dx` for the direction of `dy`.
    fn check(x: &[f32], dy: &[f32], dx: &[f32], f: impl Fn(&[f32]) -> Vec<f32>) {
        for i in 0..x.len() {
            let at = |shift: f32| {
                let mut x = x.to_vec();
                x[i] += shift;
                f(&x).iter().zip(dy).map(|(y, dy)| f64::from(y * dy)).sum::<f64>()
            };
            let expected = (at(5e-3) - at(-5e-3)) / 1e-2;
            assert!((f64::from(dx[i]) - expected).abs() < 2e-3, "element {i}: {} against {expected}", dx[i]);
        }
    }

    fn wave(count: usize, pace: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * pace).sin() * 1.5).collect()
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (x, dy, weight) = (wave(36, 0.7), wave(18, 1.3), wave(9, 0.4));
        let mut dx = vec![0.0; 36];
        // Rows of 18 that are 20 apart.
        let spread = |x: &[f32]| x.chunks(18).flat_map(|row| row.iter().copied().chain([7.0; 2])).collect::<Vec<f32>>();
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let (mut result, mut expected) = (dy.clone(), vec![0.0; 18]);
            gated_backward(&x, &mut result, &mut dx, 9, activation);
            check(&x, &dy, &dx, |x| {
                let mut out = vec![0.0; 18];
                gated(x, &mut out, 9, activation);
                out
            });
            gated(&x, &mut expected, 9, activation);
            let (mut of_spread, mut d_of_spread, mut dx_of_spread) = (vec![0.0; 18], dy.clone(), spread(&dx));
            gated(&spread(&x), &mut of_spread, 9, activation);
            gated_backward(&spread(&x), &mut d_of_spread, &mut dx_of_spread, 9, activation);
            assert_eq!((&of_spread, &d_of_spread, dx_of_spread), (&expected, &result, spread(&dx)));
            let close = result.iter().zip(&expected).all(|(got, expected)| (got - expected).abs() <= 1e-6);
            assert!(close, "{result:?}, expected {expected:?}");
        }
        let dy = wave(36, 1.1);
        dx.fill(0.0);
        norm_backward(&x, &dy, &mut dx, &weight, 1e-5);
        check(&x, &dy, &dx, |x| {
            let mut out = vec![0.0; 36];
            norm(x, &mut out, &weight, 1e-5);
            out
        });
        let (mut normed, mut again, mut expected) = (dy.clone(), vec![0.0; 36], vec![0.0; 36]);
        norm_backward_with_output(&x, &mut normed, &mut again, &weight, 1e-5);
        norm(&x, &mut expected, &weight, 1e-5);
        assert_eq!((again, normed), (dx.clone(), expected));
        let mut d_weight = vec![0.0; 9];
        norm_weight_backward(&x, &dy, &mut d_weight, 1e-5);
        check(&weight, &dy, &d_weight, |weight| {
            let mut out = vec![0.0; 36];
            norm(&x, &mut out, weight, 1e-5);
            out
        });
    }
}
