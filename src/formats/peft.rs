//! PEFT's adapter folder: `adapter_config.json` beside `adapter_model.safetensors`.
//!
//! PEFT and vLLM load the folders that are written here. Adapters of other trainers are read whatever linears of whatever
//! layers they target; ranks and scales that differ are made one, by zeros in the factors and by scaling `B`, which changes
//! nothing that is computed. What this node would compute differently from PEFT (DoRA, biases, whole modules) is refused by
//! name.

mod config;
mod targets;
mod write;

use super::adapter::{Adapter, Brought, Ends, Factors, LoraConfig};
use super::error::{Error, Result};
use super::spec::{ModelSpec, Projection};
use super::{json, safetensors, values};
use crate::disk;
use ::safetensors::tensor::{Dtype, SafeTensors};
use candle_core::{DType, Device, Tensor};
use config::{PeftConfig, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use targets::Place;

/// The config's file name in PEFT.
pub(crate) const CONFIG_FILE: &str = "adapter_config.json";
/// The weights' file name in PEFT.
pub(crate) const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// The weights' file name in old versions of PEFT: a pickle.
const PICKLE_FILE: &str = "adapter_model.bin";

/// The longest config.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// The longest header of the weights.
const HEADER_BYTES_MAX: u64 = 32 << 20;
/// Scales that differ by less are one scale that was computed in two ways.
const SCALE_ROUNDING: f32 = 1e-6;

impl Adapter {
    /// Reads a folder that PEFT or [`Adapter::save`] wrote, and checks it against `spec`. Tensors in f16 and bf16 are
    /// widened to f32.
    ///
    /// # Errors
    /// If a file is unreadable, uses an unsupported feature (DoRA, biases, whole modules), holds a tensor that belongs to
    /// no target of the config, or lacks one.
    pub fn load(dir: &Path, spec: &ModelSpec) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        let text = disk::read(&path, CONFIG_BYTES_MAX).map_err(Error::io(&path))?;
        let json = json::parse(&text).map_err(|why| Error::Malformed { path: path.clone(), why })?;
        let config = PeftConfig::read(&json, &path)?;
        let given = LoraConfig { rank: config.rank, alpha: config.alpha, rslora: config.rslora, targets: Vec::new() };
        let targets = config.targets(spec, &path)?;

        let path = dir.join(WEIGHTS_FILE);
        if !path.exists() && dir.join(PICKLE_FILE).exists() {
            let what = "its weights are a pickle, which may run code when it is read".to_owned();
            let remedy =
                "load it with PEFT where you trust it, save it again with save_pretrained(safe_serialization=True)";
            return Err(Error::Refused { path: dir.join(PICKLE_FILE), what, remedy });
        }
        let bytes = disk::read(&path, weight_bytes_max(&targets, spec)).map_err(Error::io(&path))?;
        let file = safetensors::parse(&bytes).map_err(|why| Error::Malformed { path: path.clone(), why })?;
        let weights = Weights { file: &file, path: &path };
        weights.refuse_strangers(&targets, spec)?;
        let parts = targets.iter().map(|target| weights.parts(target, spec)).collect::<Result<Vec<_>>>()?.concat();
        let mut adapter = uniform(given, parts);
        adapter.ends.brought = weights.brought(&targets, spec)?;
        Ok(adapter)
    }
}

/// The factors of one projection, of the embedding or of the head, with rank and scale of their own.
#[derive(Clone)]
struct Part {
    /// None for embedding and head.
    at: Option<(usize, Projection)>,
    is_head: bool,
    rank: usize,
    scale: f32,
    factors: Factors,
}

