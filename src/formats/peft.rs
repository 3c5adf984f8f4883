//! PEFT's adapter folder: `adapter_config.json` beside `adapter_model.safetensors`.
//!
//! PEFT and vLLM load the folders that are written here. Reading is strict: what this node would compute differently from
//! PEFT (DoRA, per-layer patterns, biases, whole modules) is refused by name.

use super::adapter::{Adapter, Factors, LoraConfig};
use super::error::{Error, Result};
use super::spec::{ModelSpec, Projection};
use super::{json, safetensors, values};
use crate::disk;
use ::safetensors::tensor::{Dtype, SafeTensors, TensorView};
use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The config's file name in PEFT.
pub(crate) const CONFIG_FILE: &str = "adapter_config.json";
/// The weights' file name in PEFT.
pub(crate) const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// The longest config.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// The longest header of the weights.
const HEADER_BYTES_MAX: u64 = 32 << 20;
/// The largest rank. A factor of a higher one is larger than the linear that it stands for.
const RANK_MAX: u64 = 1 << 14;

/// Keys of PEFT that change what an adapter computes; each must be absent, false, null or empty.
const MUST_BE_OFF: &[&str] = &[
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layers_to_transform",
    "layer_replication",
    "rank_pattern",
    "alpha_pattern",
    "alora_invocation_tokens",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "arrow_config",
];

impl Adapter {
    /// Writes `adapter_config.json` and `adapter_model.safetensors` into the existing folder `dir`, as PEFT does.
    ///
    /// # Errors
    /// If a factor is missing or not of the size that `spec` and the rank imply, or a file cannot be written.
    pub fn save(&self, dir: &Path, base_model: &str, spec: &ModelSpec) -> Result<()> {
        for (name, bytes) in self.files(dir, base_model, spec)? {
            let path = dir.join(name);
            std::fs::write(&path, bytes).map_err(Error::io(&path))?;
        }
        Ok(())
    }

    /// The names and bytes of the files that [`Adapter::save`] writes; `dir` is used in errors only.
    pub(crate) fn files(&self, dir: &Path, base_model: &str, spec: &ModelSpec) -> Result<[(&'static str, Vec<u8>); 2]> {
        let config = serde_json::to_vec_pretty(&config_json(&self.config, base_model))
            .expect("a tree of strings and finite numbers is always JSON");
        Ok([(CONFIG_FILE, config), (WEIGHTS_FILE, weights(self, &dir.join(WEIGHTS_FILE), spec)?)])
    }

    /// Reads a folder that PEFT or [`Adapter::save`] wrote, and checks it against `spec`. Tensors in f16 and bf16 are
    /// widened to f32.
    ///
    /// # Errors
    /// If a file is unreadable, uses an unsupported feature (DoRA, whole modules, patterns), holds a tensor that belongs to
    /// no target linear of `spec`, or lacks one.
    pub fn load(dir: &Path, spec: &ModelSpec) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        let text = disk::read(&path, CONFIG_BYTES_MAX).map_err(Error::io(&path))?;
        let json = json::parse(&text).map_err(|why| Error::Malformed { path: path.clone(), why })?;
        let config = read_config(&json, &path)?;

        let path = dir.join(WEIGHTS_FILE);
        let bytes = disk::read(&path, weight_bytes_max(&config, spec)).map_err(Error::io(&path))?;
        let file = safetensors::parse(&bytes).map_err(|why| Error::Malformed { path: path.clone(), why })?;
        let mut factors = BTreeMap::new();
        for (layer, projection) in positions(&config.targets, spec) {
            let (a, b) = shapes(projection, config.rank, spec);
            let a = read_tensor(&file, tensor_name(layer, projection, 'A'), a, &path)?;
            let b = read_tensor(&file, tensor_name(layer, projection, 'B'), b, &path)?;
            factors.insert((layer, projection), Factors { a, b });
        }
        let known: std::collections::BTreeSet<String> = positions(&config.targets, spec)
            .flat_map(|(layer, projection)| ['A', 'B'].map(|factor| tensor_name(layer, projection, factor)))
            .collect();
        if let Some(name) = file.names().into_iter().find(|name| !known.contains(*name)) {
            let why = format!(
                "tensor {name} is not a factor of {} in layers 0 to {}",
                names(&config.targets),
                spec.layers.saturating_sub(1)
            );
            return Err(Error::Malformed { path, why });
        }
        Ok(Self { config, factors })
    }
}

/// `base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight`, as PEFT names a factor.
fn tensor_name(layer: usize, projection: Projection, factor: char) -> String {
    format!("base_model.model.model.layers.{layer}.{}.{}.lora_{factor}.weight", projection.module(), projection.name())
}

/// Shapes of A and B: `(rank, inputs)`, `(outputs, rank)`.
fn shapes(projection: Projection, rank: usize, spec: &ModelSpec) -> ([usize; 2], [usize; 2]) {
    let (inputs, outputs) = projection.sizes(spec);
    ([rank, inputs], [outputs, rank])
}

