//! [`ModelSpec`] from a GGUF header. Defaults for missing keys are those of llama.cpp.
//!
//! What llama.cpp computes and this node does not (other families, experts, soft caps) is refused by name.

use super::header::Header;
use super::names::gguf_name;
use crate::formats::error::{Error, Result};
use crate::formats::rotary::{Rotary, YarnScaling};
use crate::formats::spec::{Family, LayerSpec, ModelSpec, Sizes, Sliding};
use candle_core::quantized::gguf_file::Value;
use std::collections::HashSet;

/// The tensors that hold a scaling factor for each rotary pair: of Llama 3.1 and later, and of LongRoPE for contexts up to the
/// original one.
pub(super) const ROTARY_FACTORS: [&str; 2] = ["rope_freqs.weight", "rope_factors_short.weight"];
/// LongRoPE's factors for longer contexts, which are not read.
const LONG_FACTORS: &str = "rope_factors_long.weight";
/// In SmolLM 3 the last of each four layers has no rotary positions.
const SMOLLM3_PERIOD: usize = 4;

/// The most pairs of a head.
pub(super) const ROTARY_PAIRS_MAX: usize = 1 << 11;

/// The layers of Gemma 3 27B, the one Gemma 3 whose attention scale does not follow from the head's width; no metadata says
/// so.
const GEMMA3_27B_LAYERS: usize = 62;

/// In Gemma 3 the last of each six layers attends to the full context.
const GEMMA3_PERIOD: usize = 6;

