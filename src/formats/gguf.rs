//! GGUF files: spec, tokenizer and chat template from the header, tensors by their Hugging Face names.
//!
//! Rows of a tensor are read when they are asked for; nothing is cached. Architecture `llama` stores the rows of q and k
//! permuted for interleaved rotary positions, as do those of its kin; they are permuted back, so that every room and every
//! exported adapter has the order of Hugging Face. Gemma's norms include their 1 already. Does not know what the tensors are
//! for.

mod blocks;
mod check;
mod described;
mod header;
mod names;
mod rows;
mod spec;

pub(crate) use described::{Described, describe};
pub(crate) use header::Header;
pub(crate) use names::gguf_name;

use super::error::{Error, Result};
use super::model::{OpenedModel, WeightReader, beside};
use super::spec::{Family, ModelSpec};
use super::template::ChatTemplate;
use super::tokenizer::Tokenizer;
use crate::disk;
use crate::kernels::MatrixRows;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, TensorInfo};
use rows::{GgufRows, RowOrder};
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};

/// Bytes after the last tensor: padding up to the greatest alignment.
const PADDING_BYTES_MAX: u64 = 1 << 20;

/// Opens a GGUF file. `load` reads the tensors while another thread reads tokenizer and template.
///
/// # Errors
/// If it is unreadable or malformed, its architecture or a feature of it is not supported, a tensor is missing or has the
/// wrong shape, or its tokenizer is missing or unknown.
pub(super) fn open<T>(
    path: &Path,
    load: Option<impl FnOnce(&ModelSpec, &dyn WeightReader) -> T>,
) -> Result<(OpenedModel, Option<T>)> {
    let (reader, content) = read(path)?;
    let mut weights = GgufWeights { path: path.to_owned(), file: reader.into_inner(), content, spec: None };
    let factors = weights.rotary_factors()?;
    let spec = Header { path, content: &weights.content }.spec(factors.as_deref())?;
    weights.spec = Some(spec.clone());
    for (name, shape) in spec.tensors() {
        weights.find(&name, &shape)?;
    }
    let text = || {
        let header = Header { path, content: &weights.content };
        let tokenizer = Tokenizer::from_gguf(&header)?;
        if tokenizer.len() > spec.vocab {
            return Err(header.malformed(format!(
                "expected at most as many tokens as rows of the embedding, got {} tokens and {} rows",
                tokenizer.len(),
                spec.vocab
            )));
        }
        let template = template(&header, &tokenizer)?;
        Ok((tokenizer, template))
    };
    let ((tokenizer, template), loaded) = beside(text, load.map(|load| || load(&spec, &weights)))?;
    Ok((OpenedModel { spec, tokenizer, template, weights: Box::new(weights) }, loaded))
}

fn template(header: &Header<'_>, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
    let Some(source) = header.text("tokenizer.chat_template")? else {
        return Ok(ChatTemplate::absent("metadata tokenizer.chat_template"));
    };
    let token = |key: &str| -> Result<String> {
        let id = header.count(key)?.and_then(|id| u32::try_from(id).ok());
        Ok(id.and_then(|id| tokenizer.token(id)).unwrap_or_default())
    };
    ChatTemplate::new(source, &token("tokenizer.ggml.bos_token_id")?, &token("tokenizer.ggml.eos_token_id")?)
}

fn read(path: &Path) -> Result<(BufReader<File>, Content)> {
    let mut reader = BufReader::new(disk::open(path).map_err(Error::io(path))?);
    let file_bytes = reader.get_ref().metadata().map_err(Error::io(path))?.len();
    let mut magic = Vec::new();
    (&mut reader).take(4).read_to_end(&mut magic).map_err(Error::io(path))?;
    if magic != b"GGUF" {
        return Err(Error::Unsupported {
            path: path.to_owned(),
            what: "file format",
            got: String::from_utf8_lossy(&magic).into_owned(),
            expected: "a GGUF file, a Hugging Face folder".to_owned(),
        });
    }
    reader.rewind().map_err(Error::io(path))?;
    check::check(&mut reader, file_bytes, path)?;
    reader.rewind().map_err(Error::io(path))?;
    let content = Content::read(&mut reader)
        .map_err(|error| Error::Malformed { path: path.to_owned(), why: error.to_string() })?;
    let end = content.tensor_infos.values().map(|info| end_of(info, &content)).max().unwrap_or(0);
    if file_bytes > end.saturating_add(PADDING_BYTES_MAX) {
        let why = format!("expected at most {PADDING_BYTES_MAX} bytes after the last tensor, got {}", file_bytes - end);
        return Err(Error::Malformed { path: path.to_owned(), why });
    }
    Ok((reader, content))
}

