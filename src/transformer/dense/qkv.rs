//! Queries, keys and values as tensors: split, normalised by head and rotated by position.

use super::layout::Dense;
use super::ops;
use crate::formats::spec::ModelSpec;
use crate::kernels::attention::Heads;
use crate::transformer::error::Result;
use crate::transformer::stack::QkNorms;
use candle_core::Tensor;

/// A value for each kind of layer: full attention and sliding window.
pub(super) struct ByLayerKind<T>([Option<T>; 2]);

impl<T> ByLayerKind<T> {
    /// Makes a value for each kind that `spec` has, from one layer of that kind.
    pub(super) fn new(spec: &ModelSpec, make: impl Fn(usize) -> Result<T>) -> Result<Self> {
        let of = |slides: bool| (0..spec.layers).find(|&layer| spec.slides(layer) == slides).map(&make).transpose();
        Ok(Self([of(false)?, of(true)?]))
    }

    /// The value of `layer`'s kind.
    pub(super) fn of(&self, spec: &ModelSpec, layer: usize) -> &T {
        self.0[usize::from(spec.slides(layer))].as_ref().expect("there is a value for each kind of layer")
    }
}

/// Queries, keys and values of a step's rows, `(rows, heads, head_dim)` each; queries and keys normalised and rotated.
pub(super) struct RotatedQkv {
    pub(super) q: Tensor,
    pub(super) k: Tensor,
    pub(super) v: Tensor,
}

impl RotatedQkv {
    /// The same values without a graph.
    pub(super) fn detached(&self) -> Self {
        Self { q: self.q.detach(), k: self.k.detach(), v: self.v.detach() }
    }
}

/// The per-head norms and rotary positions of a layer's rows.
#[derive(Clone)]
pub(super) struct QkvRotation {
    pub(super) heads: Heads,
    norms: Option<(Tensor, Tensor)>,
    epsilon: f32,
    /// `(rows, 1, head_dim / 2)` each.
    angles: (Tensor, Tensor),
}

impl QkvRotation {
    pub(super) fn new(spec: &ModelSpec, norms: Option<&QkNorms<Dense>>, angles: &(Tensor, Tensor)) -> Self {
        let norms = norms.map(|norms| (norms.q.clone(), norms.k.clone()));
        Self { heads: Heads::of(spec), norms, epsilon: spec.norm_epsilon, angles: angles.clone() }
    }

    /// Splits `(rows, q + k + v widths)`, then normalises and rotates queries and keys.
    pub(super) fn apply(&self, qkv: &Tensor) -> candle_core::Result<RotatedQkv> {
        let Heads { heads, kv_heads, head_dim, .. } = self.heads;
        let rows = qkv.dim(0)?;
        let part = |from: usize, heads: usize| {
            qkv.narrow(1, from * head_dim, heads * head_dim)?.contiguous()?.reshape((rows, heads, head_dim))
        };
        let rotated = |x: Tensor, weight: Option<&Tensor>| {
            let x = if let Some(weight) = weight { ops::norm(&x, weight, self.epsilon)? } else { x };
            ops::rotate(&x, &self.angles.0, &self.angles.1)
        };
        let q = rotated(part(0, heads)?, self.norms.as_ref().map(|norms| &norms.0))?;
        let k = rotated(part(heads, kv_heads)?, self.norms.as_ref().map(|norms| &norms.1))?;
        Ok(RotatedQkv { q, k, v: part(heads + kv_heads, kv_heads)? })
    }
}
