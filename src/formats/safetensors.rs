//! Hugging Face folders: `config.json`, safetensors in one file or in shards, `tokenizer.json`, chat template.
//!
//! Opening a folder reads only the headers. A tensor is read when it is asked for, and widened to f32; Gemma's norms are
//! stored less 1, which is added, and linears that a family fuses are read part by part. Does not know what the tensors are
//! for.

mod config;
mod header;

pub(crate) use config::names;
pub(crate) use header::parse;

use super::error::{Error, Result};
use super::model::{OpenedModel, WeightReader, beside};
use super::spec::ModelSpec;
use super::template::ChatTemplate;
use super::tokenizer::Tokenizer;
use super::{json, values};
use crate::disk;
use crate::kernels::MatrixRows;
use config::{Config, TokenIds};
use safetensors::tensor::Dtype;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The longest config or index: the index of a model with thousands of tensors has half a megabyte.
const JSON_BYTES_MAX: u64 = 16 << 20;
/// The head, and the embedding that it may be tied to.
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";
/// Bytes of two tensors that are compared at once.
const COMPARED_BYTES: usize = 1 << 20;
/// The longest chat template.
const TEMPLATE_BYTES_MAX: u64 = 1 << 20;

/// Opens a Hugging Face folder. `load` reads the tensors while another thread reads tokenizer and template.
///
/// # Errors
/// If a file is unreadable or malformed, the architecture or a feature of it is not supported, or a tensor is missing or of
/// the wrong shape or type.
pub(super) fn open<T>(
    path: &Path,
    load: Option<impl FnOnce(&ModelSpec, &dyn WeightReader) -> T>,
) -> Result<(OpenedModel, Option<T>)> {
    let config_path = path.join("config.json");
    let config: Config = read_json(&config_path)?;
    let mut weights = FolderWeights::open(path)?;
    let mut spec = config.spec(&config_path, weights.has(HEAD))?;
    weights.spec = Some(spec.clone());
    for (name, shape) in spec.tensors() {
        weights.find(&name, &shape)?;
    }
    if spec.tied && weights.has(HEAD) && !weights.are_equal(HEAD, EMBEDDING, &[spec.vocab, spec.hidden])? {
        tracing::warn!(
            folder = %path.display(),
            "config.json says tie_word_embeddings, but lm_head.weight differs from the embedding; both are kept"
        );
        spec.tied = false;
        weights.spec = Some(spec.clone());
    }

    let ((tokenizer, template), loaded) =
        beside(|| text(path, config, &spec), load.map(|load| || load(&spec, &weights)))?;
    Ok((OpenedModel { spec, tokenizer, template, weights: Box::new(weights) }, loaded))
}

/// Tokenizer and chat template of the folder `path`.
fn text(path: &Path, config: Config, spec: &ModelSpec) -> Result<(Tokenizer, ChatTemplate)> {
    let settings: TokenizerConfig = optional_json(&path.join("tokenizer_config.json"))?.unwrap_or_default();
    let generation: Generation = optional_json(&path.join("generation_config.json"))?.unwrap_or_default();
    let tokenizer_path = path.join("tokenizer.json");
    let eos_ids =
        [config.eos_token_id, generation.eos_token_id].into_iter().flatten().flat_map(TokenIds::into_vec).collect();
    let eos = settings.eos_token.map(TokenText::into_text);
    let bos = settings.bos_token.map(TokenText::into_text);
    let adds_bos = settings.add_bos_token;
    let tokenizer = Tokenizer::from_file(&tokenizer_path, eos_ids, eos.as_deref(), bos.as_deref(), adds_bos)?;
    if tokenizer.len() > spec.vocab {
        return Err(Error::Malformed {
            path: tokenizer_path,
            why: format!("expected at most {} tokens, as config.json says, got {}", spec.vocab, tokenizer.len()),
        });
    }

    let template = match template_source(path, settings.chat_template)? {
        Some(source) => ChatTemplate::new(&source, &bos.unwrap_or_default(), &eos.unwrap_or_default())?,
        None => ChatTemplate::absent("chat_template.jinja, or chat_template in tokenizer_config.json"),
    };
    Ok((tokenizer, template))
}

/// The tensors of one file, without any change to norms.
///
/// # Errors
/// If it is unreadable or malformed.
pub(crate) fn file(path: &Path) -> Result<Box<dyn WeightReader>> {
    let folder = path.parent().unwrap_or(path).to_owned();
    let mut weights = FolderWeights { folder, shards: Vec::new(), locations: HashMap::new(), spec: None };
    weights.add(path.to_owned(), |_| true)?;
    Ok(Box::new(weights))
}

