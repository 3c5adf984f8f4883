//! A whole model as a Hugging Face folder: base weights, with an adapter's branches added where there is one, or all weights
//! of a critic of its own in their place.
//!
//! `W + scale B A` (arXiv 2106.09685) in f32, then rounded to the type asked for. One tensor is in memory at a time. Before
//! the folder gets its name it is opened as any other, and must be a model of the same sizes and constants.

use super::aside::{self, Aside};
use super::config;
use super::tensors::{self, Entry, Stored};
use super::{Base, Error, Result};
use crate::formats;
use crate::formats::Opened;
use crate::formats::Weights;
use crate::formats::lora::{Adapter, Factors, Projection};
use crate::formats::spec::{Family, ModelSpec};
use crate::transformer::full_weights::{CriticWeights, FullWeights};
use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;

/// The type of the weights on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As they are computed.
    F32,
    /// Rounded to eight bits of mantissa, to nearest.
    Bf16,
    /// Rounded to eleven bits of mantissa, to nearest.
    F16,
}

impl Kind {
    fn stored(self) -> Stored {
        match self {
            Self::F32 => Stored::F32,
            Self::Bf16 => Stored::Bf16,
            Self::F16 => Stored::F16,
        }
    }

    /// As PyTorch calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How a folder's weights are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Their type.
    pub kind: Kind,
    /// A file of weights is not longer than this, unless one tensor alone is.
    pub shard_bytes: usize,
}

/// Writes the model at `path`, or `critic` of it where there is one, as the Hugging Face folder `out`.
///
/// A folder's own config, tokenizer and template are copied; a GGUF file's are made from its metadata.
///
/// # Errors
/// Where `out` is taken, the model cannot be read or said in a config, the critic does not fit, a value does not fit the
/// type asked for, or the disk fails.
pub fn merged(out: &Path, path: &Path, critic: Option<&CriticWeights>, base: &Base, shape: Shape) -> Result<()> {
    let adapter = critic.and_then(CriticWeights::adapter);
    let mut opened = formats::open(path)?;
    let branches = adapter.map(|adapter| branches(adapter, &opened.spec)).transpose()?.unwrap_or_default();
    let aside = Aside::folder(out)?;
    let folder = aside.path();
    if path.is_dir() {
        config::copy(folder, path, &opened.spec, shape.kind)?;
    } else {
        config::make(folder, path, &opened, shape.kind)?;
    }
    let scale = adapter.map_or(0.0, |adapter| adapter.config.scale());
    let rank = adapter.map_or(0, |adapter| adapter.config.rank);
    let Opened { spec, weights, .. } = &mut opened;
    let whole = critic.and_then(CriticWeights::full);
    let merge = Merge { norms_less_one: spec.family == Family::Gemma3, whole, branches, scale, rank };
    write_weights(folder, spec, base, shape, |entry| merge.tensor(weights.as_mut(), entry, shape.kind))?;

    let again = formats::open(folder)?.spec;
    if !spec.is_nearly(&again) {
        return Err(Error::Changed { path: out.to_owned(), model: path.to_owned() });
    }
    aside.place()
}

/// The factors of `adapter` by the tensor that they are added to.
fn branches<'a>(adapter: &'a Adapter, spec: &ModelSpec) -> Result<HashMap<String, &'a Factors>> {
    let rank = adapter.config.rank;
    let branch = |(&(layer, site), factors): (&(usize, Projection), &'a Factors)| {
        let (inputs, outputs) = site.sizes(spec);
        if layer >= spec.layers || factors.a.len() != rank * inputs || factors.b.len() != outputs * rank {
            return Err(Error::Misfit { rank, site, layer });
        }
        Ok((format!("model.layers.{layer}.{}.{}.weight", site.module(), site.name()), factors))
    };
    adapter.factors.iter().map(branch).collect()
}

