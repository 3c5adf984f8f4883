//! llama.cpp's LoRA file: a GGUF of type `adapter`, two tensors a linear.
//!
//! Names and keys are those of llama.cpp's `convert_lora_to_gguf.py`. Where the architecture stores the rows of q and k in
//! pairs, the rows of their `B` are put into the same order: `A` sees inputs, which nobody moves.

use super::aside::Aside;
use super::{Base, Error, Result};
use crate::formats;
use crate::formats::gguf::{gguf_name, permute};
use crate::formats::lora::{Adapter, Projection};
use crate::formats::spec::{Family, ModelSpec};
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// GGUF's number for files of f32.
const ALL_F32: u32 = 0;
/// How GGUF counts its ways to quantise.
const QUANTIZATION: u32 = 2;

/// Writes `adapter`, of a model of sizes `spec`, as the file `out`, in f32.
///
/// # Errors
/// Where `out` is taken, the adapter does not fit `spec`, or the disk fails.
pub fn lora_gguf(out: &Path, adapter: &Adapter, spec: &ModelSpec, base: &Base) -> Result<()> {
    let aside = Aside::file(out)?;
    let mut tensors = vec![];
    for (&(layer, site), factors) in &adapter.factors {
        let rank = adapter.config.rank;
        let (inputs, outputs) = site.sizes(spec);
        if layer >= spec.layers || factors.a.len() != rank * inputs || factors.b.len() != outputs * rank {
            return Err(Error::Misfit { rank, site, layer });
        }
        let name = format!("model.layers.{layer}.{}.{}.weight", site.module(), site.name());
        let name = gguf_name(&name, &spec.block).ok_or(Error::Misfit { rank, site, layer })?;
        let b = match (spec.family, site) {
            (Family::Llama, Projection::QProj) => &permute(&factors.b, outputs, spec.heads),
            (Family::Llama, Projection::KProj) => &permute(&factors.b, outputs, spec.kv_heads),
            _ => &factors.b,
        };
        tensors.push((format!("{name}.lora_a"), tensor(&factors.a, [rank, inputs])?));
        tensors.push((format!("{name}.lora_b"), tensor(b, [outputs, rank])?));
    }
    let config = &adapter.config;
    let text = |text: &str| Value::String(text.to_owned());
    let metadata = [
        ("general.architecture", text(spec.family.name())),
        ("general.type", text("adapter")),
        ("general.name", Value::String(format!("adapter of {}", base.name))),
        ("general.base_model.count", Value::U32(1)),
        ("general.base_model.0.name", text(&base.name)),
        ("general.base_model.0.description", Value::String(format!("sha256 {}", base.sha256))),
        ("general.file_type", Value::U32(ALL_F32)),
        ("general.quantization_version", Value::U32(QUANTIZATION)),
        ("adapter.type", text("lora")),
        // llama.cpp scales by alpha over the rank that it finds in the tensors.
        ("adapter.lora.alpha", Value::F32(config.scale() * config.rank as f32)),
    ];
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let path = aside.path();
    let mut file = BufWriter::new(File::create_new(path).map_err(Error::io(path))?);
    gguf_file::write(&mut file, &metadata, &tensors).map_err(formats::Error::from)?;
    file.flush().and_then(|()| file.get_ref().sync_all()).map_err(Error::io(path))?;
    aside.place()
}

fn tensor(values: &[f32], shape: [usize; 2]) -> Result<QTensor> {
    let tensor = Tensor::from_slice(values, &shape, &Device::Cpu).map_err(formats::Error::from)?; // (shape[0], shape[1])
    Ok(QTensor::quantize(&tensor, GgmlDType::F32).map_err(formats::Error::from)?)
}
