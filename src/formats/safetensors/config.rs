//! [`ModelSpec`] from a `config.json` of transformers 4 or 5.
//!
//! Features that are not supported (other activations, other biases, soft caps, other rotary scalings) are refused by name.
//! A missing key has the default of its family in transformers.

mod rotary;

use crate::formats::error::{Error, Result};
use crate::formats::spec::{Activation, Family, LayerSpec, ModelSpec, Sizes, Sliding};
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
    /// Absent, null or a number: some families have a window unless it is null.
    #[serde(default, deserialize_with = "given")]
    sliding_window: Option<Option<usize>>,
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
    original_max_position_embeddings: Option<f64>,
    no_rope_layers: Option<Vec<u8>>,
    no_rope_layer_interval: Option<usize>,
    embedding_multiplier: Option<f32>,
    residual_multiplier: Option<f32>,
    attention_multiplier: Option<f32>,
    logits_scaling: Option<f32>,
    pub(super) eos_token_id: Option<TokenIds>,
}

/// A key that is there, perhaps with the value null.
fn given<'de, D: serde::Deserializer<'de>>(value: D) -> std::result::Result<Option<Option<usize>>, D::Error> {
    Option::deserialize(value).map(Some)
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
        Family::Mistral => ("MistralForCausalLM", "mistral"),
        Family::Phi3 => ("Phi3ForCausalLM", "phi3"),
        Family::Smollm3 => ("SmolLM3ForCausalLM", "smollm3"),
        Family::Olmo2 => ("Olmo2ForCausalLM", "olmo2"),
        Family::Granite => ("GraniteForCausalLM", "granite"),
    }
}

/// Mistral's window where its config does not say.
const MISTRAL_WINDOW: usize = 4096;
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
            _ => hidden.checked_div(heads).unwrap_or(0),
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
            Family::Gemma3 => self.query_pre_attn_scalar.unwrap_or(256.0).sqrt().recip() as f32,
            Family::Granite => self.attention_multiplier.unwrap_or(1.0),
            _ => (head_dim as f64).sqrt().recip() as f32,
        };
        // Only Granite's config has multipliers.
        let multiplier = |value: Option<f32>| value.filter(|_| family == Family::Granite).unwrap_or(1.0);
        let rotary = reader.rotary(family, FULL, head_dim)?;
        let spec = ModelSpec {
            family,
            vocab: self.vocab_size,
            hidden,
            intermediate: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads,
            kv_heads,
            head_dim,
            layer_spec: reader.layer_spec(family),
            embedding_scale: family.embedding_scale(hidden) * multiplier(self.embedding_multiplier),
            score_scale,
            rotary,
            sliding: reader.sliding(family, head_dim)?,
            norm_epsilon: self.rms_norm_eps,
            context_tokens: reader.context_tokens(family),
            tied: self.tie_word_embeddings.unwrap_or(!has_head),
            residual_scale: multiplier(self.residual_multiplier),
            logit_divisor: multiplier(self.logits_scaling),
            unrotated: reader.unrotated(family),
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

    /// The make-up of the layers, with the biases that the config asks for. A family that does not know a key ignores it, as
    /// transformers does.
    fn layer_spec(&self, family: Family) -> LayerSpec {
        use Family::{Gemma3, Granite, Llama, Olmo2, Qwen3, Smollm3};
        let asks = |key: Option<bool>, families: &[Family]| key == Some(true) && families.contains(&family);
        let attention_bias = asks(self.config.attention_bias, &[Llama, Qwen3, Gemma3, Smollm3, Olmo2, Granite]);
        let layer_spec = family.layer_spec();
        LayerSpec {
            qkv_bias: layer_spec.qkv_bias || attention_bias,
            output_bias: attention_bias,
            mlp_bias: asks(self.config.mlp_bias, &[Llama, Smollm3, Granite]),
            ..layer_spec
        }
    }

    /// Layers without rotary positions; empty if there are none.
    fn unrotated(&self, family: Family) -> Vec<bool> {
        let config = self.config;
        if family != Family::Smollm3 {
            return Vec::new();
        }
        let interval = config.no_rope_layer_interval.unwrap_or(4).max(1);
        let unrotated: Vec<bool> = match &config.no_rope_layers {
            // 1 stands for a layer that has them.
            Some(layers) => layers.iter().map(|rotates| *rotates == 0).collect(),
            None => (1..=config.num_hidden_layers).map(|layer| layer.is_multiple_of(interval)).collect(),
        };
        if unrotated.contains(&true) { unrotated } else { Vec::new() }
    }

    fn refuse_variants(&self, family: Family) -> Result<()> {
        let config = self.config;
        if config.use_bidirectional_attention == Some(true) {
            return Err(self.refused("use_bidirectional_attention", true, "false"));
        }
        let caps = [
            ("attn_logit_softcapping", config.attn_logit_softcapping),
            ("final_logit_softcapping", config.final_logit_softcapping),
        ];
        if let Some((what, Some(cap))) = caps.into_iter().find(|(_, cap)| cap.is_some()) {
            return Err(self.refused(what, cap, "null"));
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

    /// The sliding-window layers, if a window is in use.
    fn sliding(&self, family: Family, head_dim: usize) -> Result<Option<Sliding>> {
        let config = self.config;
        let given = config.sliding_window.flatten();
        let window = match family {
            Family::Gemma3 => given,
            Family::Qwen2 | Family::Qwen3 | Family::Smollm3 if config.use_sliding_window == Some(true) => given,
            Family::Mistral => config.sliding_window.unwrap_or(Some(MISTRAL_WINDOW)),
            Family::Phi3 => given,
            _ => None,
        };
        let layers = match &config.layer_types {
            // These two know no kinds of layers: all have the window.
            _ if matches!(family, Family::Mistral | Family::Phi3) => vec![window.is_some(); config.num_hidden_layers],
            Some(kinds) => kinds.iter().map(|kind| self.is_sliding(kind)).collect::<Result<Vec<_>>>()?,
            None => {
                let pattern = config.sliding_window_pattern.unwrap_or(6).max(1);
                let first = config.max_window_layers.unwrap_or(28);
                let unrotated = self.unrotated(family);
                let slides = |layer: usize| match family {
                    Family::Gemma3 => !(layer + 1).is_multiple_of(pattern),
                    Family::Smollm3 => window.is_some() && unrotated.get(layer) == Some(&true),
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