impl Header<'_> {
    /// The spec; `factors` is the content of [`ROTARY_FACTORS`], if the file has that tensor.
    pub(super) fn spec(&self, factors: Option<&[f32]>) -> Result<ModelSpec> {
        let name = self.needed("general.architecture", self.text("general.architecture")?)?;
        let families = Family::ALL.into_iter().filter(|family| *family != Family::Mistral);
        let family = families.clone().find(|family| family.name() == name);
        let known = families.map(Family::name).collect::<Vec<_>>().join(", ");
        let family = family.ok_or_else(|| self.unsupported("architecture", name, &known))?;
        let key = |key: &str| format!("{name}.{key}");
        let count = |name: &str| self.needed(&key(name), self.count(&key(name))?);
        let (heads, hidden, layers) =
            (count("attention.head_count")?, count("embedding_length")?, count("block_count")?);
        let by_heads = hidden.checked_div(heads).unwrap_or(0);
        let head_dim = self.count(&key("attention.key_length"))?.unwrap_or(by_heads);
        let embedding = self.content.tensor_infos.get("token_embd.weight");
        let embedding = embedding
            .ok_or_else(|| Error::MissingTensor { path: self.path.to_owned(), name: "token_embd.weight".to_owned() })?;
        let vocab = embedding.shape.dims().first().copied().unwrap_or(0);
        let intermediate = count("feed_forward_length")?;
        let kv_heads = self.count(&key("attention.head_count_kv"))?.unwrap_or(heads);
        let context_tokens = count("context_length")?;
        let sizes = Sizes { vocab, hidden, intermediate, layers, heads, kv_heads, head_dim, context_tokens };
        if let Some(complaint) = sizes.complaint() {
            return Err(self.malformed(complaint));
        }
        let epsilon = key("attention.layer_norm_rms_epsilon");
        let scaled_width = if family == Family::Gemma3 && layers == GEMMA3_27B_LAYERS { by_heads } else { head_dim };
        // Only Granite has these.
        let multiplier = |name: &str| -> Result<Option<f32>> {
            Ok(self.real(&key(name))?.filter(|scale| family == Family::Granite && *scale != 0.0))
        };
        let usual_scale = (scaled_width as f64).sqrt().recip() as f32;
        let is_unrotated = |layer: usize| (layer + 1).is_multiple_of(SMOLLM3_PERIOD);
        let unrotated = match family {
            Family::Smollm3 if layers >= SMOLLM3_PERIOD => (0..layers).map(is_unrotated).collect(),
            _ => Vec::new(),
        };
        let rotary = self.rotary(family, head_dim, factors)?;
        let spec = ModelSpec {
            family,
            vocab,
            hidden,
            intermediate,
            layers,
            heads,
            kv_heads,
            head_dim,
            layer_spec: self.layer_spec(family),
            embedding_scale: family.embedding_scale(hidden) * multiplier("embedding_scale")?.unwrap_or(1.0),
            score_scale: multiplier("attention.scale")?.unwrap_or(usual_scale),
            sliding: self.sliding(family, layers, head_dim, &rotary)?,
            rotary,
            norm_epsilon: self.needed(&epsilon, self.real(&epsilon)?)?,
            context_tokens: self.context_tokens(name, context_tokens)?,
            residual_scale: multiplier("residual_scale")?.unwrap_or(1.0),
            logit_divisor: multiplier("logit_scale")?.unwrap_or(1.0),
            unrotated,
            tied: !self.content.tensor_infos.contains_key("output.weight"),
        };
        if let Some(complaint) = spec.complaint() {
            return Err(self.malformed(complaint));
        }
        self.refuse_variants(&spec)?;
        Ok(spec)
    }

    /// The make-up of the layers, with the biases that the file has.
    fn layer_spec(&self, family: Family) -> LayerSpec {
        let has = |tensor: &str| self.content.tensor_infos.contains_key(&format!("blk.0.{tensor}.bias"));
        let layer_spec = family.layer_spec();
        let qkv_bias = layer_spec.qkv_bias || (!layer_spec.fused && has("attn_q"));
        LayerSpec {
            qkv_bias,
            output_bias: has("attn_output"),
            mlp_bias: !layer_spec.fused && has("ffn_gate"),
            ..layer_spec
        }
    }

    /// The longest context: with LongRoPE the original one, since positions beyond it need other factors.
    fn context_tokens(&self, name: &str, stated: usize) -> Result<usize> {
        let original = self.count(&format!("{name}.rope.scaling.original_context_length"))?;
        let is_long = self.content.tensor_infos.contains_key(LONG_FACTORS);
        Ok(original.filter(|original| is_long && *original > 0).map_or(stated, |original| stated.min(original)))
    }

    fn rotary(&self, family: Family, head_dim: usize, factors: Option<&[f32]>) -> Result<Rotary> {
        let name = family.name();
        let key = |key: &str| format!("{name}.rope.{key}");
        let rotated = self.count(&key("dimension_count"))?.filter(|_| family == Family::Phi3);
        let base = self.rotary_base(name)?;
        let mut rotary = Rotary::new(base, rotated.unwrap_or(head_dim).min(head_dim));
        if let Some(factor) = self.rotary_factor(name)? {
            rotary = rotary.slowed(factor);
        }
        let attention = self.real(&key("scaling.attn_factor"))?.filter(|factor| *factor != 0.0).unwrap_or(1.0);
        if self.text(&key("scaling.type"))? == Some("yarn") {
            let original = self.count(&key("scaling.original_context_length"))?.filter(|tokens| *tokens > 0);
            let factor = self.needed(&key("scaling.factor"), self.real(&key("scaling.factor"))?)?;
            let beta = |name: &str| Ok::<_, Error>(self.real(&key(name))?.filter(|beta| *beta > 0.0).map(f64::from));
            rotary = rotary.yarn(
                base,
                YarnScaling {
                    factor,
                    beta_fast: beta("scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    beta_slow: beta("scaling.yarn_beta_slow")?.unwrap_or(1.0),
                    original_context_tokens: self.needed(&key("scaling.original_context_length"), original)? as f64,
                    truncate: true,
                    magnitude: (0.1 * f64::from(factor).ln() + 1.0).max(1.0) as f32,
                },
            );
        }
        rotary.magnitude *= attention;
        match factors {
            None => Ok(rotary),
            Some(factors) if factors.len() == rotary.frequencies.len() => Ok(rotary.slowed_each(factors)),
            Some(factors) => Err(Error::Shape {
                path: self.path.to_owned(),
                name: ROTARY_FACTORS[usize::from(family == Family::Phi3)].to_owned(),
                expected: vec![rotary.frequencies.len()],
                got: vec![factors.len()],
            }),
        }
    }

    /// The rotary base of architecture `name`.
    pub(super) fn rotary_base(&self, name: &str) -> Result<f32> {
        Ok(self.real(&format!("{name}.rope.freq_base"))?.unwrap_or(10_000.0))
    }

    /// The rotary base of Gemma's sliding-window layers.
    pub(super) fn sliding_rotary_base(&self, name: &str) -> Result<f32> {
        Ok(self.real(&format!("{name}.rope.freq_base_swa"))?.unwrap_or(10_000.0))
    }

    /// The factor of linear rotary scaling of architecture `name`, if there is one.
    pub(super) fn rotary_factor(&self, name: &str) -> Result<Option<f32>> {
        let kind = self.text(&format!("{name}.rope.scaling.type"))?;
        // LongRoPE is told by its factors, and YaRN has a factor of its own kind.
        match kind {
            None | Some("none" | "linear") => {}
            Some("yarn" | "longrope") => return Ok(None),
            Some(kind) => return Err(self.unsupported("rope scaling", kind, "none, linear, yarn, longrope")),
        }
        let factor = match self.real(&format!("{name}.rope.scaling.factor"))? {
            Some(factor) => Some(factor),
            None => self.real(&format!("{name}.rope.scale_linear"))?,
        };
        // A factor of 0 means unset, and a factor without a type is linear.
        Ok(factor.filter(|&factor| factor != 0.0 && kind != Some("none")))
    }

    fn sliding(&self, family: Family, layers: usize, head_dim: usize, rotary: &Rotary) -> Result<Option<Sliding>> {
        let key = |key: &str| format!("{}.{key}", family.name());
        let window = self.count(&key("attention.sliding_window"))?;
        if family == Family::Phi3 {
            let Some(window_tokens) = window.filter(|&window| window > 0) else { return Ok(None) };
            return Ok(Some(Sliding { window_tokens, rotary: rotary.clone(), layers: vec![true; layers] }));
        }
        if family != Family::Gemma3 {
            return match window.filter(|&window| window > 0) {
                Some(window) => Err(self.unsupported("sliding window", &window.to_string(), "0, in this architecture")),
                None => Ok(None),
            };
        }
        let pattern = key("attention.sliding_window_pattern");
        let slides = match self.content.metadata.get(&pattern) {
            Some(Value::Array(_)) => self.flags(&pattern)?.unwrap_or_default(),
            _ => {
                let period = self.count(&pattern)?.unwrap_or(GEMMA3_PERIOD);
                (0..layers).map(|layer| period > 0 && !(layer + 1).is_multiple_of(period)).collect()
            }
        };
        let base = self.sliding_rotary_base(family.name())?;
        Ok(Some(Sliding {
            window_tokens: self.needed(&key("attention.sliding_window"), window)?,
            rotary: Rotary::new(base, head_dim),
            layers: slides,
        }))
    }

    /// Refuses models of a known architecture with features that are not supported.
    fn refuse_variants(&self, spec: &ModelSpec) -> Result<()> {
        let name = spec.family.name();
        let count = |key: &str| self.count(&format!("{name}.{key}"));
        let is_partial = |rotated: &usize| *rotated != 2 * spec.rotary.frequencies.len();
        if let Some(rotated) = count("rope.dimension_count")?.filter(is_partial) {
            let expected = format!("all {} of a head", spec.head_dim);
            return Err(self.unsupported("number of rotated dimensions", &rotated.to_string(), &expected));
        }
        if let Some(width) = count("attention.value_length")?.filter(|&width| width != spec.head_dim) {
            let expected = format!("the {} of a key", spec.head_dim);
            return Err(self.unsupported("width of a value", &width.to_string(), &expected));
        }
        if let Some(experts) = count("expert_count")?.filter(|&experts| experts > 0) {
            return Err(self.unsupported("number of experts", &experts.to_string(), "0"));
        }
        for (key, what) in [
            ("attn_logit_softcapping", "soft cap of scores"),
            ("final_logit_softcapping", "soft cap of logits"),
            ("attention.scale", "scale of scores"),
            ("embedding_scale", "scale of embeddings"),
            ("residual_scale", "scale of the residual stream"),
            ("logit_scale", "scale of logits"),
        ] {
            let is_known = spec.family == Family::Granite && !key.contains("softcapping");
            if let Some(number) = self.real(&format!("{name}.{key}"))?.filter(|&number| number != 0.0 && !is_known) {
                return Err(self.unsupported(what, &number.to_string(), "0, the default"));
            }
        }
        let known: HashSet<String> =
            spec.tensors().iter().filter_map(|(tensor, _)| gguf_name(tensor, &spec.layer_spec)).collect();
        let is_rotary = |tensor: &str| ROTARY_FACTORS.contains(&tensor) || tensor == LONG_FACTORS;
        let stranger = |tensor: &&String| !known.contains(*tensor) && !is_rotary(tensor);
        match self.content.tensor_infos.keys().filter(stranger).min() {
            Some(tensor) => Err(self.unsupported("tensor", tensor, &format!("the weights of a {name}"))),
            None => Ok(()),
        }
    }
}
