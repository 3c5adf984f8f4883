//! Products with frozen weights, for both passes.

use candle_core::{DType, Result, Tensor};

/// `x W^T` with a frozen `W` of `(outputs, inputs)`: `(rows, inputs)` to `(rows, outputs)`, of factors in the type of `W`, summed
/// in f32. Has no gradient.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if weight.device().is_cuda() && weight.dtype() == DType::BF16 {
        return super::cuda::product(&x.to_dtype(DType::BF16)?.contiguous()?, weight);
    }
    let x = x.to_dtype(weight.dtype())?.to_dtype(DType::F32)?;
    x.matmul(&weight.to_dtype(DType::F32)?.t()?)
}
