//! A model in memory: weights on their device, tokenizer and chat template.

use super::dense::Dense;
use super::packed_cache::{CacheWriter, PackedCache};
use super::{Transformer, device};
use crate::formats::spec::ModelSpec;
use crate::formats::{OpenedModel, WeightReader, open_and, template, tokenizer};
use crate::kernels::{PassPrecisions, Precision, Weight};
use crate::transformer::error::{Error, Result};
use candle_core::Device;
use std::path::Path;
use std::sync::Arc;

impl OpenedModel {
    /// Bytes of weights that [`load_on`] would load onto `device`.
    pub fn bytes(&self, device: &Device, precisions: PassPrecisions) -> usize {
        bytes(&self.spec, self.weights.as_ref(), device, precisions)
    }
}

fn bytes(spec: &ModelSpec, weights: &dyn WeightReader, device: &Device, precisions: PassPrecisions) -> usize {
    let of_tensor = |(name, shape): &(String, Vec<usize>)| match shape[..] {
        [outputs, inputs] if !device.is_cpu() => outputs * inputs * device::dtype(device).size_in_bytes(),
        [outputs, inputs] => Weight::planned_bytes(outputs, inputs, precisions, weights.is_four_bit(name)),
        _ => size_of::<f32>() * shape.iter().product::<usize>(),
    };
    spec.tensors().iter().map(of_tensor).sum()
}

/// A model in memory, ready for both passes.
#[derive(Clone)]
pub struct Loaded {
    /// The frozen weights.
    pub transformer: Arc<Transformer>,
    /// Text to ids and back.
    pub tokenizer: tokenizer::Tokenizer,
    /// Conversation to text.
    pub template: template::ChatTemplate,
    /// Writes packed weights for the next start.
    _writer: Option<Arc<CacheWriter>>,
}

/// Opens a model and loads its weights for the CPU, in f32 and for both passes.
///
/// # Errors
/// As [`open`](crate::formats::open), and where a tensor is missing or of another shape.
pub fn load(path: &Path) -> Result<Loaded> {
    load_on(path, &Device::Cpu, PassPrecisions::F32)
}

/// Opens a model and loads its weights onto `device`. The CPU holds one copy for each of `precisions`; a GPU holds one in
/// bf16 for both passes.
///
/// # Errors
/// As [`load`], where the weights do not fit the memory, and where the device fails.
pub fn load_on(path: &Path, device: &Device, precisions: PassPrecisions) -> Result<Loaded> {
    let load = |spec: &ModelSpec, weights: &dyn WeightReader| {
        let needed = bytes(spec, weights, device, precisions);
        if let Some(available) = device::available_bytes(device).filter(|available| needed > *available) {
            return Err(Error::Memory {
                path: path.to_owned(),
                needed_mib: needed >> 20,
                available_mib: available >> 20,
            });
        }
        match device.is_cpu() {
            true => {
                let is_cached = precisions.have_only(Precision::Int8);
                let cache = is_cached.then(|| PackedCache::of(path, needed)).flatten();
                let transformer = Transformer::load_cached(spec, weights, precisions, cache.as_ref())?;
                Ok((transformer, cache.and_then(PackedCache::finish)))
            }
            false => {
                let layout = Dense { device: device.clone(), dtype: device::dtype(device) };
                Ok((Transformer::dense(spec, weights, layout)?, None))
            }
        }
    };
    let (OpenedModel { tokenizer, template, .. }, loaded) = open_and(path, load)?;
    let (transformer, writer) = loaded?;
    Ok(Loaded { transformer: Arc::new(transformer), tokenizer, template, _writer: writer.map(Arc::new) })
}
