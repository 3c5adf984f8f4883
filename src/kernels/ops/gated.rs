//! The gated linear unit and its gradient.

use super::activation::Activation;
use super::exp::exp;
use super::rows::{by_rows, by_rows_of};
use super::vectorised::vectorised;

/// `activation(gate) * up`, where a row of `x` is `gate` then `up`, each of `width`; rows of `x` have stride `stride`.
#[inline(always)]
fn gated_rows(x: &[f32], stride: usize, out: &mut [f32], width: usize, activation: Activation) {
    let (a, b) = activation.coefficients();
    for (x, out) in x.chunks_exact(stride).zip(out.chunks_exact_mut(width)) {
        let (gate, up) = (&x[..width], &x[width..2 * width]);
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + exp(-gate * (a + b * gate * gate))) * up;
        }
    }
}
vectorised!(
    gated_part, gated_rows, (x: &[f32], stride: usize, out: &mut [f32], width: usize, activation: Activation)
);

/// Gradient of [`gated`]: `dx` from the input `x` and the result's gradient `dy`. `dy` becomes the result itself, which
/// is a by-product and needed for the gradient of the next linear.
#[inline(always)]
fn gated_backward_rows(x: &[f32], stride: usize, dy: &mut [f32], dx: &mut [f32], width: usize, activation: Activation) {
    let (a, b) = activation.coefficients();
    for ((x, dy), dx) in x.chunks_exact(stride).zip(dy.chunks_exact_mut(width)).zip(dx.chunks_exact_mut(stride)) {
        let (gate, up) = (&x[..width], &x[width..2 * width]);
        let (dgate, dup) = dx[..2 * width].split_at_mut(width);
        for i in 0..width {
            let square = b * gate[i] * gate[i];
            let sigmoid = 1.0 / (1.0 + exp(-gate[i] * (a + square)));
            let value = gate[i] * sigmoid;
            dgate[i] = dy[i] * up[i] * (sigmoid + value * (1.0 - sigmoid) * (a + 3.0 * square));
            dup[i] = dy[i] * value;
            dy[i] = value * up[i];
        }
    }
}
vectorised!(
    gated_backward_part, gated_backward_rows,
    (x: &[f32], stride: usize, dy: &mut [f32], dx: &mut [f32], width: usize, activation: Activation)
);

/// A gated linear unit: `x` is `(rows, 2 width)` with the gate first, whose stride may exceed its width; `out` becomes
/// `(rows, width)`.
pub(crate) fn gated(x: &[f32], out: &mut [f32], width: usize, activation: Activation) {
    let stride = x.len() / (out.len() / width).max(1);
    by_rows(out, width, |row, out| {
        gated_part(&x[row * stride..][..out.len() / width * stride], stride, out, width, activation);
    });
}

/// Gradient of [`gated`]: `dx`, in the layout of `x`, from the result's gradient `d`, which becomes the result.
pub(crate) fn gated_backward(x: &[f32], d: &mut [f32], dx: &mut [f32], width: usize, activation: Activation) {
    let stride = x.len() / (d.len() / width).max(1);
    by_rows_of((x, stride), (d, width), (dx, stride), |x, d, dx| {
        gated_backward_part(x, stride, d, dx, width, activation);
    });
}