/// Writes every tensor of `spec`, in shards where one file would be too long.
fn write_weights(
    folder: &Path,
    spec: &ModelSpec,
    base: &Base,
    shape: Shape,
    mut bytes_of: impl FnMut(&Entry) -> Result<Vec<u8>>,
) -> Result<()> {
    let stored = shape.kind.stored();
    let mut shards: Vec<Vec<Entry>> = vec![];
    let mut room = 0;
    for (name, shape_of) in spec.tensors() {
        let entry = Entry { name, shape: shape_of };
        let bytes = entry.bytes(stored);
        if shards.is_empty() || bytes > room {
            shards.push(vec![]);
            room = shape.shard_bytes;
        }
        room = room.saturating_sub(bytes);
        shards.last_mut().expect("one was pushed").push(entry);
    }
    let name = |index: usize| match shards.len() {
        1 => "model.safetensors".to_owned(),
        count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    };
    let mut map = Map::new();
    for (index, entries) in shards.iter().enumerate() {
        tensors::write(&folder.join(name(index)), &base.metadata(), stored, entries, &mut bytes_of)?;
        map.extend(entries.iter().map(|entry| (entry.name.clone(), Value::from(name(index)))));
    }
    if shards.len() > 1 {
        let total: usize = shards.iter().flatten().map(|entry| entry.bytes(stored)).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        aside::write(&folder.join("model.safetensors.index.json"), &config::pretty(&index))?;
    }
    Ok(())
}

/// What becomes of each tensor.
struct Merge<'a> {
    /// A norm is stored as what is added to 1.
    norms_less_one: bool,
    /// What stands in for the base.
    whole: Option<&'a FullWeights>,
    branches: HashMap<String, &'a Factors>,
    scale: f32,
    rank: usize,
}

impl Merge<'_> {
    /// The tensor's bytes in the folder.
    fn tensor(&self, weights: &mut dyn Weights, entry: &Entry, kind: Kind) -> Result<Vec<u8>> {
        let own = self.whole.and_then(|whole| whole.tensor(&entry.name));
        let mut values = own.map_or_else(|| weights.get(&entry.name, &entry.shape), Ok)?;
        if self.norms_less_one && entry.name.ends_with("norm.weight") {
            values.iter_mut().for_each(|value| *value -= 1.0);
        }
        if let (Some(factors), [_, inputs]) = (self.branches.get(&entry.name), &entry.shape[..]) {
            add_branch(&mut values, *inputs, factors, self.rank, self.scale);
        }
        bytes(&values, kind).map_err(|value| Error::Overflow { name: entry.name.clone(), value, kind })
    }
}

/// `W += scale B A`; `weight` is `(outputs, inputs)`.
fn add_branch(weight: &mut [f32], inputs: usize, factors: &Factors, rank: usize, scale: f32) {
    let rows = weight.par_chunks_mut(inputs).zip(factors.b.par_chunks(rank));
    rows.for_each_init(
        || vec![0.0f32; inputs],
        |delta, (row, b)| {
            delta.fill(0.0);
            for (&b, a) in b.iter().zip(factors.a.chunks(inputs)) {
                delta.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
            }
            row.iter_mut().zip(&*delta).for_each(|(weight, delta)| *weight += scale * delta);
        },
    );
}

/// `values` in their type on disk, or the first that does not fit.
fn bytes(values: &[f32], kind: Kind) -> Result<Vec<u8>, f32> {
    let lost = |value: f32, there: bool| if value.is_finite() && !there { Err(value) } else { Ok(()) };
    let mut bytes = Vec::with_capacity(values.len() * kind.stored().width());
    for &value in values {
        match kind {
            Kind::F32 => bytes.extend(value.to_le_bytes()),
            Kind::Bf16 => {
                let rounded = bf16::from_f32(value);
                lost(value, rounded.is_finite())?;
                bytes.extend(rounded.to_le_bytes());
            }
            Kind::F16 => {
                let rounded = f16::from_f32(value);
                lost(value, rounded.is_finite())?;
                bytes.extend(rounded.to_le_bytes());
            }
        }
    }
    Ok(bytes)
}
