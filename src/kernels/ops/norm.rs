//! RMSNorm and its gradients, alone and fused with their neighbours.

use super::elementwise::add_part;
use super::rows::{by_rows, by_rows_of};
use super::vectorised::vectorised;

/// `x / sqrt(mean(x^2) + epsilon) * weight`, row by row.
#[inline(always)]
fn norm_rows(x: &[f32], out: &mut [f32], weight: &[f32], epsilon: f32) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        let scale = inverse_root_mean_square(x, epsilon);
        for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}
vectorised!(
    /// RMSNorm over rows as long as `weight`.
    norm_part, norm_rows, (x: &[f32], out: &mut [f32], weight: &[f32], epsilon: f32)
);

/// The factor on `x` that a row's gradient subtracts: `sum(x dy weight) scale^3 / width`.
#[inline(always)]
fn norm_inner(x: &[f32], dy: &[f32], weight: &[f32], scale: f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    for ((x, dy), weight) in x.chunks(8).zip(dy.chunks(8)).zip(weight.chunks(8)) {
        for (((lane, x), dy), weight) in lanes.iter_mut().zip(x).zip(dy).zip(weight) {
            *lane += x * dy * weight;
        }
    }
    lanes.iter().sum::<f32>() * scale * scale * scale / x.len() as f32
}

/// Adds the gradient of [`norm`] with respect to `x` to `dx`; the weight is frozen.
#[inline(always)]
fn norm_backward_rows(x: &[f32], dy: &[f32], dx: &mut [f32], weight: &[f32], epsilon: f32) {
    let width = weight.len();
    for ((x, dy), dx) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
        let scale = inverse_root_mean_square(x, epsilon);
        let inner = norm_inner(x, dy, weight, scale);
        for (((dx, x), dy), weight) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
            *dx += dy * weight * scale - x * inner;
        }
    }
}
vectorised!(
    /// Gradient of [`norm_part`], added to `dx`.
    norm_backward_part, norm_backward_rows, (x: &[f32], dy: &[f32], dx: &mut [f32], weight: &[f32], epsilon: f32)
);

/// [`norm_backward_rows`]; `dy` becomes the norm's output.
#[inline(always)]
fn norm_backward_with_output_rows(x: &[f32], dy: &mut [f32], dx: &mut [f32], weight: &[f32], epsilon: f32) {
    let width = weight.len();
    for ((x, dy), dx) in x.chunks_exact(width).zip(dy.chunks_exact_mut(width)).zip(dx.chunks_exact_mut(width)) {
        let scale = inverse_root_mean_square(x, epsilon);
        let inner = norm_inner(x, dy, weight, scale);
        for (((dx, x), dy), weight) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
            *dx += *dy * weight * scale - x * inner;
            *dy = x * scale * weight;
        }
    }
}
vectorised!(
    norm_backward_with_output_part, norm_backward_with_output_rows, (x: &[f32], dy: &mut [f32], dx: &mut [f32], weight: &[f32], epsilon: f32)
);

/// Adds the gradient of [`norm`] with respect to its weight to `sum`: the sum over rows of `dy x` times the row's
/// scale.
#[inline(always)]
fn norm_weight_rows(x: &[f32], dy: &[f32], sum: &mut [f32], epsilon: f32) {
    let width = sum.len();
    for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
        let scale = inverse_root_mean_square(x, epsilon);
        for ((sum, &x), &dy) in sum.iter_mut().zip(x).zip(dy) {
            *sum += dy * x * scale;
        }
    }
}
vectorised!(
    /// Gradient of [`norm_part`] with respect to the weight, added to `sum`.
    norm_weight_backward, norm_weight_rows, (x: &[f32], dy: &[f32], sum: &mut [f32], epsilon: f32)
);

#[inline(always)]
fn inverse_root_mean_square(x: &[f32], epsilon: f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    for chunk in x.chunks(8) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    (lanes.iter().sum::<f32>() / x.len() as f32 + epsilon).sqrt().recip()
}

/// RMSNorm (arXiv 1910.07467) over rows as long as `weight`.
pub(crate) fn norm(x: &[f32], out: &mut [f32], weight: &[f32], epsilon: f32) {
    let width = weight.len();
    by_rows(out, width, |row, out| norm_part(&x[row * width..][..out.len()], out, weight, epsilon));
}

/// Adds the gradient of [`norm`] to `dx`.
pub(crate) fn norm_backward(x: &[f32], dy: &[f32], dx: &mut [f32], weight: &[f32], epsilon: f32) {
    let width = weight.len();
    by_rows(dx, width, |row, dx| {
        let (x, dy) = (&x[row * width..][..dx.len()], &dy[row * width..][..dx.len()]);
        norm_backward_part(x, dy, dx, weight, epsilon);
    });
}

/// [`norm_backward`]; `dy` becomes the norm's output, which is a by-product and needed for the gradient of the next
/// linear.
pub(crate) fn norm_backward_with_output(x: &[f32], dy: &mut [f32], dx: &mut [f32], weight: &[f32], epsilon: f32) {
    let width = weight.len();
    by_rows_of((x, width), (dy, width), (dx, width), |x, dy, dx| {
        norm_backward_with_output_part(x, dy, dx, weight, epsilon)
    });
}

/// `y += x`, then [`norm`] of `y`.
pub(crate) fn add_norm(x: &[f32], y: &mut [f32], out: &mut [f32], weight: &[f32], epsilon: f32) {
    let width = weight.len();
    by_rows_of((x, width), (y, width), (out, width), |x, y, out| {
        for ((x, y), out) in x.chunks(width).zip(y.chunks_mut(width)).zip(out.chunks_mut(width)) {
            add_part(x, y);
            norm_part(y, out, weight, epsilon);
        }
    });
}