/// The entry `key` of the metadata of the file `path`; none if it has none or cannot be read.
pub(crate) fn metadata(path: &Path, key: &str) -> Option<String> {
    let mut file = disk::open(path).ok()?;
    let bytes = file.metadata().ok()?.len();
    let (_, header) = header::read(&mut file, bytes, path).ok()?;
    header.metadata().as_ref()?.get(key).cloned()
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = disk::read(path, JSON_BYTES_MAX).map_err(Error::io(path))?;
    json::parse(&text).map_err(|why| Error::Malformed { path: path.to_owned(), why })
}

fn optional_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if path.exists() { read_json(path).map(Some) } else { Ok(None) }
}

/// The source of the chat template: the file if there is one, else the setting; of several named templates, `default`.
fn template_source(folder: &Path, setting: Option<Templates>) -> Result<Option<String>> {
    let path = folder.join("chat_template.jinja");
    if path.exists() {
        return disk::read_text(&path, TEMPLATE_BYTES_MAX).map(Some).map_err(Error::io(&path));
    }
    Ok(match setting {
        None => None,
        Some(Templates::One(source)) => Some(source),
        Some(Templates::Named(list)) => list.into_iter().find(|named| named.name == "default").map(|t| t.template),
    })
}

#[derive(Deserialize, Default)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    bos_token: Option<TokenText>,
    add_bos_token: Option<bool>,
    eos_token: Option<TokenText>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// The text of a token, alone or with its settings.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenText {
    Text(String),
    Token { content: String },
}

impl TokenText {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Token { content: text } => text,
        }
    }
}

#[derive(Deserialize, Default)]
struct Generation {
    eos_token_id: Option<TokenIds>,
}

/// Where a tensor is stored.
struct Location {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    start: u64,
    bytes: usize,
}

/// The tensors of a folder.
struct FolderWeights {
    folder: PathBuf,
    shards: Vec<(PathBuf, File)>,
    locations: HashMap<String, Location>,
    /// The model that the tensors are of; without one, each is what its name says.
    spec: Option<ModelSpec>,
}

/// Where the values of a tensor are: in a tensor of the file, or in some of its rows.
struct Place<'a> {
    location: &'a Location,
    start: u64,
    bytes: usize,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

const INDEX: &str = "model.safetensors.index.json";
const WHOLE: &str = "model.safetensors";

/// The files in `folder` that the weights are read from.
///
/// # Errors
/// If the index is malformed.
pub(super) fn weight_files(folder: &Path) -> Result<BTreeSet<String>> {
    let index = optional_json::<Index>(&folder.join(INDEX))?;
    Ok(index.map_or_else(|| BTreeSet::from([WHOLE.to_owned()]), |index| index.weight_map.into_values().collect()))
}

impl FolderWeights {
    fn open(folder: &Path) -> Result<Self> {
        let mut weights = Self { folder: folder.to_owned(), shards: Vec::new(), locations: HashMap::new(), spec: None };
        let index_path = folder.join(INDEX);
        let Some(index) = optional_json::<Index>(&index_path)? else {
            weights.add(folder.join(WHOLE), |_| true)?;
            return Ok(weights);
        };
        for file in index.weight_map.values().collect::<BTreeSet<_>>() {
            if Path::new(file).file_name() != Some(file.as_ref()) {
                let why = format!("weight_map: expected the name of a file in this folder, got {file:?}");
                return Err(Error::Malformed { path: index_path, why });
            }
            weights.add(folder.join(file), |name| index.weight_map.get(name) == Some(file))?;
        }
        for (name, file) in &index.weight_map {
            if !weights.locations.contains_key(name) {
                return Err(Error::MissingTensor { path: folder.join(file), name: name.clone() });
            }
        }
        Ok(weights)
    }

    /// Reads the header of `path` and adds its tensors, except those that `wanted` rejects.
    fn add(&mut self, path: PathBuf, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let mut file = disk::open(&path).map_err(Error::io(&path))?;
        let file_bytes = file.metadata().map_err(Error::io(&path))?.len();
        let (data, metadata) = header::read(&mut file, file_bytes, &path)?;
        let shard = self.shards.len();
        for (name, info) in metadata.tensors().into_iter().filter(|(name, _)| wanted(name)) {
            let (start, end) = info.data_offsets;
            let (start, bytes) = (data + start as u64, end - start);
            let location = Location { shard, dtype: info.dtype, shape: info.shape.clone(), start, bytes };
            self.locations.insert(name, location);
        }
        self.shards.push((path, file));
        Ok(())
    }

