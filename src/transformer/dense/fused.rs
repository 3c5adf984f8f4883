//! The pieces of a layer as few kernels, for the decode pass. No gradient passes through them: the score pass has
//! [`super::ops`] and [`super::qkv`] instead, and both compute the same.

#![allow(clippy::disallowed_methods, reason = "these have no gradient, and the decode pass has none")]

use super::layout::Dense;
use super::ops;
use super::qkv::RotatedQkv;
use crate::formats::spec::{Activation, ModelSpec};
use crate::kernels::attention::Heads;
use crate::transformer::stack::QkNorms;
use candle_core::{D, Result, Tensor};

/// RMSNorm (arXiv 1910.07467) over the last dimension.
pub(super) fn norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    candle_nn::ops::rms_norm(&x.contiguous()?, weight, epsilon)
}

/// `activation(gate) * up` where a row is `gate` then `up`: `(rows, 2 width)` to `(rows, width)`.
pub(super) fn gated(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let width = x.dim(D::Minus1)? / 2;
    match activation {
        Activation::Silu => x.narrow(D::Minus1, 0, width)?.silu()? * x.narrow(D::Minus1, width, width)?,
        Activation::GeluTanh => ops::gated(x, activation),
    }
}

/// How a layer makes heads of its rows.
pub(super) struct HeadsOfRows<'a> {
    pub(super) heads: Heads,
    /// Norms of each head's queries and keys, `(head_dim)` each.
    pub(super) norms: Option<&'a QkNorms<Dense>>,
    pub(super) epsilon: f32,
    /// Cosines and sines, `(rows, 1, pairs)` each.
    pub(super) angles: &'a (Tensor, Tensor),
}

impl<'a> HeadsOfRows<'a> {
    pub(super) fn new(spec: &ModelSpec, norms: Option<&'a QkNorms<Dense>>, angles: &'a (Tensor, Tensor)) -> Self {
        Self { heads: Heads::of(spec), norms, epsilon: spec.norm_epsilon, angles }
    }

    /// Splits `(rows, q + k + v widths)`, then normalises and rotates queries and keys.
    pub(super) fn rotated(&self, qkv: &Tensor) -> Result<RotatedQkv> {
        let Heads { heads, kv_heads, head_dim, .. } = self.heads;
        let rows = qkv.dim(0)?;
        let part = |from: usize, heads: usize| {
            qkv.narrow(1, from * head_dim, heads * head_dim)?.contiguous()?.reshape((rows, heads, head_dim))
        };
        let v = part(heads + kv_heads, kv_heads)?;
        let Some(norms) = self.norms else {
            // Queries and keys in one go.
            let both = self.rotate(&part(0, heads + kv_heads)?)?;
            let (q, k) = (both.narrow(1, 0, heads)?.contiguous()?, both.narrow(1, heads, kv_heads)?);
            return Ok(RotatedQkv { q, k, v });
        };
        let rotated = |x: Tensor, weight: &Tensor| self.rotate(&norm(&x, weight, self.epsilon)?);
        Ok(RotatedQkv { q: rotated(part(0, heads)?, &norms.q)?, k: rotated(part(heads, kv_heads)?, &norms.k)?, v })
    }

    /// Rotary positions (arXiv 2104.09864) of `(rows, heads, head_dim)`: of the first `2 pairs` values, halves paired.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (cos, sin) = (self.angles.0.squeeze(1)?, self.angles.1.squeeze(1)?); // (rows, pairs)
        let (dim, turned) = (x.dim(D::Minus1)?, 2 * cos.dim(D::Minus1)?);
        let rotated = |x: &Tensor| candle_nn::rotary_emb::rope_thd(&x.unsqueeze(0)?, &cos, &sin)?.squeeze(0);
        if turned == dim {
            return rotated(x);
        }
        let first = rotated(&x.narrow(D::Minus1, 0, turned)?.contiguous()?)?;
        Tensor::cat(&[first, x.narrow(D::Minus1, turned, dim - turned)?], D::Minus1)
    }
}