/// One adapter of `parts`, of one rank and one scale: those of `given` where all parts agree.
fn uniform(given: LoraConfig, parts: Vec<Part>) -> Adapter {
    let rank = parts.iter().map(|part| part.rank).max().unwrap_or(given.rank);
    let scale = parts.iter().map(|part| part.scale).find(|scale| *scale != 0.0).unwrap_or(0.0);
    let mut config = LoraConfig { rank, ..given };
    if (config.scale() - scale).abs() > SCALE_ROUNDING * scale.abs() {
        let root = if config.rslora { (rank as f32).sqrt() } else { rank as f32 };
        config.alpha = scale * root;
    }
    let (mut factors, mut ends) = (BTreeMap::new(), Ends::default());
    for Part { at, is_head, rank: own, scale: own_scale, factors: Factors { mut a, b } } in parts {
        let ratio = if scale == 0.0 { 1.0 } else { own_scale / scale };
        let ratio = if (ratio - 1.0).abs() <= SCALE_ROUNDING { 1.0 } else { ratio };
        a.resize(a.len() / own * rank, 0.0);
        let mut wide = vec![0.0; b.len() / own * rank];
        for (wide, b) in wide.chunks_exact_mut(rank).zip(b.chunks_exact(own)) {
            wide.iter_mut().zip(b).for_each(|(wide, b)| *wide = ratio * b);
        }
        let pair = Factors { a, b: wide };
        match (at, is_head) {
            (Some(at), _) => drop(factors.insert(at, pair)),
            (None, true) => ends.head = Some(pair),
            (None, false) => ends.embedding = Some(pair),
        }
    }
    let targets: BTreeSet<Projection> = factors.keys().map(|(_, projection)| *projection).collect();
    config.targets = targets.into_iter().collect();
    Adapter { config, factors, ends }
}

/// Bytes of the weights of an adapter with `targets`, at most.
fn weight_bytes_max(targets: &[Target], spec: &ModelSpec) -> u64 {
    let values = targets.iter().map(|target| {
        let (inputs, outputs) = target.module.sizes(spec);
        let weight = if matches!(target.module.place, Place::Layer(..)) { 0 } else { inputs * outputs };
        target.rank * (inputs + outputs) + weight
    });
    HEADER_BYTES_MAX + (size_of::<f32>() * values.sum::<usize>()) as u64
}

/// The file of weights, and its name in errors.
struct Weights<'a> {
    file: &'a SafeTensors<'a>,
    path: &'a Path,
}

impl Weights<'_> {
    /// Refuses tensors that are no factors of `targets`.
    fn refuse_strangers(&self, targets: &[Target], spec: &ModelSpec) -> Result<()> {
        let mut known = BTreeSet::new();
        for Target { module, .. } in targets {
            known.extend(module.factor_names());
            if !matches!(module.place, Place::Layer(..)) {
                known.insert(module.weight_name());
            }
        }
        // A tied head is stored beside the embedding, whether it has factors or not.
        let ends = ["model.embed_tokens", "lm_head"].map(|key| format!("base_model.model.{key}.weight"));
        let is_known = |name: &str| known.contains(name) || ends.iter().any(|end| end == name);
        let Some(name) = self.file.names().into_iter().find(|name| !is_known(name)) else { return Ok(()) };
        let path = self.path.to_owned();
        if name.ends_with("lora_magnitude_vector") || name.contains("lora_magnitude_vector.") || name.ends_with(".bias")
        {
            let what = format!("tensor {name} is part of DoRA or a trained bias, which is not supported");
            return Err(Error::Refused { path, what, remedy: config::MERGE });
        }
        let mut names: Vec<_> = targets.iter().filter_map(|target| target.module.key.rsplit('.').next()).collect();
        names.sort_unstable();
        names.dedup();
        let last = spec.layers.saturating_sub(1);
        let why = format!(
            "tensor {name} is not a factor of {} in layers 0 to {last} that the config targets",
            names.join(", ")
        );
        Err(Error::Malformed { path, why })
    }

    /// The factors of `target`; of each projection, where the family fuses some.
    fn parts(&self, target: &Target, spec: &ModelSpec) -> Result<Vec<Part>> {
        let Target { module, rank, scale } = target;
        let (inputs, outputs) = module.sizes(spec);
        let [a, b] = module.factor_names();
        let (a, b) = (self.tensor(a, [*rank, inputs])?, self.tensor(b, [outputs, *rank])?);
        let part = |at, factors: Factors, rank| Part {
            at,
            is_head: module.place == Place::Head,
            rank,
            scale: *scale,
            factors,
        };
        Ok(match module.place {
            Place::Layer(layer, projections) => {
                let outputs = projections.iter().map(|projection| projection.sizes(spec).1);
                let (rank, split) = split(Factors { a, b }, *rank, inputs, &outputs.collect::<Vec<_>>());
                let places = projections.iter().map(|projection| (layer, *projection));
                places.zip(split).map(|(at, factors)| part(Some(at), factors, rank)).collect()
            }
            Place::Embedding | Place::Head => vec![part(None, Factors { a, b }, *rank)],
        })
    }

    /// What the file holds of the embedding's and the head's own weights: one value of each row, to be compared with those of
    /// the model. PEFT stores them beside factors of theirs.
    fn brought(&self, targets: &[Target], spec: &ModelSpec) -> Result<Vec<Brought>> {
        let mut brought = Vec::new();
        for (key, is_head) in [("model.embed_tokens", false), ("lm_head", true)] {
            let own = targets.iter().find(|target| target.module.key == key).map(|target| target.module.weight_name());
            for name in own.into_iter().chain([format!("base_model.model.{key}.weight")]) {
                if self.file.tensor(&name).is_err() {
                    continue;
                }
                let weight = self.tensor(name, [spec.vocab, spec.hidden])?;
                let rows = weight.chunks_exact(spec.hidden).enumerate();
                let values = rows.map(|(row, weight)| weight[Brought::column(row, spec.hidden)]).collect();
                brought.push(Brought { is_head, values });
            }
        }
        Ok(brought)
    }

    /// One tensor as f32, row-major.
    fn tensor(&self, name: String, shape: [usize; 2]) -> Result<Vec<f32>> {
        read_tensor(self.file, name, shape, self.path)
    }
}

