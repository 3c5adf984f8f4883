//! Nodes of the score pass's graph: each keeps its input alone, and knows how to make its gradient.

use super::adapter::LowRank;
use super::attention::tiles;
use super::ops;
use super::product::product;
use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor, Var,
    backend::BackendStorage,
};
use std::ops::Range;
use std::sync::Mutex;

/// [`product`] as a node of the graph: the gradient of `x` is `dy W`; that of `W` is never computed.
pub(super) fn frozen_product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let value = product(&x.detach(), weight)?;
    let weight = weight.clone();
    node("frozen-product", x, value, move |_, dy| frozen_gradient(dy, &weight))
}

/// The gradient of the input of a product with a frozen weight.
fn frozen_gradient(dy: &Tensor, weight: &Tensor) -> Result<Tensor> {
    dy.to_dtype(weight.dtype())?.matmul(weight)?.to_dtype(DType::F32)
}

/// `x W^T + x A^T B^T` with a frozen `W`: `(rows, inputs)` to `(rows, outputs)`. Keeps `x` alone, and computes `x A^T` again for the
/// gradients of `x`, `A` and `B`.
pub(super) fn adapted_product(x: &Tensor, weight: &Tensor, LowRank { a, b }: &LowRank) -> Result<Tensor> {
    let detached = x.detach();
    let low = detached.matmul(&a.detach().t()?)?; // (rows, ranks)
    let value = (product(&detached, weight)? + low.matmul(&b.detach().t()?)?)?;
    if !x.track_op() && !a.track_op() && !b.track_op() {
        return Ok(value);
    }
    x.apply_op3(a, b, AdaptedProduct { value: Value::new(value), weight: weight.clone() })
}

/// Log-probabilities of `ids`, `(rows)`, under softmax(scale * x W^T) with a frozen head `W` of `(vocab, hidden)`; `x` is
/// `(rows, hidden)`. Logits are computed for `at_once` rows at a time, and again for the gradient.
pub(super) fn log_probs(x: &Tensor, head: &Tensor, ids: &Tensor, scale: f32, at_once: usize) -> Result<Tensor> {
    let rows = x.dim(0)?;
    let detached = x.detach();
    let of_chunk = |chunk: Range<usize>| {
        let logits = product(&detached.narrow(0, chunk.start, chunk.len())?, head)?; // (chunk, vocab)
        ops::picked_log_softmax(&logits, &ids.narrow(0, chunk.start, chunk.len())?, scale)
    };
    let value = Tensor::cat(&tiles(rows, at_once).map(of_chunk).collect::<Result<Vec<_>>>()?, 0)?;
    let (head, ids) = (head.clone(), ids.clone());
    node("log-probs", x, value, move |x, dy| {
        let of_chunk = |chunk: Range<usize>| {
            let part = |all: &Tensor| all.narrow(0, chunk.start, chunk.len());
            let (logits, ids, dy) = (product(&part(x)?, &head)?, part(&ids)?, part(dy)?);
            frozen_gradient(&ops::picked_log_softmax_gradient(&logits, &ids, scale, &dy)?, &head)
        };
        Tensor::cat(&tiles(rows, at_once).map(of_chunk).collect::<Result<Vec<_>>>()?, 0)
    })
}

/// The gradient of `x` where `f` makes tensors from it, each beside the gradient of its own.
pub(super) fn gradient_of(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Vec<(Tensor, Tensor)>>) -> Result<Tensor> {
    let x = Var::from_tensor(&x.detach())?;
    let gradients = gradients(&f(x.as_tensor())?)?;
    // The library computes gradients from the graph, and one that is not detached would hold all of it.
    let found = gradients.get(&x).map(Tensor::detach);
    found.ok_or_else(|| candle_core::Error::Msg("a piece that its input does not reach".into()))
}

/// The gradients of all variables behind tensors, each beside the gradient of its own; at least one.
pub(super) fn gradients(outputs: &[(Tensor, Tensor)]) -> Result<GradStore> {
    let weighted = |(y, dy): &(Tensor, Tensor)| (y * dy)?.sum_all();
    let sum = outputs.iter().map(weighted).reduce(|sum, one| sum? + one?);
    sum.unwrap_or_else(|| candle_core::bail!("a gradient of nothing"))?.backward()
}

/// Puts `value`, computed from `x`, into the graph; `backward` makes the gradient of `x` from `x` and that of `value`.
pub(super) fn node(
    name: &'static str,
    x: &Tensor,
    value: Tensor,
    backward: impl Fn(&Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    if !x.track_op() {
        return Ok(value);
    }
    x.apply_op1(Node { name, value: Value::new(value), backward })
}

/// A value that was computed beforehand and is moved out when its node enters the graph.
struct Value(Mutex<Option<Tensor>>);

impl Value {
    fn new(value: Tensor) -> Self {
        Self(Mutex::new(Some(value)))
    }

    /// A copy of the value, as an operation must return it.
    fn copy<S: BackendStorage>(&self, of: impl FnOnce(&Storage) -> Option<&S>) -> Result<(S, Shape)> {
        let value = self.0.lock().ok().and_then(|mut value| value.take());
        let Some(value) = value else { candle_core::bail!("a node was put into the graph twice") };
        let (storage, layout) = value.storage_and_layout();
        match of(&storage) {
            Some(storage) if layout.is_contiguous() && layout.start_offset() == 0 => {
                Ok((storage.try_clone(layout)?, layout.shape().clone()))
            }
            _ => candle_core::bail!("a node: expected a contiguous value on the device of its input"),
        }
    }

    fn on_cpu(&self) -> Result<(CpuStorage, Shape)> {
        self.copy(|storage| match storage {
            Storage::Cpu(storage) => Some(storage),
            _ => None,
        })
    }

    fn on_cuda(&self) -> Result<(CudaStorage, Shape)> {
        self.copy(|storage| match storage {
            Storage::Cuda(storage) => Some(storage),
            _ => None,
        })
    }
}

/// A node of one input.
struct Node<B> {
    name: &'static str,
    value: Value,
    backward: B,
}

impl<B: Fn(&Tensor, &Tensor) -> Result<Tensor> + Send + Sync> CustomOp1 for Node<B> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.value.on_cpu()
    }
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.value.on_cuda()
    }
    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some((self.backward)(&x.detach(), &dy.detach())?))
    }
}

/// [`adapted_product`] of `x`, `A` and `B`.
struct AdaptedProduct {
    value: Value,
    weight: Tensor,
}

impl CustomOp3 for AdaptedProduct {
    fn name(&self) -> &'static str {
        "adapted-product"
    }
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.value.on_cpu()
    }
    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.value.on_cuda()
    }
    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let has_gradient = x.track_op();
        let [x, a, b, dy] = [x, a, b, dy].map(Tensor::detach);
        let of_low = dy.matmul(&b)?; // (rows, ranks)
        let of_a = of_low.t()?.matmul(&x)?; // (ranks, inputs)
        let of_b = dy.t()?.matmul(&x.matmul(&a.t()?)?)?; // (outputs, ranks)
        let of_x = || frozen_gradient(&dy, &self.weight)? + of_low.matmul(&a)?;
        Ok((has_gradient.then(of_x).transpose()?, Some(of_a), Some(of_b)))
    }
}
