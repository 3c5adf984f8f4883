//! The pieces of a transformer as tensor operations that run on any device, and as nodes of a graph.
//!
//! Activations are f32; products with frozen weights are computed in the weights' type. Everything here can be
//! differentiated; [`recomputed`] keeps only a piece's input and computes the rest again for the gradient.

use crate::formats::spec::Activation;
use crate::transformer::error;
use crate::transformer::rope::Angles;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Storage, Tensor, Var,
    backend::BackendStorage,
};
use std::sync::Mutex;

/// `x W^T` with a frozen `W` of `(outputs, inputs)`: `(rows, inputs)` to `(rows, outputs)`.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?.to_dtype(DType::F32)
}

/// RMSNorm (arXiv 1910.07467) over the last dimension.
pub(super) fn norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + f64::from(epsilon))?.sqrt()?)?.broadcast_mul(weight)
}

/// `activation(gate) * up` where a row is `gate` then `up`: `(rows, 2 width)` to `(rows, width)`.
pub(super) fn gated(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let width = x.dim(D::Minus1)? / 2;
    let gate = x.narrow(D::Minus1, 0, width)?.contiguous()?;
    let activated = match activation {
        Activation::Silu => gate.silu()?,
        // As a tanh, whose gradient stays finite however large the gate.
        Activation::GeluTanh => {
            let (a, b) = activation.coefficients();
            let inner = (gate.sqr()?.affine(f64::from(b) / 2.0, f64::from(a) / 2.0)? * &gate)?;
            (inner.tanh()?.affine(0.5, 0.5)? * gate)?
        }
    };
    activated * x.narrow(D::Minus1, width, width)?
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

/// Attention by its definition, heads grouped (arXiv 2305.13245). `q` is `(batch, rows, heads, head_dim)`, `k` and `v` are
/// `(batch, keys, kv_heads, head_dim)`, `mask` is added to the scores, `(batch, rows, keys)`; gives `(batch, rows, heads * head_dim)`.
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: &Tensor, scale: f32) -> Result<Tensor> {
    let (batch, rows, heads, head_dim) = q.dims4()?;
    let (_, keys, kv_heads, _) = k.dims4()?;
    let group = heads / kv_heads;
    // Queries of one KV head are contiguous.
    let q = q.reshape((batch, rows, kv_heads, group, head_dim))?.permute((0, 2, 3, 1, 4))?.contiguous()?;
    let q = q.reshape((batch, kv_heads, group * rows, head_dim))?;
    let k = k.permute((0, 2, 3, 1))?.contiguous()?; // (batch, kv_heads, head_dim, keys)
    let v = v.transpose(1, 2)?.contiguous()?; // (batch, kv_heads, keys, head_dim)
    let scores = (q.matmul(&k)? * f64::from(scale))?.reshape((batch, heads, rows, keys))?;
    let weights = softmax(&scores.broadcast_add(&mask.unsqueeze(1)?)?)?;
    let out = weights.reshape((batch, kv_heads, group * rows, keys))?.matmul(&v)?;
    let out = out.reshape((batch, kv_heads, group, rows, head_dim))?.permute((0, 3, 1, 2, 4))?.contiguous()?;
    out.reshape((batch, rows, heads * head_dim))
}

/// Softmax over the last dimension.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let exponentials = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)
}

/// Log-probability of one id a row under softmax(scale * logits): `(rows, vocab)` and `(rows)` to `(rows)`.
pub(super) fn picked_log_softmax(logits: &Tensor, ids: &Tensor, scale: f32) -> Result<Tensor> {
    let logits = (logits * f64::from(scale))?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let picked = shifted.gather(&ids.unsqueeze(1)?, 1)?.squeeze(1)?; // (rows)
    picked - shifted.exp()?.sum(D::Minus1)?.log()?
}

/// [`product`] as a node of the graph: the gradient of `x` is `dy W`; that of `W` is never computed.
pub(super) fn frozen_product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let value = product(&x.detach(), weight)?;
    let weight = weight.clone();
    node("frozen-product", x, value, move |_, dy| dy.to_dtype(weight.dtype())?.matmul(&weight)?.to_dtype(DType::F32))
}

/// `f(x)` as one node of the graph. The gradient runs `f` again, so that nothing inside `f` outlives the call; tensors that
/// `f` captures get no gradient.
pub(super) fn recomputed(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static) -> Result<Tensor> {
    let value = f(&x.detach())?;
    node("recomputed", x, value, move |x, dy| {
        let x = Var::from_tensor(&x.detach())?;
        let gradients = (f(x.as_tensor())? * dy)?.sum_all()?.backward()?;
        gradients
            .get(&x)
            .cloned()
            .ok_or_else(|| candle_core::Error::Msg("a piece that its input does not reach".into()))
    })
}

/// Puts `value`, computed from `x`, into the graph; `backward` makes the gradient of `x` from `x` and that of `value`.
fn node(
    name: &'static str,
    x: &Tensor,
    value: Tensor,
    backward: impl Fn(&Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    if !x.track_op() {
        return Ok(value);
    }
    x.apply_op1(Node { name, value: Mutex::new(Some(value)), backward })
}

/// A node with a value that was computed beforehand and is moved out when the node enters the graph.
struct Node<B> {
    name: &'static str,
    value: Mutex<Option<Tensor>>,
    backward: B,
}

impl<B> Node<B> {
    /// A copy of the value, as an operation must return it.
    fn copy<S: BackendStorage>(&self, of: impl FnOnce(&Storage) -> Option<&S>) -> Result<(S, Shape)> {
        let value = self.value.lock().ok().and_then(|mut value| value.take());
        let Some(value) = value else { candle_core::bail!("{}: put into the graph twice", self.name) };
        let (storage, layout) = value.storage_and_layout();
        match of(&storage) {
            Some(storage) if layout.is_contiguous() && layout.start_offset() == 0 => {
                Ok((storage.try_clone(layout)?, layout.shape().clone()))
            }
            _ => candle_core::bail!("{}: expected a contiguous value on the device of its input", self.name),
        }
    }
}

impl<B: Fn(&Tensor, &Tensor) -> Result<Tensor> + Send + Sync> CustomOp1 for Node<B> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.copy(|storage| match storage {
            Storage::Cpu(storage) => Some(storage),
            _ => None,
        })
    }
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.copy(|storage| match storage {
            Storage::Cuda(storage) => Some(storage),
            _ => None,
        })
    }
    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some((self.backward)(x, dy)?))
    }
}