    /// Whether two tensors of `shape` hold the same values. Of the same type, they are compared piece by piece.
    fn are_equal(&self, one: &str, two: &str, shape: &[usize]) -> Result<bool> {
        let of = |place: Place<'_>| (place.location.shard, place.location.dtype, place.start, place.bytes);
        let (first, second) = (of(self.find(one, shape)?), of(self.find(two, shape)?));
        if first.1 != second.1 {
            return Ok(self.get(one, shape)? == self.get(two, shape)?);
        }
        let (mut bytes, mut others) = (Vec::new(), Vec::new());
        for done in (0..first.3).step_by(COMPARED_BYTES) {
            let length = COMPARED_BYTES.min(first.3 - done);
            for ((shard, _, start, _), bytes) in [(first, &mut bytes), (second, &mut others)] {
                bytes.resize(length, 0);
                self.read(shard, start + done as u64, bytes)?;
            }
            if bytes != others {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fills `bytes` from `start` of a shard.
    fn read(&self, shard: usize, start: u64, bytes: &mut [u8]) -> Result<()> {
        let (path, file) = &self.shards[shard];
        disk::read_exact_at(file, bytes, start).map_err(Error::io(path))
    }

    /// Where the tensor `name` is stored; it must have `shape` and a supported type.
    fn find(&self, name: &str, shape: &[usize]) -> Result<Place<'_>> {
        let fused = self.spec.as_ref().and_then(|spec| spec.part_of_fused(name));
        let (name, rows, first) = match &fused {
            Some((whole, rows, first)) => (whole.as_str(), *rows, *first),
            None => (name, shape[0], 0),
        };
        let Some(location) = self.locations.get(name) else {
            return Err(Error::MissingTensor { path: self.folder.clone(), name: name.to_owned() });
        };
        let path = || self.shards[location.shard].0.clone();
        let whole: Vec<usize> = [&[rows], &shape[1..]].concat();
        if location.shape != whole {
            let (expected, got) = (whole, location.shape.clone());
            return Err(Error::Shape { path: path(), name: name.to_owned(), expected, got });
        }
        let Some(width) = width(location.dtype) else {
            let (got, expected) = (format!("{:?} of {name}", location.dtype), "F32, F16, BF16".to_owned());
            return Err(Error::Unsupported { path: path(), what: "tensor type", got, expected });
        };
        let bytes = whole.iter().product::<usize>() * width;
        if location.bytes != bytes {
            let why = format!("tensor {name}: expected {bytes} bytes, got {}", location.bytes);
            return Err(Error::Malformed { path: path(), why });
        }
        let row = bytes / rows.max(1);
        Ok(Place { location, start: location.start + (first * row) as u64, bytes: shape[0] * row })
    }
}

/// Bytes of a value, if the type is supported.
fn width(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F32 => Some(4),
        Dtype::F16 | Dtype::BF16 => Some(2),
        _ => None,
    }
}

/// Widens the values in `bytes`.
fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, b)| *out = f32::from_le_bytes(*b)),
        Dtype::F16 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, b)| *out = half(u16::from_le_bytes(*b))),
        // BF16: `find` accepts only these three types.
        _ => {
            let words = bytes.as_chunks().0.iter().map(|b| u32::from(u16::from_le_bytes(*b)) << 16);
            out.iter_mut().zip(words).for_each(|(out, word)| *out = f32::from_bits(word));
        }
    }
}

/// A matrix in a file.
struct FolderRows<'a> {
    weights: &'a FolderWeights,
    place: Place<'a>,
    name: String,
    outputs: usize,
    inputs: usize,
}

impl MatrixRows for FolderRows<'_> {
    type Error = Error;

    fn outputs(&self) -> usize {
        self.outputs
    }

    fn values(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let (shard, dtype) = (self.place.location.shard, self.place.location.dtype);
        let row = self.place.bytes / self.outputs;
        let mut bytes = vec![0; rows.len() * row];
        self.weights.read(shard, self.place.start + (rows.start * row) as u64, &mut bytes)?;
        widen(dtype, &bytes, out);
        match values::complaint(out, rows.start * self.inputs, &self.name) {
            None => Ok(()),
            Some(why) => Err(Error::Malformed { path: self.weights.shards[shard].0.clone(), why }),
        }
    }
}