/// Where the values of a tensor end in the file.
fn end_of(info: &TensorInfo, content: &Content) -> u64 {
    let blocks = info.shape.elem_count().div_ceil(info.ggml_dtype.block_size());
    let bytes = (blocks as u64).saturating_mul(info.ggml_dtype.type_size() as u64);
    content.tensor_data_offset.saturating_add(info.offset).saturating_add(bytes)
}

/// The tensors of a GGUF file.
struct GgufWeights {
    path: PathBuf,
    file: File,
    content: Content,
    /// The model, which decides the names of tensors; none until it is known.
    spec: Option<ModelSpec>,
}

impl GgufWeights {
    /// The name in the file of the tensor that Hugging Face calls `name`, and its entry; it must have `shape`.
    fn find(&self, name: &str, shape: &[usize]) -> Result<(String, &TensorInfo)> {
        let missing = |name: &str| Error::MissingTensor { path: self.path.clone(), name: name.to_owned() };
        let inner = self.inner(name).ok_or_else(|| missing(name))?;
        let info = self.content.tensor_infos.get(&inner).ok_or_else(|| missing(&inner))?;
        let fused = self.spec.as_ref().and_then(|spec| spec.part_of_fused(name));
        let rows = fused.map_or(shape[0], |(_, rows, _)| rows);
        let expected = [&[rows], &shape[1..]].concat();
        if info.shape.dims() != expected {
            let got = info.shape.dims().to_vec();
            return Err(Error::Shape { path: self.path.clone(), name: inner, expected, got });
        }
        Ok((inner, info))
    }

    /// The name in the file of the tensor that Hugging Face calls `name`.
    fn inner(&self, name: &str) -> Option<String> {
        gguf_name(name, &self.spec.as_ref()?.layer_spec)
    }

    /// The rotary factors, if the file has some.
    fn rotary_factors(&self) -> Result<Option<Vec<f32>>> {
        let infos = &self.content.tensor_infos;
        let known = spec::ROTARY_FACTORS.into_iter().find_map(|name| Some((name, infos.get(name)?)));
        let Some((name, info)) = known else { return Ok(None) };
        let [1..=spec::ROTARY_PAIRS_MAX] = *info.shape.dims() else {
            let (path, expected) = (self.path.clone(), vec![spec::ROTARY_PAIRS_MAX]);
            return Err(Error::Shape { path, name: name.to_owned(), expected, got: info.shape.dims().to_vec() });
        };
        self.rows_of(name, info, info.shape.dims(), RowOrder::From(0))?.all().map(Some)
    }

    /// The tensor of `shape` that the file calls `inner`, or those of its rows.
    fn rows_of(&self, inner: &str, info: &TensorInfo, shape: &[usize], order: RowOrder) -> Result<GgufRows<'_>> {
        // Of a vector in another order, each value is a row.
        let inputs = match (shape, order) {
            ([_], RowOrder::Pairs(_) | RowOrder::From(1..)) => 1,
            _ => shape[shape.len() - 1],
        };
        let dtype = info.ggml_dtype;
        if !inputs.is_multiple_of(dtype.block_size()) {
            let why =
                format!("tensor {inner}: expected rows of whole blocks of {dtype:?}, got rows of {inputs} values");
            return Err(Error::Malformed { path: self.path.clone(), why });
        }
        Ok(GgufRows {
            path: &self.path,
            file: &self.file,
            name: inner.to_owned(),
            dtype,
            start: self.content.tensor_data_offset.saturating_add(info.offset),
            outputs: shape.iter().product::<usize>() / inputs,
            inputs,
            order,
        })
    }

    /// The tensor that Hugging Face calls `name`.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<GgufRows<'_>> {
        let (inner, info) = self.find(name, shape)?;
        let order = match &self.spec {
            None => RowOrder::From(0),
            Some(spec) => match (spec.part_of_fused(name), inner.rsplit('.').nth(1)) {
                (Some((_, _, first)), _) => RowOrder::From(first),
                (None, Some("attn_q")) if spec.family.interleaves() => RowOrder::Pairs(shape[0] / spec.heads),
                (None, Some("attn_k")) if spec.family.interleaves() => RowOrder::Pairs(shape[0] / spec.kv_heads),
                _ => RowOrder::From(0),
            },
        };
        self.rows_of(&inner, info, shape, order)
    }
}

