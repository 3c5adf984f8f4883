//! The pieces of a transformer as tensor operations that run on any device, and the gradients that are written out.
//!
//! Activations are f32. What has no gradient of its own here can be differentiated by the tensor library.

use crate::formats::spec::Activation;
use crate::transformer::error;
use crate::transformer::rope::Angles;
use candle_core::{D, Device, Result, Tensor};

/// RMSNorm (arXiv 1910.07467) over the last dimension.
pub(super) fn norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + f64::from(epsilon))?.sqrt()?)?.broadcast_mul(weight)
}

/// The gradient of [`norm`]'s input from that of its output, `(rows, width)` each.
pub(super) fn norm_gradient(x: &Tensor, weight: &Tensor, epsilon: f32, dy: &Tensor) -> Result<Tensor> {
    let inverse = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(epsilon))?.sqrt()?.recip()?; // (rows, 1)
    let of_normalised = dy.broadcast_mul(weight)?;
    let along = ((&of_normalised * x)?.mean_keepdim(D::Minus1)? * inverse.sqr()?)?; // (rows, 1)
    (of_normalised - x.broadcast_mul(&along)?)?.broadcast_mul(&inverse)
}

/// `activation(gate) * up` where a row is `gate` then `up`: `(rows, 2 width)` to `(rows, width)`.
pub(super) fn gated(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let width = x.dim(D::Minus1)? / 2;
    let gate = x.narrow(D::Minus1, 0, width)?.contiguous()?;
    let activated = match activation {
        Activation::Silu => gate.silu()?,
        Activation::GeluTanh => (gelu_tanh(&gate, activation)?.affine(0.5, 0.5)? * gate)?,
    };
    activated * x.narrow(D::Minus1, width, width)?
}

/// The gradient of [`gated`]'s input, `(rows, 2 width)`, from that of its output, `(rows, width)`.
pub(super) fn gated_gradient(x: &Tensor, activation: Activation, dy: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)? / 2;
    let gate = x.narrow(D::Minus1, 0, width)?.contiguous()?;
    // Both activations are `gate * share`.
    let (share, slope) = match activation {
        Activation::Silu => {
            let share = gate.affine(0.5, 0.0)?.tanh()?.affine(0.5, 0.5)?;
            let activated = (&gate * &share)?;
            let slope = ((&activated + &share)? - (activated * &share)?)?;
            (share, slope)
        }
        Activation::GeluTanh => {
            let tanh = gelu_tanh(&gate, activation)?;
            let (a, b) = activation.coefficients();
            let inner = (gate.sqr()?.affine(1.5 * f64::from(b), f64::from(a) / 2.0)? * &gate)?;
            let share = tanh.affine(0.5, 0.5)?;
            let slope = (&share + (tanh.sqr()?.affine(-0.5, 0.5)? * inner)?)?;
            (share, slope)
        }
    };
    let of_up = (dy * (gate * share)?)?;
    let of_gate = ((dy * x.narrow(D::Minus1, width, width)?)? * slope)?;
    Tensor::cat(&[of_gate, of_up], D::Minus1)
}

/// The tanh in GELU's approximation (arXiv 1606.08415).
fn gelu_tanh(gate: &Tensor, activation: Activation) -> Result<Tensor> {
    let (a, b) = activation.coefficients();
    (gate.sqr()?.affine(f64::from(b) / 2.0, f64::from(a) / 2.0)? * gate)?.tanh()
}

/// Cosines and sines of a step's rows on `device`, `(rows, 1, head_dim / 2)` each.
pub(super) fn angles(table: &Angles, rows: usize, device: &Device) -> error::Result<(Tensor, Tensor)> {
    let half = table.cos.len() / rows.max(1);
    let place = |values: &[f32]| Tensor::from_slice(values, (rows, 1, half), device);
    Ok((place(&table.cos)?, place(&table.sin)?))
}

/// Rotary positions (arXiv 2104.09864) of `(rows, heads, head_dim)`: of the first `2 pairs` values, halves paired; `cos` and
/// `sin` are `(rows, 1, pairs)`.
pub(super) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (dim, half) = (x.dim(D::Minus1)?, cos.dim(D::Minus1)?);
    let (first, second) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let rotated_first = (first.broadcast_mul(cos)? - second.broadcast_mul(sin)?)?;
    let rotated_second = (second.broadcast_mul(cos)? + first.broadcast_mul(sin)?)?;
    if 2 * half == dim {
        return Tensor::cat(&[rotated_first, rotated_second], D::Minus1);
    }
    Tensor::cat(&[rotated_first, rotated_second, x.narrow(D::Minus1, 2 * half, dim - 2 * half)?], D::Minus1)
}

/// Log-probability of one id a row under softmax(scale * logits): `(rows, vocab)` and `(rows)` to `(rows)`.
pub(super) fn picked_log_softmax(logits: &Tensor, ids: &Tensor, scale: f32) -> Result<Tensor> {
    let logits = (logits * f64::from(scale))?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    let picked = shifted.gather(&ids.unsqueeze(1)?, 1)?.squeeze(1)?; // (rows)
    picked - shifted.exp()?.sum(D::Minus1)?.log()?
}

/// The gradient of [`picked_log_softmax`]'s logits, `(rows, vocab)`, from that of its log-probabilities, `(rows)`.
#[allow(clippy::disallowed_methods, reason = "the softmax is differentiated here")]
pub(super) fn picked_log_softmax_gradient(logits: &Tensor, ids: &Tensor, scale: f32, dy: &Tensor) -> Result<Tensor> {
    let probabilities = candle_nn::ops::softmax_last_dim(&(logits * f64::from(scale))?)?;
    let dy = (dy * f64::from(scale))?.unsqueeze(1)?; // (rows, 1)
    probabilities.broadcast_mul(&dy.neg()?)?.scatter_add(&ids.unsqueeze(1)?, &dy, 1)
}
