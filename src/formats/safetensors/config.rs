//! [`ModelSpec`] from a `config.json` of transformers 4 or 5.
//!
//! Features that are not supported (other activations, other biases, soft caps, other rotary scalings) are refused by name.
//! A missing key has the default of its family in transformers.

use crate::formats::error::{Error, Result};
use crate::formats::rotary::{Llama3Scaling, Rotary};
use crate::formats::spec::{Activation, Family, ModelSpec, Sizes, Sliding};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

#[derive(Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    rope_parameters: Option<Map<String, Value>>,
    use_sliding_window: Option<bool>,
    sliding_window: Option<usize>,
    max_window_layers: Option<usize>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    use_bidirectional_attention: Option<bool>,
    query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    partial_rotary_factor: Option<f64>,
    pub(super) eos_token_id: Option<TokenIds>,
}

/// One token id, or several.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum TokenIds {
    One(u32),
    Several(Vec<u32>),
}

impl TokenIds {
    pub(super) fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Several(ids) => ids,
        }
    }
}

/// The names of a family in transformers: the class, and the `model_type` of its config.
pub(crate) fn names(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::Llama => ("LlamaForCausalLM", "llama"),
        Family::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
        Family::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
        Family::Gemma3 => ("Gemma3ForCausalLM", "gemma3_text"),
    }
}

/// Kinds of layers, as `layer_types` names them.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

impl Config {
    /// The spec; `has_head` is whether the folder holds `lm_head.weight`.
    pub(super) fn spec(&self, path: &Path, has_head: bool) -> Result<ModelSpec> {
        let reader = Reader { config: self, path };
        let family = reader.family()?;
        reader.refuse_variants(family)?;
        let (heads, hidden) = (self.num_attention_heads, self.hidden_size);
        let head_dim = self.head_dim.unwrap_or(match family {
            Family::Qwen3 => 128,
            Family::Gemma3 => 256,
            Family::Llama | Family::Qwen2 => hidden.checked_div(heads).unwrap_or(0),
        });
        let kv_heads = self.num_key_value_heads.unwrap_or(heads);
        let sizes = Sizes {
            vocab: self.vocab_size,
            hidden,
            intermediate: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads,
            kv_heads,
            head_dim,
            context_tokens: self.max_position_embeddings,
        };
        if let Some(why) = sizes.complaint() {
            return Err(reader.malformed(why));
        }
        let score_scale = match family {
            Family::Gemma3 => self.query_pre_attn_scalar.unwrap_or(256.0),
            _ => head_dim as f64,
        };
        let spec = ModelSpec {
            family,
            vocab: self.vocab_size,
            hidden,
            intermediate: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads,
            kv_heads,
            head_dim,
            layer_spec: family.layer_spec(),
            embedding_scale: family.embedding_scale(hidden),
            score_scale: score_scale.sqrt().recip() as f32,
            rotary: reader.rotary(family, FULL, head_dim)?,
            sliding: reader.sliding(family, head_dim)?,
            norm_epsilon: self.rms_norm_eps,
            context_tokens: self.max_position_embeddings,
            tied: self.tie_word_embeddings.unwrap_or(!has_head),
        };
        match spec.complaint() {
            Some(why) => Err(reader.malformed(why)),
            None => Ok(spec),
        }
    }
}

/// A config and the file that errors name.
struct Reader<'a> {
    config: &'a Config,
    path: &'a Path,
}