impl WeightReader for GgufWeights {
    fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let mut values = self.tensor(name, shape)?.all()?;
        if let Some(spec) = self.spec.as_ref().filter(|spec| spec.family != Family::Gemma3) {
            spec.read_norm(name, &mut values);
        }
        Ok(values)
    }

    fn rows<'a>(&'a self, name: &str, shape: [usize; 2]) -> Result<Box<dyn MatrixRows<Error = Error> + 'a>> {
        Ok(Box::new(self.tensor(name, &shape)?))
    }

    fn has(&self, name: &str) -> bool {
        self.inner(name).is_some_and(|inner| self.content.tensor_infos.contains_key(&inner))
    }

    fn is_four_bit(&self, name: &str) -> bool {
        let info = self.inner(name).and_then(|inner| self.content.tensor_infos.get(&inner));
        info.is_some_and(|info| matches!(info.ggml_dtype, GgmlDType::Q4_0 | GgmlDType::Q4_1))
    }
}

/// Permutes rows from halves (a pair half a head apart) to the interleaved order (a pair in adjacent rows) that files of
/// architecture `llama` have: within a head, row `2 j + i` of the result is row `half * i + j`.
pub(crate) fn permute(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let width = values.len() / rows;
    let half = rows / heads / 2;
    let mut result = Vec::with_capacity(values.len());
    for head in 0..heads {
        for j in 0..half {
            for i in 0..2 {
                let row = (head * 2 + i) * half + j;
                result.extend_from_slice(&values[row * width..(row + 1) * width]);
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::rotary::Rotary;
    use crate::formats::spec::tests::tiny;
    use candle_core::quantized::gguf_file::Value;
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
    use candle_core::{Device, Tensor};
    use tempfile::TempDir;

    /// A GGUF file in the making: metadata and tensors by their names in the file.
    struct File {
        folder: TempDir,
        metadata: Vec<(String, Value)>,
        tensors: Vec<(String, QTensor)>,
    }

    impl File {
        /// A whole tiny model with the tokenizer of bytes; its tensors are F32.
        fn tiny() -> Self {
            let spec = ModelSpec { tied: false, ..tiny() };
            let mut file = Self { folder: tempfile::tempdir().unwrap(), metadata: Vec::new(), tensors: Vec::new() };
            let text = |text: &str| Value::String(text.to_owned());
            let number = |number: usize| Value::U32(number as u32);
            for (key, value) in [
                ("general.architecture", text("llama")),
                ("llama.block_count", number(spec.layers)),
                ("llama.context_length", number(spec.context_tokens)),
                ("llama.embedding_length", number(spec.hidden)),
                ("llama.feed_forward_length", number(spec.intermediate)),
                ("llama.attention.head_count", number(spec.heads)),
                ("llama.attention.head_count_kv", number(spec.kv_heads)),
                ("llama.attention.layer_norm_rms_epsilon", Value::F32(spec.norm_epsilon)),
                ("llama.rope.freq_base", Value::F32(10_000.0)),
                ("llama.rope.dimension_count", number(spec.head_dim)),
                ("tokenizer.ggml.model", text("gpt2")),
                ("tokenizer.ggml.pre", text("smollm")),
                ("tokenizer.ggml.bos_token_id", number(257)),
                ("tokenizer.ggml.eos_token_id", number(258)),
                ("tokenizer.ggml.merges", Value::Array(vec![text("h i"), text("Ġ hi")])),
                ("tokenizer.chat_template", text("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")),
            ] {
                file.set(key, value);
            }
            let bytes = Tokenizer::bytes();
            let mut tokens: Vec<_> = (0..259).map(|id| text(&bytes.token(id).unwrap())).collect();
            // Merged tokens as 256 and 259, control tokens as 257 and 258.
            tokens[256] = text("hi");
            tokens.push(text("Ġhi"));
            let types = (0..260).map(|id| Value::I32(if id == 257 || id == 258 { 3 } else { 1 })).collect();
            file.set("tokenizer.ggml.tokens", Value::Array(tokens));
            file.set("tokenizer.ggml.token_type", Value::Array(types));
            for (name, shape) in spec.tensors() {
                file.put(&gguf_name(&name, &spec.layer_spec).unwrap(), &shape, GgmlDType::F32);
            }
            file
        }

        fn set(&mut self, key: &str, value: Value) {
            self.metadata.retain(|(other, _)| other != key);
            self.metadata.push((key.to_owned(), value));
        }

        /// Numbers that differ from each other, of the size of weights.
        fn put(&mut self, name: &str, shape: &[usize], dtype: GgmlDType) -> Vec<f32> {
            let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| (i as f32 * 0.7).sin()).collect();
            let tensor = Tensor::from_vec(values.clone(), shape, &Device::Cpu).unwrap();
            self.tensors.retain(|(other, _)| other != name);
            self.tensors.push((name.to_owned(), QTensor::quantize(&tensor, dtype).unwrap()));
            values
        }

        fn write(&self) -> PathBuf {
            let path = self.folder.path().join("tiny.gguf");
            let metadata: Vec<_> = self.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
            let tensors: Vec<_> = self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            gguf_file::write(&mut std::fs::File::create(&path).unwrap(), &metadata, &tensors).unwrap();
            path
        }

        fn open(&self) -> Result<OpenedModel> {
            crate::formats::open(&self.write())
        }

        fn error(&self) -> String {
            self.open().err().unwrap().to_string()
        }
    }

    #[test]
    fn a_whole_file_opens_with_its_sizes_tokenizer_and_template() {
        let opened = File::tiny().open().unwrap();
        assert_eq!(opened.spec, ModelSpec { tied: false, ..tiny() });
        assert_eq!(opened.tokenizer.encode("hi hi<|im_end|>1").unwrap(), [256, 259, 258, 49]);
        assert_eq!(opened.tokenizer.stop_ids(), [258]);
        let turns = [serde_json::json!({"role": "user", "content": "x"})];
        assert_eq!(opened.template.render(&turns, false).unwrap(), "<|im_start|>x<|im_end|>");
    }

    #[test]
    fn every_type_is_dequantised_as_candle_does_it() {
        use GgmlDType::{BF16, F16, F32, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        for dtype in [F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q3K, Q4K, Q5K, Q6K] {
            let mut file = File::tiny();
            file.set("llama.feed_forward_length", Value::U32(256));
            for layer in 0..2 {
                file.put(&format!("blk.{layer}.ffn_gate.weight"), &[256, 32], GgmlDType::F32);
                file.put(&format!("blk.{layer}.ffn_up.weight"), &[256, 32], GgmlDType::F32);
                file.put(&format!("blk.{layer}.ffn_down.weight"), &[32, 256], dtype);
            }
            let expected = &file.tensors.iter().find(|(name, _)| name == "blk.1.ffn_down.weight").unwrap().1;
            let expected = expected.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let got = file.open().unwrap().weights.get("model.layers.1.mlp.down_proj.weight", &[32, 256]).unwrap();
            assert_eq!(got, expected, "{dtype:?}");
            let error = got.iter().enumerate().map(|(i, x)| (x - (i as f32 * 0.7).sin()).abs()).fold(0.0, f32::max);
            let most = if dtype == Q3K { 0.3 } else { 0.2 };
            assert!(error < most, "{dtype:?}: {error}");
        }
    }

    #[test]
    fn a_written_head_has_its_rows_in_pairs() {
        // Two heads of four rows: the file holds rows 0 2 1 3 of each.
        let rows = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        let file = [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0];
        assert_eq!(permute(&rows, 8, 2), file);
        let pairs = |rows: [f32; 8]| -> Vec<f32> { rows.iter().flat_map(|x| [*x, *x + 0.5]).collect() };
        assert_eq!(permute(&pairs(rows), 8, 2), pairs(file));
    }

    #[test]
    fn only_queries_and_keys_are_put_back_each_by_its_heads() {
        let mut file = File::tiny();
        let written: Vec<Vec<f32>> = [("attn_q", 32), ("attn_k", 16), ("attn_v", 16), ("attn_output", 32)]
            .map(|(name, rows)| file.put(&format!("blk.0.{name}.weight"), &[rows, 32], GgmlDType::F32))
            .into();
        let weights = file.open().unwrap().weights;
        let get =
            |name: &str, rows| weights.get(&format!("model.layers.0.self_attn.{name}.weight"), &[rows, 32]).unwrap();
        // Head 3 of q, row 1 and row 4 (the first of the second half); head width 8.
        let q = get("q_proj", 32);
        assert_eq!(q[25 * 32..26 * 32], written[0][26 * 32..27 * 32]);
        assert_eq!(q[28 * 32..29 * 32], written[0][25 * 32..26 * 32]);
        // Head 1 of k, row 5.
        let k = get("k_proj", 16);
        assert_eq!(k[13 * 32..14 * 32], written[1][11 * 32..12 * 32]);
        assert_eq!(get("v_proj", 16), written[2]);
        assert_eq!(get("o_proj", 32), written[3]);
    }

    #[test]
    fn a_missing_tensor_is_named_with_its_file() {
        let mut file = File::tiny();
        file.tensors.retain(|(name, _)| name != "blk.1.ffn_up.weight");
        let error = file.error();
        assert!(error.ends_with("tiny.gguf: tensor blk.1.ffn_up.weight is missing"), "{error}");
    }

    #[test]
    fn a_wrong_shape_is_named_with_both_shapes() {
        let mut file = File::tiny();
        file.put("blk.0.attn_k.weight", &[32, 32], GgmlDType::F32);
        let error = file.error();
        let end = "tiny.gguf: tensor blk.0.attn_k.weight: expected shape [16, 32], got [32, 32]";
        assert!(error.ends_with(end), "{error}");
    }

    #[test]
    fn a_file_without_a_head_is_tied_and_has_none() {
        let mut file = File::tiny();
        file.tensors.retain(|(name, _)| name != "output.weight");
        let opened = file.open().unwrap();
        assert!(opened.spec.tied && !opened.weights.has("lm_head.weight"));
        assert!(opened.weights.has("model.embed_tokens.weight"));
        let error = opened.weights.get("lm_head.weight", &[260, 32]).unwrap_err().to_string();
        assert!(error.ends_with("tensor output.weight is missing"), "{error}");
    }

    #[test]
    fn what_is_not_supported_is_named_with_what_is() {
        let text = |text: &str| Value::String(text.to_owned());
        for (key, value, what) in [
            (
                "general.architecture",
                text("mamba"),
                "architecture \"mamba\" is not supported, expected one of llama, qwen2",
            ),
            ("tokenizer.ggml.pre", text("falcon"), "pre-tokenizer \"falcon\" is not supported, expected one of gpt-2"),
            ("tokenizer.ggml.model", text("t5"), "tokenizer \"t5\" is not supported, expected one of gpt2, llama"),
            ("llama.rope.scaling.type", text("ntk"), "rope scaling \"ntk\" is not supported, expected one of none"),
            ("llama.rope.dimension_count", Value::U32(4), "rotated dimensions \"4\" is not supported"),
            ("llama.expert_count", Value::U32(8), "experts \"8\" is not supported"),
            ("llama.attention.sliding_window", Value::U32(512), "sliding window \"512\" is not supported"),
            ("llama.final_logit_softcapping", Value::F32(30.0), "soft cap of logits \"30\" is not supported"),
        ] {
            let mut file = File::tiny();
            file.set(key, value);
            let error = file.error();
            assert!(error.contains("tiny.gguf: ") && error.contains(what), "{error}");
        }
        let mut file = File::tiny();
        file.put("rope_freqs.weight", &[3], GgmlDType::F32);
        assert!(file.error().ends_with("rope_freqs.weight: expected shape [4], got [3]"), "{}", file.error());
        let mut file = File::tiny();
        file.put("blk.0.attn_q.bias", &[32], GgmlDType::F32);
        assert!(file.error().ends_with("tensor blk.0.attn_k.bias is missing"), "{}", file.error());
    }

    #[test]
    fn a_model_without_a_template_opens_and_says_so_where_a_chat_is_rendered() {
        let mut file = File::tiny();
        file.metadata.retain(|(key, _)| key != "tokenizer.chat_template");
        let opened = file.open().unwrap();
        let error = opened.template.render(&[serde_json::json!({})], true).unwrap_err().to_string();
        assert_eq!(error, "chat template: the model has none (metadata tokenizer.chat_template)");
        assert_eq!(opened.tokenizer.encode("hi").unwrap(), [256]);
    }

    #[test]
    fn a_linear_factor_slows_every_pair_unless_its_type_is_none() {
        let mut file = File::tiny();
        file.set("llama.rope.scaling.factor", Value::F32(4.0));
        let slowed = Rotary::new(10_000.0, 8).slowed(4.0);
        assert_eq!(file.open().unwrap().spec.rotary, slowed);
        file.set("llama.rope.scaling.type", Value::String("linear".to_owned()));
        assert_eq!(file.open().unwrap().spec.rotary, slowed);
        file.set("llama.rope.scaling.type", Value::String("none".to_owned()));
        assert_eq!(file.open().unwrap().spec.rotary, tiny().rotary);
    }

    #[test]
    fn a_token_of_the_users_own_is_matched_whole_and_stays_in_the_text() {
        let mut file = File::tiny();
        let types = (0..260).map(|id| Value::I32(if id == 257 { 4 } else { 1 })).collect();
        file.set("tokenizer.ggml.token_type", Value::Array(types));
        let tokenizer = file.open().unwrap().tokenizer;
        assert_eq!(tokenizer.encode("a<|im_start|>").unwrap(), [97, 257]);
        assert_eq!(tokenizer.decode(&[97, 257]).unwrap(), "a<|im_start|>");
        assert!(!tokenizer.is_special(257));
    }

    #[test]
    fn metadata_that_is_missing_or_makes_no_sense_is_named() {
        for (key, word) in [
            ("general.architecture", "metadata general.architecture is missing"),
            ("llama.block_count", "metadata llama.block_count is missing"),
            ("tokenizer.ggml.tokens", "metadata tokenizer.ggml.tokens is missing"),
            ("tokenizer.ggml.pre", "pre-tokenizer \"\" is not supported"),
        ] {
            let mut file = File::tiny();
            file.metadata.retain(|(other, _)| other != key);
            assert!(file.error().contains(word), "{}", file.error());
        }
        for (key, value, word) in [
            ("llama.block_count", Value::I32(-1), "llama.block_count: expected a whole number"),
            ("llama.attention.head_count_kv", Value::U32(3), "multiple of 3"),
            ("tokenizer.ggml.eos_token_id", Value::U32(999), "expected an id below 260, got 999"),
            ("tokenizer.ggml.token_type", Value::Array(vec![]), "expected one for each of 260 tokens, got 0"),
            ("tokenizer.ggml.merges", Value::Array(vec![Value::String("ab".to_owned())]), "expected two tokens"),
        ] {
            let mut file = File::tiny();
            file.set(key, value);
            assert!(file.error().contains(word), "{}", file.error());
        }
    }

    #[test]
    fn a_file_that_is_no_gguf_or_is_cut_short_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.bin");
        let error = crate::formats::open(&path).err().unwrap().to_string();
        assert!(error.contains("weights.bin: "), "{error}");
        std::fs::write(&path, "PK").unwrap();
        let error = crate::formats::open(&path).err().unwrap().to_string();
        assert!(error.contains("file format \"PK\" is not supported"), "{error}");

        let file = File::tiny();
        let path = file.write();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..100]).unwrap();
        assert!(matches!(crate::formats::open(&path), Err(Error::Malformed { .. })));
        std::fs::write(&path, &whole[..whole.len() - 4096]).unwrap();
        let weights = crate::formats::open(&path).unwrap().weights;
        let last = weights.get("lm_head.weight", &[260, 32]).unwrap_err().to_string();
        assert!(last.contains("tensor output.weight: "), "{last}");
    }
}