/// Bytes of the weights of an adapter with `config`, at most.
fn weight_bytes_max(config: &LoraConfig, spec: &ModelSpec) -> u64 {
    let sizes = config.targets.iter().map(|projection| projection.sizes(spec));
    let values: usize = sizes.map(|(inputs, outputs)| config.rank * (inputs + outputs)).sum();
    HEADER_BYTES_MAX + (size_of::<f32>() * spec.layers * values) as u64
}

/// The keys that every PEFT since 0.5 knows. Newer versions add keys whose defaults change nothing.
fn config_json(config: &LoraConfig, base_model: &str) -> Value {
    let mut targets: Vec<_> = config.targets.iter().map(|projection| projection.name()).collect();
    targets.sort_unstable();
    // PEFT documents an integer, and some readers require one.
    let alpha = if config.alpha.fract() == 0.0 { json!(config.alpha as i64) } else { json!(config.alpha) };
    json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": config.rslora,
    })
}

/// The weights as one safetensors file.
fn weights(adapter: &Adapter, path: &Path, spec: &ModelSpec) -> Result<Vec<u8>> {
    let rank = adapter.config.rank;
    let mut tensors = Vec::new();
    for (layer, projection) in positions(&adapter.config.targets, spec) {
        let factors = adapter
            .factors
            .get(&(layer, projection))
            .ok_or_else(|| Error::MissingTensor { path: path.to_owned(), name: tensor_name(layer, projection, 'A') })?;
        let (a, b) = shapes(projection, rank, spec);
        for (factor, data, shape) in [('A', &factors.a, a), ('B', &factors.b, b)] {
            let name = tensor_name(layer, projection, factor);
            if data.len() != shape[0] * shape[1] {
                return Err(Error::Shape {
                    path: path.to_owned(),
                    name,
                    expected: shape.to_vec(),
                    got: vec![data.len()],
                });
            }
            let bytes: Vec<u8> = data.iter().flat_map(|value| value.to_le_bytes()).collect();
            tensors.push((name, shape.to_vec(), bytes));
        }
    }
    if let Some((layer, projection)) = adapter
        .factors
        .keys()
        .find(|(layer, projection)| *layer >= spec.layers || !adapter.config.targets.contains(projection))
    {
        let why = format!("factors on {projection} of layer {layer}: expected only the adapter's own targets");
        return Err(Error::Malformed { path: path.to_owned(), why });
    }
    let malformed =
        |error: ::safetensors::SafeTensorError| Error::Malformed { path: path.to_owned(), why: error.to_string() };
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(malformed)?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    ::safetensors::serialize(views, Some(metadata)).map_err(malformed)
}

/// Every (layer, projection) of `targets`.
fn positions(targets: &[Projection], spec: &ModelSpec) -> impl Iterator<Item = (usize, Projection)> {
    (0..spec.layers).flat_map(move |layer| targets.iter().map(move |projection| (layer, *projection)))
}

/// Reads rank, scale and targets. Refuses a config whose adapter computes anything but `y += scale * (x A^T) B^T` on every
/// layer.
fn read_config(json: &Map<String, Value>, path: &Path) -> Result<LoraConfig> {
    let refused = |what: &'static str, got: &Value, expected: &str| Error::Unsupported {
        path: path.to_owned(),
        what,
        got: got.as_str().map_or_else(|| got.to_string(), str::to_owned),
        expected: expected.to_owned(),
    };
    let key = |name: &str| json.get(name).unwrap_or(&Value::Null);
    let is_off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    if key("peft_type") != "LORA" {
        return Err(refused("peft_type", key("peft_type"), "LORA"));
    }
    if !matches!(key("bias"), Value::Null) && key("bias") != "none" {
        return Err(refused("bias", key("bias"), "none"));
    }
    for name in MUST_BE_OFF {
        if !is_off(key(name)) {
            return Err(refused(name, key(name), "off"));
        }
    }
    let rank = key("r").as_u64().filter(|rank| (1..=RANK_MAX).contains(rank));
    let rank = rank.ok_or_else(|| refused("r", key("r"), &format!("1 to {RANK_MAX}")))? as usize;
    let alpha = key("lora_alpha").as_f64().map(|alpha| alpha as f32).filter(|alpha| alpha.is_finite());
    let alpha = alpha.ok_or_else(|| refused("lora_alpha", key("lora_alpha"), "a number"))?;
    let listed = key("target_modules");
    let wanted = format!("a list of {}", names(&Projection::ALL));
    let list = listed.as_array().filter(|list| !list.is_empty());
    let mut targets = list
        .ok_or_else(|| refused("target_modules", listed, &wanted))?
        .iter()
        .map(|name| {
            let projection = Projection::ALL.into_iter().find(|projection| name == projection.name());
            projection.ok_or_else(|| refused("target_modules", name, &wanted))
        })
        .collect::<Result<Vec<_>>>()?;
    targets.sort_unstable();
    targets.dedup();
    let rslora = match key("use_rslora") {
        Value::Null => false,
        Value::Bool(on) => *on,
        other => return Err(refused("use_rslora", other, "true or false")),
    };
    Ok(LoraConfig { rank, alpha, rslora, targets })
}

/// The names of `projections`, separated by commas.
fn names(projections: &[Projection]) -> String {
    projections.iter().map(|projection| projection.name()).collect::<Vec<_>>().join(", ")
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