impl Reader<'_> {
    fn malformed(&self, why: String) -> Error {
        Error::Malformed { path: self.path.to_owned(), why }
    }

    fn refused(&self, what: &'static str, got: impl ToString, expected: &str) -> Error {
        Error::Unsupported { path: self.path.to_owned(), what, got: got.to_string(), expected: expected.to_owned() }
    }

    fn family(&self) -> Result<Family> {
        let list = |name: fn(Family) -> &'static str| Family::ALL.map(name).join(", ");
        let class = self.config.architectures.iter().flatten().next();
        let kind = self.config.model_type.as_deref();
        let family = match class {
            Some(class) => {
                let known = Family::ALL.into_iter().find(|&family| names(family).0 == class);
                known.ok_or_else(|| self.refused("architecture", class, &list(|family| names(family).0)))?
            }
            None => {
                let known = Family::ALL.into_iter().find(|&family| Some(names(family).1) == kind);
                known.ok_or_else(|| {
                    self.refused("model_type", kind.unwrap_or_default(), &list(|family| names(family).1))
                })?
            }
        };
        match kind {
            Some(kind) if kind != names(family).1 => Err(self.refused("model_type", kind, names(family).1)),
            _ => Ok(family),
        }
    }

    fn refuse_variants(&self, family: Family) -> Result<()> {
        let config = self.config;
        let on = [
            ("attention_bias", config.attention_bias),
            ("mlp_bias", config.mlp_bias),
            ("use_bidirectional_attention", config.use_bidirectional_attention),
        ];
        if let Some((what, _)) = on.into_iter().find(|(_, on)| *on == Some(true)) {
            return Err(self.refused(what, true, "false"));
        }
        let caps = [
            ("attn_logit_softcapping", config.attn_logit_softcapping),
            ("final_logit_softcapping", config.final_logit_softcapping),
        ];
        if let Some((what, Some(cap))) = caps.into_iter().find(|(_, cap)| cap.is_some()) {
            return Err(self.refused(what, cap, "null"));
        }
        if let Some(share) = config.partial_rotary_factor.filter(|&share| share != 1.0) {
            return Err(self.refused("partial_rotary_factor", share, "1"));
        }
        // Gemma has a key of its own, because its first configs named the wrong function under the usual key.
        let (what, activation) = match family {
            Family::Gemma3 => ("hidden_activation", &config.hidden_activation),
            _ => ("hidden_act", &config.hidden_act),
        };
        let known: &[&str] = match family.layer_spec().activation {
            Activation::Silu => &["silu", "swish"],
            Activation::GeluTanh => &["gelu_pytorch_tanh"],
        };
        match activation.as_deref() {
            Some(other) if !known.contains(&other) => Err(self.refused(what, other, known[0])),
            _ => Ok(()),
        }
    }

    /// Rotary positions of the layers of `kind`.
    ///
    /// Transformers 5 has `rope_parameters`, with a map for each kind of layer if a family has two kinds. Transformers 4 has
    /// the bases as keys of the config, and a `rope_scaling` that does not apply to Gemma's sliding-window layers.
    fn rotary(&self, family: Family, kind: &str, head_dim: usize) -> Result<Rotary> {
        let config = self.config;
        let local = family == Family::Gemma3 && kind == SLIDING;
        let nested = config.rope_parameters.as_ref().filter(|map| map.contains_key(FULL) || map.contains_key(SLIDING));
        let parameters = match (nested, &config.rope_parameters) {
            (Some(kinds), _) => kinds.get(kind).and_then(Value::as_object),
            (None, flat) => flat.as_ref(),
        };
        let scaling = config.rope_scaling.as_ref().filter(|_| !local);
        let (base, default) = match (family, local) {
            (Family::Gemma3, true) => (config.rope_local_base_freq, 10_000.0),
            (Family::Gemma3, false) => (config.rope_theta, 1_000_000.0),
            _ => (config.rope_theta, 10_000.0),
        };
        let given = [scaling, parameters].into_iter().flatten().find_map(|map| map.get("rope_theta")?.as_f64());
        let mut rotary = Rotary::new(given.or(base).unwrap_or(default) as f32, head_dim);
        // If both maps are given they say the same, so that only one of them is applied.
        if let Some(map) = [scaling, parameters].into_iter().flatten().find(|map| !is_plain(map)) {
            rotary = self.scaled(rotary, map)?;
        }
        Ok(rotary)
    }

    fn scaled(&self, rotary: Rotary, scaling: &Map<String, Value>) -> Result<Rotary> {
        if let Some(share) = scaling.get("partial_rotary_factor").and_then(Value::as_f64).filter(|&share| share != 1.0)
        {
            return Err(self.refused("partial_rotary_factor", share, "1"));
        }
        let number = |key: &str| -> Result<f32> {
            let number = scaling.get(key).and_then(Value::as_f64).filter(|&number| number > 0.0);
            let number = number.ok_or_else(|| self.malformed(format!("rope scaling: expected {key} above 0")));
            number.map(|number| number as f32)
        };
        match kind_of(scaling) {
            Some("default") => Ok(rotary),
            Some("linear") => Ok(rotary.slowed(number("factor")?)),
            Some("llama3") => Ok(rotary.llama3(Llama3Scaling {
                factor: number("factor")?,
                low_frequency_factor: number("low_freq_factor")?,
                high_frequency_factor: number("high_freq_factor")?,
                original_context_tokens: number("original_max_position_embeddings")?,
            })),
            // An old map without a type is refused: how its factor applies is not certain.
            other => Err(self.refused("rope scaling", other.unwrap_or("of no type"), "default, linear, llama3")),
        }
    }

    /// The sliding-window layers, if a window is in use.
    fn sliding(&self, family: Family, head_dim: usize) -> Result<Option<Sliding>> {
        let config = self.config;
        let window = match family {
            Family::Gemma3 => config.sliding_window,
            Family::Qwen2 | Family::Qwen3 if config.use_sliding_window == Some(true) => config.sliding_window,
            _ => None,
        };
        let layers = match &config.layer_types {
            Some(kinds) => kinds.iter().map(|kind| self.is_sliding(kind)).collect::<Result<Vec<_>>>()?,
            None => {
                let pattern = config.sliding_window_pattern.unwrap_or(6).max(1);
                let first = config.max_window_layers.unwrap_or(28);
                let slides = |layer: usize| match family {
                    Family::Gemma3 => !(layer + 1).is_multiple_of(pattern),
                    _ => window.is_some() && layer >= first,
                };
                (0..config.num_hidden_layers).map(slides).collect()
            }
        };
        if !layers.contains(&true) {
            return Ok(None);
        }
        let window_tokens = window
            .ok_or_else(|| self.refused("layer_types", SLIDING, "full_attention, since no sliding_window is in use"))?;
        Ok(Some(Sliding { window_tokens, rotary: self.rotary(family, SLIDING, head_dim)?, layers }))
    }

    fn is_sliding(&self, kind: &str) -> Result<bool> {
        match kind {
            FULL => Ok(false),
            SLIDING => Ok(true),
            other => Err(self.refused("layer_types", other, "full_attention, sliding_attention")),
        }
    }
}

fn kind_of(scaling: &Map<String, Value>) -> Option<&str> {
    scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str)
}

/// Whether a map holds nothing but the base, so that nothing is scaled.
fn is_plain(map: &Map<String, Value>) -> bool {
    map.iter().all(|(key, value)| match key.as_str() {
        "rope_theta" => true,
        "rope_type" | "type" => value == "default",
        _ => false,
    })
}
