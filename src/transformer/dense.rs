//! The transformer over plain tensors on any device: what a GPU runs.
//!
//! Weights lie as `(outputs, inputs)` in one type, bf16 on a GPU; activations and all that is summed are f32. Both
//! passes are written in the library's own operations, so that the CPU can run them too: that is how they are tested.

mod branches;
pub(crate) mod decode;
mod ops;
pub(crate) mod score;

pub(crate) use branches::{Branches, Trainable};

use super::{Form, QkNorms, Stack};
use crate::formats::Result;
use crate::formats::spec::ModelSpec;
use crate::kernels::Precision;
use crate::kernels::attention::Heads;
use candle_core::{DType, Device, Tensor};

/// Weights as tensors of `dtype` on `device`; norms and biases are f32.
#[derive(Clone, Debug)]
pub(crate) struct Dense {
    /// Where they lie.
    pub(crate) device: Device,
    /// Type of the matrices.
    pub(crate) dtype: DType,
}

impl Dense {
    /// The type of the matrices, by its name in configs.
    pub(crate) fn precision(&self) -> Precision {
        if self.dtype == DType::F32 { Precision::F32 } else { Precision::Bf16 }
    }
}

impl Form for Dense {
    type Matrix = Tensor;
    type Vector = Tensor;

    fn matrix(&self, parts: &[&[f32]], inputs: usize) -> Result<Tensor> {
        let place = |part: &&[f32]| -> Result<Tensor> {
            // Narrowed on the host: the f32 values never cross to the device.
            let part = Tensor::from_slice(part, (part.len() / inputs, inputs), &Device::Cpu)?;
            Ok(part.to_dtype(self.dtype)?.to_device(&self.device)?)
        };
        let parts = parts.iter().map(place).collect::<Result<Vec<_>>>()?;
        Ok(if let [only] = parts.as_slice() { only.clone() } else { Tensor::cat(&parts, 0)? })
    }

    fn vector(&self, values: Vec<f32>) -> Result<Tensor> {
        Ok(Tensor::new(values, &self.device)?)
    }

    fn bytes(matrix: &Tensor) -> usize {
        matrix.elem_count() * matrix.dtype().size_in_bytes()
    }

    fn decode_bytes(matrix: &Tensor) -> usize {
        Self::bytes(matrix)
    }

    fn has_score(_: &Tensor) -> bool {
        true
    }

    fn len(vector: &Tensor) -> usize {
        vector.elem_count()
    }
}

impl Stack<Dense> {
    /// Embeddings of `ids`, `(ids, hidden)`, scaled as the family scales them.
    ///
    /// # Errors
    /// Where an id is outside the vocabulary or the device fails.
    pub(crate) fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let embedding = self.embedding_of(ids)?;
        let rows = embedding.index_select(&Tensor::new(ids, embedding.device())?, 0)?.to_dtype(DType::F32)?;
        Ok((rows * f64::from(self.spec().embedding_scale))?) // (ids, hidden)
    }
}

/// A value for each kind of layer: those that see every earlier token, and those that see the newest only.
struct ByKind<T>([Option<T>; 2]);

impl<T> ByKind<T> {
    /// Makes the values of the kinds that `spec` has, each from a layer of its kind.
    fn new(spec: &ModelSpec, make: impl Fn(usize) -> Result<T>) -> Result<Self> {
        let of = |slides: bool| (0..spec.layers).find(|&layer| spec.slides(layer) == slides).map(&make).transpose();
        Ok(Self([of(false)?, of(true)?]))
    }

    /// The value of `layer`'s kind.
    fn of(&self, spec: &ModelSpec, layer: usize) -> &T {
        self.0[usize::from(spec.slides(layer))].as_ref().expect("each layer is of a kind that was made")
    }
}

/// Queries, keys and values of a step's rows, `(rows, heads, head_dim)` each, normalised and turned.
struct Turned {
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

/// How the rows of a layer are turned.
#[derive(Clone)]
struct Turn {
    heads: Heads,
    norms: Option<(Tensor, Tensor)>,
    epsilon: f32,
    /// `(rows, 1, head_dim / 2)` each.
    angles: (Tensor, Tensor),
}

impl Turn {
    fn new(spec: &ModelSpec, norms: Option<&QkNorms<Dense>>, angles: &(Tensor, Tensor)) -> Self {
        let norms = norms.map(|norms| (norms.q.clone(), norms.k.clone()));
        Self { heads: Heads::of(spec), norms, epsilon: spec.norm_epsilon, angles: angles.clone() }
    }

    /// Splits and turns `(rows, q + k + v widths)`.
    fn apply(&self, qkv: &Tensor) -> candle_core::Result<Turned> {
        let Heads { heads, kv_heads, head_dim, .. } = self.heads;
        let rows = qkv.dim(0)?;
        let part = |from: usize, heads: usize| {
            qkv.narrow(1, from * head_dim, heads * head_dim)?.contiguous()?.reshape((rows, heads, head_dim))
        };
        let turned = |x: Tensor, weight: Option<&Tensor>| {
            let x = if let Some(weight) = weight { ops::norm(&x, weight, self.epsilon)? } else { x };
            ops::rotate(&x, &self.angles.0, &self.angles.1)
        };
        let q = turned(part(0, heads)?, self.norms.as_ref().map(|norms| &norms.0))?;
        let k = turned(part(heads, kv_heads)?, self.norms.as_ref().map(|norms| &norms.1))?;
        Ok(Turned { q, k, v: part(heads + kv_heads, kv_heads)? })
    }
}

#[cfg(test)]
mod tests;
