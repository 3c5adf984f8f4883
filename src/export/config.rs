//! The small files of a Hugging Face folder: copied from another folder, or made from the metadata of a GGUF file.
//!
//! Configs use the keys of transformers 4, which version 5 reads too.

use super::dtype::Dtype;
use super::error::{Error, Result};
use super::output;
use crate::disk;
use crate::formats;
use crate::formats::OpenedModel;
use crate::formats::rotary::{Llama3Scaling, Rotary};
use crate::formats::safetensors::names;
use crate::formats::spec::{Family, LayerSpec, ModelSpec};
use crate::formats::tokenizer::Tokenizer;
use crate::formats::{gguf, gguf::Described};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The files of tokenizer, template and sampling that are copied as they are.
const COPIED: [&str; 10] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "LICENSE",
];

/// The longest of the small files: a vocabulary.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The longest original context that is tried for Llama 3's scaling, as a power of two.
const ORIGINAL_CONTEXT_LOG2_MAX: u32 = 20;

/// Copies the small files of the folder `from`, with the type of the weights and the tying of the head updated in its config.
pub(super) fn copy(folder: &Path, from: &Path, spec: &ModelSpec, dtype: Dtype) -> Result<()> {
    let path = from.join("config.json");
    let text = disk::read(&path, FILE_BYTES_MAX).map_err(Error::io(&path))?;
    let mut config: Map<String, Value> = serde_json::from_slice(&text)
        .map_err(|error| formats::Error::Malformed { path: path.clone(), why: error.to_string() })?;
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(key.to_owned(), json!(dtype.torch_name()));
    config.insert("tie_word_embeddings".to_owned(), json!(spec.tied));
    output::write(&folder.join("config.json"), &pretty(&Value::Object(config)))?;
    for name in COPIED {
        let path = from.join(name);
        if path.is_file() {
            output::write(&folder.join(name), &disk::read(&path, FILE_BYTES_MAX).map_err(Error::io(&path))?)?;
        }
    }
    Ok(())
}

/// Makes the small files from the metadata of the GGUF file `path`, which was opened as `opened`.
pub(super) fn make(folder: &Path, path: &Path, opened: &OpenedModel, dtype: Dtype) -> Result<()> {
    let described = gguf::describe(path)?;
    let (spec, tokenizer) = (&opened.spec, &opened.tokenizer);
    let config = model_config(path, spec, &described, dtype)?;
    output::write(&folder.join("config.json"), &pretty(&config))?;
    let generation = json!({
        "bos_token_id": described.bos,
        "eos_token_id": tokenizer.stop_ids(),
        "pad_token_id": described.padding,
    });
    output::write(&folder.join("generation_config.json"), &pretty(&generation))?;
    output::write(&folder.join("tokenizer_config.json"), &pretty(&tokenizer_config(spec, tokenizer, &described)))?;
    output::write(&folder.join("tokenizer.json"), &tokenizer_json(path, tokenizer)?)
}

/// `value` as indented JSON.
pub(super) fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("a tree of strings and finite numbers is always JSON");
    text.push(b'\n');
    text
}

/// `value` as the shortest decimal that reads back as the same f32.
fn decimal(value: f32) -> Value {
    json!(value.to_string().parse::<f64>().unwrap_or_else(|_| f64::from(value)))
}

/// The content of `config.json`.
fn model_config(path: &Path, spec: &ModelSpec, described: &Described, dtype: Dtype) -> Result<Value> {
    let (class, model_type) = names(spec.family);
    let mut config = json!({
        "architectures": [class],
        "model_type": model_type,
        "vocab_size": spec.vocab,
        "hidden_size": spec.hidden,
        "intermediate_size": spec.intermediate,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "max_position_embeddings": spec.context_tokens,
        "rms_norm_eps": decimal(spec.norm_epsilon),
        "rope_theta": decimal(described.rotary_base),
        "rope_scaling": scaling(path, spec, described)?,
        "tie_word_embeddings": spec.tied,
        "attention_dropout": 0.0,
        "bos_token_id": described.bos,
        "eos_token_id": described.eos,
        "pad_token_id": described.padding,
        "torch_dtype": dtype.torch_name(),
        "use_cache": true,
    });
    let own = match spec.family {
        Family::Llama => {
            let LayerSpec { output_bias, mlp_bias, .. } = spec.layer_spec;
            json!({"hidden_act": "silu", "attention_bias": output_bias, "mlp_bias": mlp_bias})
        }
        // The other families' files lack keys of their configs (which layers have no rotary positions, which have a window).
        Family::Mistral | Family::Phi3 | Family::Smollm3 | Family::Olmo2 | Family::Granite => {
            let why = format!("a GGUF file does not say all that the config of a {} does", spec.family.name());
            return Err(Error::Unrepresentable { path: path.to_owned(), why });
        }
        Family::Qwen2 => json!({"hidden_act": "silu", "use_sliding_window": false}),
        Family::Qwen3 => json!({"hidden_act": "silu", "attention_bias": false, "use_sliding_window": false}),
        Family::Gemma3 => {
            let sliding = spec.sliding.as_ref();
            let kinds =
                (0..spec.layers).map(|layer| if spec.slides(layer) { "sliding_attention" } else { "full_attention" });
            json!({
                "hidden_activation": "gelu_pytorch_tanh",
                "attention_bias": false,
                "query_pre_attn_scalar": nearly_whole(spec.score_scale.powi(-2)),
                "sliding_window": sliding.map(|sliding| sliding.window_tokens),
                "layer_types": kinds.collect::<Vec<_>>(),
                "rope_local_base_freq": decimal(described.sliding_rotary_base),
                "attn_logit_softcapping": null,
                "final_logit_softcapping": null,
            })
        }
    };
    if let (Value::Object(config), Value::Object(own)) = (&mut config, own) {
        config.extend(own);
    }
    Ok(config)
}

