//! llama.cpp's LoRA file: a GGUF file of type `adapter`, with two tensors for each linear.
//!
//! Names and keys are those of llama.cpp's `convert_lora_to_gguf.py`. Architecture `llama` stores the rows of q and k in
//! interleaved order, so the rows of their `B` are permuted too. `A` acts on the inputs, whose order is the same.

use super::error::{Error, Result};
use super::output::OutputFile;
use crate::formats;
use crate::formats::adapter::Adapter;
use crate::formats::gguf::{gguf_name, permute};
use crate::formats::spec::{Family, ModelSpec, Projection};
use crate::types::ModelId;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use std::io::{BufWriter, Write};
use std::path::Path;

/// `general.file_type` of files in f32.
const ALL_F32: u32 = 0;
/// `general.quantization_version`: that of GGUF's quantised types today.
const QUANTIZATION_VERSION: u32 = 2;

/// Writes `adapter`, of a model with `spec`, as the file `out`, in f32.
///
/// # Errors
/// If `out` exists, the adapter does not fit `spec`, or the disk fails.
pub fn write_lora_gguf(out: &Path, adapter: &Adapter, spec: &ModelSpec, base: &ModelId) -> Result<()> {
    if !adapter.ends.is_empty() {
        return Err(Error::Ends);
    }
    if spec.layer_spec.fused {
        return Err(Error::Fused { family: spec.family.name() });
    }
    let mut output = OutputFile::create(out)?;
    let mut tensors = vec![];
    for (&(layer, projection), factors) in &adapter.factors {
        let rank = adapter.config.rank;
        let (inputs, outputs) = projection.sizes(spec);
        if layer >= spec.layers || factors.a.len() != rank * inputs || factors.b.len() != outputs * rank {
            return Err(Error::AdapterMismatch { rank, projection, layer });
        }
        let name = format!("model.layers.{layer}.{}.{}.weight", projection.module(), projection.name());
        let name = gguf_name(&name, &spec.layer_spec).ok_or(Error::AdapterMismatch { rank, projection, layer })?;
        let b = match projection {
            Projection::QProj if spec.family.interleaves() => &permute(&factors.b, outputs, spec.heads),
            Projection::KProj if spec.family.interleaves() => &permute(&factors.b, outputs, spec.kv_heads),
            _ => &factors.b,
        };
        tensors.push((format!("{name}.lora_a"), tensor(&factors.a, [rank, inputs])?));
        tensors.push((format!("{name}.lora_b"), tensor(b, [outputs, rank])?));
    }
    let config = &adapter.config;
    let text = |text: &str| Value::String(text.to_owned());
    let metadata = [
        ("general.architecture", text(if spec.family == Family::Mistral { "llama" } else { spec.family.name() })),
        ("general.type", text("adapter")),
        ("general.name", Value::String(format!("adapter of {}", base.name))),
        ("general.base_model.count", Value::U32(1)),
        ("general.base_model.0.name", text(&base.name)),
        ("general.base_model.0.description", Value::String(format!("sha256 {}", base.sha256))),
        ("general.file_type", Value::U32(ALL_F32)),
        ("general.quantization_version", Value::U32(QUANTIZATION_VERSION)),
        ("adapter.type", text("lora")),
        // llama.cpp scales by this alpha over the rank of the tensors.
        ("adapter.lora.alpha", Value::F32(config.scale() * config.rank as f32)),
    ];
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = BufWriter::new(output.file());
    gguf_file::write(&mut file, &metadata, &tensors).map_err(formats::Error::from)?;
    file.flush().map_err(Error::io(out))?;
    drop(file);
    output.publish()
}

fn tensor(values: &[f32], shape: [usize; 2]) -> Result<QTensor> {
    let tensor = Tensor::from_slice(values, &shape, &Device::Cpu).map_err(formats::Error::from)?; // (shape[0], shape[1])
    Ok(QTensor::quantize(&tensor, GgmlDType::F32).map_err(formats::Error::from)?)
}
