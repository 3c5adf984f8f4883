//! Weights as tensors on any device: `(outputs, inputs)` in one type, bf16 on a GPU.

use crate::formats::WeightReader;
use crate::kernels::Precision;
use crate::transformer::error::Result;
use crate::transformer::stack::{Part, Stack, WeightLayout};
use candle_core::{DType, Device, Tensor};

/// Weights as tensors of `dtype` on `device`; norms and biases are f32.
#[derive(Clone, Debug)]
pub(crate) struct Dense {
    /// Where the weights are.
    pub(crate) device: Device,
    /// The type of the matrices.
    pub(crate) dtype: DType,
}

impl WeightLayout for Dense {
    type Matrix = Tensor;
    type Vector = Tensor;

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn precision(&self) -> Precision {
        if self.dtype == DType::F32 { Precision::F32 } else { Precision::Bf16 }
    }

    fn matrix(&self, weights: &dyn WeightReader, parts: &[Part]) -> Result<Tensor> {
        let place = |(name, shape): &Part| -> Result<Tensor> {
            // Converted on the host, so that f32 values are never copied to the device.
            let part = Tensor::from_vec(weights.get(name, shape)?, (shape[0], shape[1]), &Device::Cpu)?;
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
    /// The scaled embeddings of `ids`, `(ids, hidden)`.
    ///
    /// # Errors
    /// Where an id is outside the vocabulary or the device fails.
    pub(crate) fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let embedding = self.embedding_of(ids)?;
        let rows = embedding.index_select(&Tensor::new(ids, embedding.device())?, 0)?.to_dtype(DType::F32)?;
        Ok((rows * f64::from(self.spec().embedding_scale))?) // (ids, hidden)
    }
}