/// `value` as an integer if it is within rounding of one.
fn nearly_whole(value: f32) -> Value {
    let near = value.round();
    if (value - near).abs() < 1e-4 * near { json!(near as i64) } else { decimal(value) }
}

/// `rope_scaling`: null, linear, or Llama 3's with parameters that reproduce the factors of the file.
fn scaling(path: &Path, spec: &ModelSpec, described: &Described) -> Result<Value> {
    let plain = Rotary::new(described.rotary_base, spec.head_dim);
    let linear = described.rotary_factor.map(|factor| plain.clone().slowed(factor));
    match (linear, described.rotary_factor) {
        (None, _) if spec.rotary.is_nearly(&plain) => return Ok(Value::Null),
        (Some(linear), Some(factor)) if spec.rotary.is_nearly(&linear) => {
            return Ok(json!({"type": "linear", "rope_type": "linear", "factor": decimal(factor)}));
        }
        _ => {}
    }
    // The file stores one factor for each pair, not the parameters. Only the ratios of the three other parameters matter,
    // and every Llama 3 has the bounds 1 and 4.
    let unrepresentable =
        || Error::Unrepresentable { path: path.to_owned(), why: "its rotary scaling is not Llama 3's".to_owned() };
    let (plain_last, last) =
        plain.frequencies.last().zip(spec.rotary.frequencies.last()).ok_or_else(unrepresentable)?;
    let factor = (plain_last / last * 1e3).round() / 1e3;
    let candidates = (4..=ORIGINAL_CONTEXT_LOG2_MAX).map(|log2| Llama3Scaling {
        factor,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_context_tokens: (1u32 << log2) as f32,
    });
    let fits = |scaling: &Llama3Scaling| spec.rotary.is_nearly(&plain.clone().llama3(*scaling));
    let found = candidates.into_iter().find(fits).ok_or_else(unrepresentable)?;
    Ok(json!({
        "rope_type": "llama3",
        "factor": decimal(found.factor),
        "low_freq_factor": decimal(found.low_frequency_factor),
        "high_freq_factor": decimal(found.high_frequency_factor),
        "original_max_position_embeddings": found.original_context_tokens as u32,
    }))
}

/// The content of `tokenizer_config.json`.
fn tokenizer_config(spec: &ModelSpec, tokenizer: &Tokenizer, described: &Described) -> Value {
    let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": spec.context_tokens,
        "clean_up_tokenization_spaces": false,
        "add_bos_token": tokenizer.bos().is_some(),
    });
    let named = [
        ("bos_token", token(described.bos)),
        ("eos_token", token(described.eos)),
        ("unk_token", token(described.unknown)),
        ("pad_token", token(described.padding)),
        ("chat_template", described.template.clone()),
    ];
    for (key, value) in named {
        if let (Some(value), Value::Object(config)) = (value, &mut config) {
            config.insert(key.to_owned(), Value::String(value));
        }
    }
    config
}

/// The content of `tokenizer.json`, with a post-processor that adds the beginning-of-sequence token if the model was
/// trained with one.
fn tokenizer_json(path: &Path, tokenizer: &Tokenizer) -> Result<Vec<u8>> {
    let malformed = |why: String| formats::Error::Malformed { path: path.to_owned(), why };
    let mut json: Value =
        serde_json::from_str(&tokenizer.to_json()?).map_err(|error| malformed(format!("tokenizer: {error}")))?;
    if let Some((id, token)) = tokenizer.bos().and_then(|id| Some((id, tokenizer.token(id)?))) {
        let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
        let text = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
        let mut known = Map::new();
        known.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [special, text("A", 0)],
            "pair": [special, text("A", 0), text("B", 1)],
            "special_tokens": known,
        });
    }
    Ok(pretty(&json))
}
