//! Writes PEFT's adapter folder.

use super::targets::{Module, Place};
use super::{CONFIG_FILE, WEIGHTS_FILE};
use crate::formats::adapter::{Adapter, Factors};
use crate::formats::error::{Error, Result};
use crate::formats::spec::{ModelSpec, Projection};
use ::safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

/// A module with its factors, as they are written.
struct Written<'a> {
    module: Module,
    rank: usize,
    a: Cow<'a, [f32]>,
    b: Cow<'a, [f32]>,
}

impl Adapter {
    /// Writes `adapter_config.json` and `adapter_model.safetensors` into the existing folder `dir`, as PEFT does.
    ///
    /// # Errors
    /// If a target has no factors, factors are not of the size that `spec` and the rank imply, or a file cannot be written.
    pub fn save(&self, dir: &Path, base_model: &str, spec: &ModelSpec) -> Result<()> {
        for (name, bytes) in self.files(dir, base_model, spec)? {
            let path = dir.join(name);
            std::fs::write(&path, bytes).map_err(Error::io(&path))?;
        }
        Ok(())
    }

    /// The names and bytes of the files that [`Adapter::save`] writes; `dir` is used in errors only.
    pub(crate) fn files(&self, dir: &Path, base_model: &str, spec: &ModelSpec) -> Result<[(&'static str, Vec<u8>); 2]> {
        let path = dir.join(WEIGHTS_FILE);
        check(self, &path, spec)?;
        let written: Vec<Written<'_>> =
            Module::all(spec).into_iter().filter_map(|module| written(self, module, spec)).collect();
        let config = serde_json::to_vec_pretty(&config_json(self, base_model, spec, &written))
            .expect("a tree of strings and finite numbers is always JSON");
        Ok([(CONFIG_FILE, config), (WEIGHTS_FILE, weights(&written, &path, spec)?)])
    }
}

/// Checks that the factors are those of the targets, in the sizes of the model.
fn check(adapter: &Adapter, path: &Path, spec: &ModelSpec) -> Result<()> {
    let targets = &adapter.config.targets;
    let without = targets.iter().find(|target| !adapter.factors.keys().any(|(_, projection)| projection == *target));
    if let Some(target) = without {
        return Err(Error::MissingTensor { path: path.to_owned(), name: format!("{}.lora_A", target.name()) });
    }
    let is_stray =
        |&&(layer, projection): &&(usize, Projection)| layer >= spec.layers || !targets.contains(&projection);
    if let Some((layer, projection)) = adapter.factors.keys().find(is_stray) {
        let why = format!("factors on {projection} of layer {layer}: expected only the adapter's own targets");
        return Err(Error::Malformed { path: path.to_owned(), why });
    }
    let layers = adapter.factors.iter().map(|(&(layer, projection), factors)| {
        (format!("layers.{layer}.{}", projection.name()), projection.sizes(spec), factors)
    });
    let embedding = adapter.ends.embedding.iter().map(|factors| ("embed_tokens", (spec.vocab, spec.hidden), factors));
    let head = adapter.ends.head.iter().map(|factors| ("lm_head", (spec.hidden, spec.vocab), factors));
    let ends = embedding.chain(head).map(|(name, sizes, factors)| (name.to_owned(), sizes, factors));
    let rank = adapter.config.rank;
    for (name, (inputs, outputs), factors) in layers.chain(ends) {
        for (factor, shape, got) in [("A", [rank, inputs], &factors.a), ("B", [outputs, rank], &factors.b)] {
            if got.len() != shape[0] * shape[1] {
                let (name, expected, got) = (format!("{name}.lora_{factor}"), shape.to_vec(), vec![got.len()]);
                return Err(Error::Shape { path: path.to_owned(), name, expected, got });
            }
        }
    }
    Ok(())
}

/// The factors of `module`, if it has some. Those of projections that the family fuses make up one `A` and a block-diagonal
/// `B`.
fn written<'a>(adapter: &'a Adapter, module: Module, spec: &ModelSpec) -> Option<Written<'a>> {
    let rank = adapter.config.rank;
    let whole = |module, factors: &'a Factors| {
        Some(Written { module, rank, a: Cow::from(&factors.a), b: Cow::from(&factors.b) })
    };
    let (layer, projections) = match module.place {
        Place::Embedding => return adapter.ends.embedding.as_ref().and_then(|factors| whole(module, factors)),
        Place::Head => return adapter.ends.head.as_ref().and_then(|factors| whole(module, factors)),
        Place::Layer(layer, projections) => (layer, projections),
    };
    let of = |projection: &Projection| adapter.factors.get(&(layer, *projection));
    if let [only] = projections {
        return of(only).and_then(|factors| whole(module, factors));
    }
    if projections.iter().all(|projection| of(projection).is_none()) {
        return None;
    }
    let (wide, (inputs, _)) = (rank * projections.len(), module.sizes(spec));
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (index, projection) in projections.iter().enumerate() {
        let mut rows = vec![0.0; projection.sizes(spec).1 * wide];
        match of(projection) {
            Some(factors) => {
                a.extend_from_slice(&factors.a);
                for (row, own) in rows.chunks_exact_mut(wide).zip(factors.b.chunks_exact(rank)) {
                    row[index * rank..][..rank].copy_from_slice(own);
                }
            }
            None => a.resize(a.len() + rank * inputs, 0.0),
        }
        b.extend(rows);
    }
    Some(Written { module, rank: wide, a: Cow::from(a), b: Cow::from(b) })
}

