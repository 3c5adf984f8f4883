//! Nodes of the score pass's graph: each keeps its input alone, and knows how to make its gradient.

use super::ops;
use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor, Var, backend::BackendStorage,
};
use std::sync::Mutex;

/// [`ops::product`] as a node of the graph: the gradient of `x` is `dy W`; that of `W` is never computed.
pub(super) fn frozen_product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let value = ops::product(&x.detach(), weight)?;
    let weight = weight.clone();
    node("frozen-product", x, value, move |_, dy| dy.to_dtype(weight.dtype())?.matmul(&weight)?.to_dtype(DType::F32))
}

/// `f(x)` as one node of the graph. The gradient runs `f` again, so that nothing inside `f` outlives the call; tensors that
/// `f` captures get no gradient.
pub(super) fn recomputed(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static) -> Result<Tensor> {
    let value = f(&x.detach())?;
    node("recomputed", x, value, move |x, dy| gradient_of(x, |x| Ok(vec![(f(x)?, dy.clone())])))
}

/// The gradient of `x` where `f` makes tensors from it, each beside the gradient of its own.
pub(super) fn gradient_of(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Vec<(Tensor, Tensor)>>) -> Result<Tensor> {
    let x = Var::from_tensor(&x.detach())?;
    let gradients = gradients(&f(x.as_tensor())?)?;
    gradients.get(&x).cloned().ok_or_else(|| candle_core::Error::Msg("a piece that its input does not reach".into()))
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
