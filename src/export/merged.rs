//! A whole model as a Hugging Face folder: the base weights, the base with an adapter merged into it, or all weights of a
//! fully fine-tuned critic.
//!
//! `W + scale B A` (arXiv 2106.09685) is computed in f32, then rounded to the type asked for. One tensor is in memory at a
//! time. The folder is read back before it gets its name, and must have the sizes and constants of the original.

use super::card::ModelCard;
use super::config;
use super::dtype::Dtype;
use super::error::{Error, Result};
use super::output::{self, OutputFolder};
use super::tensors::{self, Entry};
use crate::formats;
use crate::formats::adapter::{Adapter, Factors};
use crate::formats::spec::{ModelSpec, Projection};
use crate::formats::{OpenedModel, WeightReader};
use crate::transformer::full_weights::{CriticWeights, FullWeights};
use crate::types::ModelId;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// The type of the weights, and how they are split into files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergedLayout {
    /// The type of the weights.
    pub dtype: Dtype,
    /// Bytes of a file at most; a tensor larger than this has a file of its own.
    pub shard_bytes: usize,
}

/// Writes the model at `path`, with `critic` merged into it if there is one, as the Hugging Face folder `out`. A critic has a
/// `card`.
///
/// Config, tokenizer and template are copied from a folder, or made from the metadata of a GGUF file.
///
/// # Errors
/// If `out` exists, the model cannot be read or a `config.json` cannot express it, the critic does not fit, a value
/// overflows the type asked for, or the disk fails.
pub fn write_merged(
    out: &Path,
    path: &Path,
    critic: Option<&CriticWeights>,
    (base, card): (&ModelId, &ModelCard),
    layout: MergedLayout,
) -> Result<()> {
    let adapter = critic.and_then(CriticWeights::adapter);
    let mut opened = formats::open(path)?;
    // Factors on one of two tied weights untie them.
    opened.spec.tied &= adapter.is_none_or(|adapter| adapter.ends.is_empty());
    let branches = adapter.map(|adapter| branches(adapter, &opened.spec)).transpose()?.unwrap_or_default();
    let output = OutputFolder::create(out)?;
    let folder = output.temporary_path();
    if critic.is_some() {
        card.write(folder, base, false)?;
    }
    if path.is_dir() {
        config::copy(folder, path, &opened.spec, layout.dtype)?;
    } else {
        config::make(folder, path, &opened, layout.dtype)?;
    }
    let scale = adapter.map_or(0.0, |adapter| adapter.config.scale());
    let rank = adapter.map_or(0, |adapter| adapter.config.rank);
    let OpenedModel { spec, weights, .. } = &mut opened;
    let full_weights = critic.and_then(CriticWeights::full);
    let merge = Merge { spec, full_weights, branches, scale, rank };
    write_weights(folder, spec, base, layout, |entry| merge.tensor(weights.as_ref(), entry, layout.dtype))?;

    let written = formats::open(folder)?.spec;
    if !spec.is_nearly(&written) {
        return Err(Error::Changed { path: out.to_owned(), model: path.to_owned() });
    }
    output.publish()
}

/// The factors of `adapter`, by the name of the tensor that they are added to.
fn branches<'a>(adapter: &'a Adapter, spec: &ModelSpec) -> Result<HashMap<String, Cow<'a, Factors>>> {
    let rank = adapter.config.rank;
    let branch = |(&(layer, projection), factors): (&(usize, Projection), &'a Factors)| {
        let (inputs, outputs) = projection.sizes(spec);
        if layer >= spec.layers || factors.a.len() != rank * inputs || factors.b.len() != outputs * rank {
            return Err(Error::AdapterMismatch { rank, projection, layer });
        }
        let name = format!("model.layers.{layer}.{}.{}.weight", projection.module(), projection.name());
        Ok((name, Cow::Borrowed(factors)))
    };
    let mut branches = adapter.factors.iter().map(branch).collect::<Result<HashMap<_, _>>>()?;
    let head = adapter.ends.head.iter().map(|factors| ("lm_head.weight", Cow::Borrowed(factors)));
    // The embedding is stored as (vocab, hidden), its outputs being columns.
    let transposed = |Factors { a, b }: &Factors| Factors { a: transpose(b, rank), b: transpose(a, spec.vocab) };
    let embedding = adapter.ends.embedding.iter();
    let embedding = embedding.map(|factors| ("model.embed_tokens.weight", Cow::Owned(transposed(factors))));
    branches.extend(head.chain(embedding).map(|(name, factors)| (name.to_owned(), factors)));
    Ok(branches)
}