/// Factors of linears that the model's family fuses, `(outputs_i, inputs)` each, by linear: with the same `A`, and the rows
/// of `B` that are theirs. Where `B` is block-diagonal, as [`Adapter::save`] writes it, each has a part of the rank.
fn split(Factors { a, b }: Factors, rank: usize, inputs: usize, outputs: &[usize]) -> (usize, Vec<Factors>) {
    let count = outputs.len();
    let own = rank / count;
    let mut blocks = Vec::new();
    let mut rows = b.as_slice();
    for outputs in outputs {
        let (block, rest) = rows.split_at(outputs * rank);
        blocks.push(block);
        rows = rest;
    }
    let is_diagonal = count > 1
        && rank.is_multiple_of(count)
        && blocks.iter().enumerate().all(|(index, block)| {
            let outside = |(at, value): (usize, &f32)| (at % rank) / own == index || *value == 0.0;
            block.iter().enumerate().all(outside)
        });
    if !is_diagonal {
        return (rank, blocks.iter().map(|block| Factors { a: a.clone(), b: block.to_vec() }).collect());
    }
    let of = |(index, block): (usize, &&[f32])| Factors {
        a: a[index * own * inputs..(index + 1) * own * inputs].to_vec(),
        b: block.chunks_exact(rank).flat_map(|row| &row[index * own..(index + 1) * own]).copied().collect(),
    };
    (own, blocks.iter().enumerate().map(of).collect())
}

/// One factor as f32, row-major.
fn read_tensor(file: &SafeTensors<'_>, name: String, shape: [usize; 2], path: &Path) -> Result<Vec<f32>> {
    let Ok(view) = file.tensor(&name) else {
        return Err(Error::MissingTensor { path: path.to_owned(), name });
    };
    if view.shape() != shape {
        let (expected, got) = (shape.to_vec(), view.shape().to_vec());
        return Err(Error::Shape { path: path.to_owned(), name, expected, got });
    }
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => {
            return Err(Error::Unsupported {
                path: path.to_owned(),
                what: "tensor type",
                got: format!("{other:?} of {name}"),
                expected: "F32, F16, BF16".to_owned(),
            });
        }
    };
    let tensor = Tensor::from_raw_buffer(view.data(), dtype, &shape, &Device::Cpu)?; // (shape[0], shape[1])
    values::finite(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?, &name, path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