/// The keys that every PEFT since 0.5 knows. Newer versions add keys whose defaults change nothing.
fn config_json(adapter: &Adapter, base_model: &str, spec: &ModelSpec, written: &[Written<'_>]) -> Value {
    let config = &adapter.config;
    let root = |rank: usize| if config.rslora { (rank as f32).sqrt() } else { rank as f32 };
    // PEFT documents an integer, and some readers require one.
    let number = |alpha: f32| if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) };
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    for Written { module, rank, .. } in written.iter().filter(|written| written.rank != config.rank) {
        let name = last(&module.key).to_owned();
        alphas.insert(name.clone(), number(config.alpha * root(*rank) / root(config.rank)));
        ranks.insert(name, json!(rank));
    }
    json!({
        "alpha_pattern": alphas,
        "auto_mapping": null,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": number(config.alpha),
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": ranks,
        "revision": null,
        "target_modules": target_modules(spec, written),
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": config.rslora,
    })
}

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// The last parts of the modules' names; their whole names, where a part of the layers has no factors.
fn target_modules(spec: &ModelSpec, written: &[Written<'_>]) -> Vec<String> {
    let keys: BTreeSet<&str> = written.iter().map(|written| written.module.key.as_str()).collect();
    let names: BTreeSet<&str> = keys.iter().map(|key| last(key)).collect();
    let meant = Module::all(spec).into_iter().filter(|module| names.contains(last(&module.key))).count();
    let list = if meant == keys.len() { names } else { keys };
    list.into_iter().map(str::to_owned).collect()
}

/// The weights as one safetensors file.
fn weights(written: &[Written<'_>], path: &Path, spec: &ModelSpec) -> Result<Vec<u8>> {
    let mut tensors = Vec::new();
    for Written { module, rank, a, b } in written {
        let (inputs, outputs) = module.sizes(spec);
        let shapes = [vec![*rank, inputs], vec![outputs, *rank]];
        for ((name, data), shape) in module.factor_names().into_iter().zip([a, b]).zip(shapes) {
            let bytes: Vec<u8> = data.iter().flat_map(|value| value.to_le_bytes()).collect();
            tensors.push((name, shape, bytes));
        }
    }
    let malformed =
        |error: ::safetensors::SafeTensorError| Error::Malformed { path: path.to_owned(), why: error.to_string() };
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(malformed)?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    ::safetensors::serialize(views, Some(metadata)).map_err(malformed)
}