impl WeightReader for FolderWeights {
    fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Place { location, start, bytes } = self.find(name, shape)?;
        let mut raw = vec![0; bytes];
        self.read(location.shard, start, &mut raw)?;
        let mut values = vec![0.0; shape.iter().product()];
        widen(location.dtype, &raw, &mut values);
        if let Some(spec) = &self.spec {
            spec.read_norm(name, &mut values);
        }
        values::finite(values, name, &self.shards[location.shard].0)
    }

    fn rows<'a>(&'a self, name: &str, shape: [usize; 2]) -> Result<Box<dyn MatrixRows<Error = Error> + 'a>> {
        let (place, [outputs, inputs]) = (self.find(name, &shape)?, shape);
        Ok(Box::new(FolderRows { weights: self, place, name: name.to_owned(), outputs, inputs }))
    }

    fn has(&self, name: &str) -> bool {
        let fused = self.spec.as_ref().and_then(|spec| spec.part_of_fused(name));
        self.locations.contains_key(fused.as_ref().map_or(name, |(whole, ..)| whole))
    }

    fn is_four_bit(&self, _: &str) -> bool {
        false
    }
}

/// The f32 value of an IEEE half.
fn half(bits: u16) -> f32 {
    half::f16::from_bits(bits).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::open;
    use crate::formats::rotary::Rotary;
    use crate::formats::spec::tests::tiny;
    use candle_core::{DType, Device, Tensor};
    use serde_json::{Value, json};
    use tempfile::TempDir;

    type Tensors = HashMap<String, Tensor>;

    /// The tensors of [`tiny`], all values different.
    fn tensors(spec: &ModelSpec, dtype: DType) -> Tensors {
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let count = shape.iter().product::<usize>();
            let values: Vec<f32> = (0..count).map(|i| ((i + name.len()) as f32 * 0.3).cos()).collect();
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).and_then(|t| t.to_dtype(dtype)).unwrap();
            (name, tensor)
        };
        spec.tensors().into_iter().map(tensor).collect()
    }

    fn config() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 260, "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": null,
            "hidden_act": "silu", "tie_word_embeddings": true, "attention_bias": false, "eos_token_id": 2
        })
    }

    /// A folder with everything but weights.
    fn folder(config: &Value) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        write("config.json", config.to_string());
        write("tokenizer.json", Tokenizer::bytes().to_json().unwrap());
        let settings = json!({
            "chat_template": "{{ bos_token }}one{{ eos_token }}",
            "bos_token": "<|im_start|>",
            "eos_token": {"content": "<|im_end|>", "special": true}
        });
        write("tokenizer_config.json", settings.to_string());
        write("generation_config.json", json!({"eos_token_id": [2, 5]}).to_string());
        folder
    }

    fn save(folder: &TempDir, file: &str, tensors: &Tensors) {
        candle_core::safetensors::save(tensors, folder.path().join(file)).unwrap();
    }

    fn set(config: &mut Value, key: &str, value: Value) {
        config.as_object_mut().unwrap().insert(key.to_owned(), value);
    }

    /// The error of opening a folder of this config, weights and all.
    fn error(config: &Value) -> String {
        let folder = folder(config);
        save(&folder, "model.safetensors", &tensors(&tiny(), DType::F32));
        open(folder.path()).err().unwrap().to_string()
    }

    #[test]
    fn every_type_is_widened_as_candle_does_it() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let folder = folder(&config());
            let tensors = tensors(&tiny(), dtype);
            save(&folder, "model.safetensors", &tensors);
            let opened = open(folder.path()).unwrap();
            assert_eq!(opened.spec, tiny());
            for (name, shape) in tiny().tensors() {
                let expected = tensors[&name].to_dtype(DType::F32).and_then(|t| t.flatten_all()).unwrap();
                assert_eq!(opened.weights.get(&name, &shape).unwrap(), expected.to_vec1::<f32>().unwrap(), "{name}");
            }
        }
    }

    #[test]
    fn every_half_is_the_number_that_candle_reads() {
        let bits: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let tensor = Tensor::from_raw_buffer(&bits, DType::F16, &[65_536], &Device::Cpu).unwrap();
        let expected = tensor.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
        for (bits, expected) in (0..=u16::MAX).zip(expected) {
            let got = half(bits);
            assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(), "{bits:#x}: {got}");
        }
    }

    #[test]
    fn shards_hold_the_same_model_as_one_file() {
        let folder = folder(&config());
        let all = tensors(&tiny(), DType::F32);
        let (first, second): (Tensors, Tensors) =
            all.clone().into_iter().partition(|(name, _)| name.contains("layers.0"));
        save(&folder, "a.safetensors", &first);
        save(&folder, "b.safetensors", &second);
        let file = |name: &String| if first.contains_key(name) { "a.safetensors" } else { "b.safetensors" };
        let map: HashMap<_, _> = all.keys().map(|name| (name.clone(), file(name))).collect();
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(&index, json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
        let opened = open(folder.path()).unwrap();
        for (name, shape) in tiny().tensors() {
            let expected = all[&name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(opened.weights.get(&name, &shape).unwrap(), expected, "{name}");
        }

        std::fs::remove_file(folder.path().join("b.safetensors")).unwrap();
        let error = open(folder.path()).err().unwrap().to_string();
        assert!(error.contains("b.safetensors: "), "{error}");
        std::fs::write(&index, r#"{"weight_map": {"x": "../a.safetensors"}}"#).unwrap();
        let error = open(folder.path()).err().unwrap().to_string();
        assert!(error.contains("got \"../a.safetensors\""), "{error}");
    }

    #[test]
    fn a_promise_of_the_index_that_a_shard_does_not_keep_is_named() {
        let folder = folder(&config());
        save(&folder, "a.safetensors", &tensors(&tiny(), DType::F32));
        let index = json!({"weight_map": {"model.norm.weight": "a.safetensors", "other": "a.safetensors"}});
        std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
        let error = open(folder.path()).err().unwrap().to_string();
        assert!(error.ends_with("a.safetensors: tensor other is missing"), "{error}");
    }

    #[test]
    fn missing_tensors_wrong_shapes_and_types_are_named() {
        let name = "model.layers.1.mlp.up_proj.weight";
        let mut without = tensors(&tiny(), DType::F32);
        without.remove(name);
        let mut misshapen = without.clone();
        misshapen.insert(name.to_owned(), Tensor::zeros((32, 64), DType::F32, &Device::Cpu).unwrap());
        let mut mistyped = without.clone();
        mistyped.insert(name.to_owned(), Tensor::zeros((64, 32), DType::F64, &Device::Cpu).unwrap());
        for (tensors, words) in [
            (without, format!("tensor {name} is missing")),
            (misshapen, format!("tensor {name}: expected shape [64, 32], got [32, 64]")),
            (mistyped, format!("tensor type \"F64 of {name}\" is not supported")),
        ] {
            let folder = folder(&config());
            save(&folder, "model.safetensors", &tensors);
            let error = open(folder.path()).err().unwrap().to_string();
            assert!(error.contains(&words), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_cut_short_or_no_safetensors_is_an_error() {
        let folder = folder(&config());
        save(&folder, "model.safetensors", &tensors(&tiny(), DType::F32));
        let path = folder.path().join("model.safetensors");
        let whole = std::fs::read(&path).unwrap();
        for bytes in [&whole[..whole.len() - 1], &whole[..100], &whole[..4], b"\x08\0\0\0\0\0\0\0[1, 2, ]"] {
            std::fs::write(&path, bytes).unwrap();
            let error = open(folder.path()).err().unwrap().to_string();
            assert!(error.contains("model.safetensors: "), "{error}");
        }
    }

    #[test]
    fn stops_and_template_are_gathered_from_every_file_that_tells_them() {
        let folder = folder(&config());
        save(&folder, "model.safetensors", &tensors(&tiny(), DType::F32));
        let opened = open(folder.path()).unwrap();
        assert_eq!(opened.tokenizer.stop_ids(), [2, 5, 256, 258]);
        let turns = [json!({})];
        assert_eq!(opened.template.render(&turns, true).unwrap(), "<|im_start|>one<|im_end|>");

        std::fs::write(folder.path().join("chat_template.jinja"), "two").unwrap();
        assert_eq!(open(folder.path()).unwrap().template.render(&turns, true).unwrap(), "two");
        std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
        let settings = folder.path().join("tokenizer_config.json");
        let named = json!([{"name": "tools", "template": "no"}, {"name": "default", "template": "three"}]);
        std::fs::write(&settings, json!({"chat_template": named}).to_string()).unwrap();
        assert_eq!(open(folder.path()).unwrap().template.render(&turns, true).unwrap(), "three");
        std::fs::remove_file(settings).unwrap();
        let error = open(folder.path()).unwrap().template.render(&turns, true).unwrap_err().to_string();
        assert!(error.starts_with("chat template: the model has none (chat_template.jinja"), "{error}");
    }

    #[test]
    fn configs_of_either_generation_are_read() {
        let mut new = config();
        new.as_object_mut().unwrap().retain(|key, _| !key.starts_with("rope") && key != "tie_word_embeddings");
        set(&mut new, "rope_parameters", json!({"rope_theta": 5e5, "rope_type": "default"}));
        set(&mut new, "head_dim", json!(16));
        let rotary = Rotary::new(5e5, 16);
        let spec = ModelSpec { head_dim: 16, score_scale: 0.25, rotary, tied: false, ..tiny() };
        let folder = folder(&new);
        save(&folder, "model.safetensors", &tensors(&spec, DType::F32));
        assert_eq!(open(folder.path()).unwrap().spec, spec);
    }

    #[test]
    fn a_head_that_differs_from_the_embedding_is_kept_whatever_the_config_says() {
        let folder = folder(&config());
        let mut all = tensors(&tiny(), DType::F32);
        let embedding = all[EMBEDDING].clone();
        for (head, tied) in [
            (embedding.clone(), true),
            (embedding.to_dtype(DType::BF16).unwrap(), false),
            ((&embedding + 0.5).unwrap(), false),
        ] {
            all.insert(HEAD.to_owned(), head.clone());
            save(&folder, "model.safetensors", &all);
            let opened = open(folder.path()).unwrap();
            assert_eq!(opened.spec.tied, tied);
            let expected = head.to_dtype(DType::F32).and_then(|head| head.flatten_all()).unwrap();
            assert_eq!(opened.weights.get(HEAD, &[260, 32]).unwrap(), expected.to_vec1::<f32>().unwrap());
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (key, value, words) in [
            ("architectures", json!(["PhiForCausalLM"]), "architecture \"PhiForCausalLM\" is not supported"),
            (
                "architectures",
                json!(["Qwen2ForCausalLM"]),
                "model_type \"llama\" is not supported, expected one of qwen2",
            ),
            ("model_type", json!("mistral"), "model_type \"mistral\" is not supported"),
            ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}), "rope scaling: expected low_freq_factor"),
            ("rope_scaling", json!({"type": "linear", "factor": 0.0}), "rope scaling: expected factor above 0"),
            ("layer_types", json!(["full_attention", "chunked_attention"]), "layer_types \"chunked_attention\""),
            ("layer_types", json!(["full_attention", "sliding_attention"]), "layer_types \"sliding_attention\""),
            ("final_logit_softcapping", json!(30.0), "final_logit_softcapping \"30\""),
            ("partial_rotary_factor", json!(0.5), "partial_rotary_factor \"0.5\""),
            ("rope_scaling", json!({"factor": 8.0}), "rope scaling \"of no type\""),
            (
                "rope_parameters",
                json!({"rope_type": "proportional", "rope_theta": 1e4}),
                "rope scaling \"proportional\"",
            ),
            (
                "rope_scaling",
                json!({"rope_type": "longrope", "short_factor": [1.0]}),
                "expected short_factor of 4 numbers",
            ),
            ("attention_bias", json!(true), "self_attn.q_proj.bias is missing"),
            ("mlp_bias", json!(true), "mlp.gate_proj.bias is missing"),
            ("hidden_act", json!("gelu"), "hidden_act \"gelu\""),
            ("num_key_value_heads", json!(3), "multiple of 3"),
            ("vocab_size", json!(100), "expected shape [100, 32], got [260, 32]"),
        ] {
            let mut config = config();
            set(&mut config, key, value);
            let error = error(&config);
            assert!(error.contains(words), "{error}");
        }
        let mut config = config();
        config.as_object_mut().unwrap().remove("hidden_size");
        let error = error(&config);
        assert!(error.contains("config.json: missing field `hidden_size`"), "{error}");
    }

    #[test]
    fn a_folder_without_a_config_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = crate::formats::open(folder.path()).err().unwrap().to_string();
        assert!(error.contains("config.json: "), "{error}");
    }
}