/// The transpose of rows of `columns`.
fn transpose(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns)).copied().collect()
}

/// Writes every tensor of `spec`, in several files where one would be too long.
fn write_weights(
    folder: &Path,
    spec: &ModelSpec,
    base: &ModelId,
    layout: MergedLayout,
    mut bytes_of: impl FnMut(&Entry) -> Result<Vec<u8>>,
) -> Result<()> {
    let dtype = layout.dtype;
    let mut shards: Vec<Vec<Entry>> = vec![];
    let mut bytes_left = 0;
    for (name, parts) in spec.stored_tensors() {
        let rows = parts.iter().map(|(_, shape)| shape[0]).sum();
        let entry = Entry { name, shape: [&[rows], &parts[0].1[1..]].concat() };
        let bytes = entry.bytes(dtype);
        if shards.is_empty() || bytes > bytes_left {
            shards.push(vec![]);
            bytes_left = layout.shard_bytes;
        }
        bytes_left = bytes_left.saturating_sub(bytes);
        shards.last_mut().expect("one was pushed").push(entry);
    }
    let name = |index: usize| match shards.len() {
        1 => "model.safetensors".to_owned(),
        count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    };
    let mut map = Map::new();
    for (index, entries) in shards.iter().enumerate() {
        tensors::write(&folder.join(name(index)), &tensors::metadata(base), dtype, entries, &mut bytes_of)?;
        map.extend(entries.iter().map(|entry| (entry.name.clone(), Value::from(name(index)))));
    }
    if shards.len() > 1 {
        let total: usize = shards.iter().flatten().map(|entry| entry.bytes(dtype)).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        output::write(&folder.join("model.safetensors.index.json"), &config::pretty(&index))?;
    }
    Ok(())
}

/// How each tensor of the output is computed.
struct Merge<'a> {
    /// The model.
    spec: &'a ModelSpec,
    /// Weights that replace those of the base.
    full_weights: Option<&'a FullWeights>,
    /// Factors by the name of the tensor that they are added to.
    branches: HashMap<String, Cow<'a, Factors>>,
    scale: f32,
    rank: usize,
}

impl Merge<'_> {
    /// The bytes of the tensor `entry` in the output.
    fn tensor(&self, weights: &dyn WeightReader, entry: &Entry, dtype: Dtype) -> Result<Vec<u8>> {
        let stored = self.spec.stored_tensors().into_iter().find(|(name, _)| *name == entry.name);
        let mut values = Vec::new();
        for (name, shape) in stored.into_iter().flat_map(|(_, parts)| parts) {
            values.extend(self.part(weights, &name, &shape)?);
        }
        dtype.bytes(&values).map_err(|value| Error::Overflow { name: entry.name.clone(), value, dtype })
    }

    /// The values of the tensor `name`.
    fn part(&self, weights: &dyn WeightReader, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let own = self.full_weights.and_then(|weights| weights.tensor(name));
        // Where factors untie a head, it begins as the embedding that it was tied to.
        let begun = if weights.has(name) { name } else { "model.embed_tokens.weight" };
        let mut values = own.map_or_else(|| weights.get(begun, shape), Ok)?;
        self.spec.written_norm(name, &mut values);
        if let (Some(factors), [_, inputs]) = (self.branches.get(name), shape) {
            add_branch(&mut values, *inputs, factors, self.rank, self.scale);
        }
        Ok(values)
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
