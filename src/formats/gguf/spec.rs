//! [`ModelSpec`] from a GGUF header. Defaults for missing keys are those of llama.cpp.
//!
//! What llama.cpp computes and this node does not (other families, experts, soft caps, YaRN) is refused by name.

use super::header::Header;
use super::names::gguf_name;
use crate::formats::error::{Error, Result};
use crate::formats::rotary::Rotary;
use crate::formats::spec::{Family, ModelSpec, Sizes, Sliding};
use candle_core::quantized::gguf_file::Value;
use std::collections::HashSet;

/// The tensor of Llama 3.1 and later that holds a scaling factor for each rotary pair.
pub(super) const ROTARY_FACTORS: &str = "rope_freqs.weight";

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
        let family = Family::ALL.into_iter().find(|family| family.name() == name);
        let known = Family::ALL.map(Family::name).join(", ");
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
        let spec = ModelSpec {
            family,
            vocab,
            hidden,
            intermediate,
            layers,
            heads,
            kv_heads,
            head_dim,
            layer_spec: family.layer_spec(),
            embedding_scale: family.embedding_scale(hidden),
            score_scale: (scaled_width as f64).sqrt().recip() as f32,
            rotary: self.rotary(name, head_dim, factors)?,
            sliding: self.sliding(family, layers, head_dim)?,
            norm_epsilon: self.needed(&epsilon, self.real(&epsilon)?)?,
            context_tokens,
            tied: !self.content.tensor_infos.contains_key("output.weight"),
        };
        if let Some(complaint) = spec.complaint() {
            return Err(self.malformed(complaint));
        }
        self.refuse_variants(&spec)?;
        Ok(spec)
    }

    fn rotary(&self, name: &str, head_dim: usize, factors: Option<&[f32]>) -> Result<Rotary> {
        let mut rotary = Rotary::new(self.rotary_base(name)?, head_dim);
        if let Some(factor) = self.rotary_factor(name)? {
            rotary = rotary.slowed(factor);
        }
        match factors {
            None => Ok(rotary),
            Some(factors) if factors.len() == rotary.frequencies.len() => Ok(rotary.slowed_each(factors)),
            Some(factors) => Err(Error::Shape {
                path: self.path.to_owned(),
                name: ROTARY_FACTORS.to_owned(),
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
        if kind.is_some_and(|kind| kind != "none" && kind != "linear") {
            return Err(self.unsupported("rope scaling", kind.unwrap_or_default(), "none, linear"));
        }
        let factor = match self.real(&format!("{name}.rope.scaling.factor"))? {
            Some(factor) => Some(factor),
            None => self.real(&format!("{name}.rope.scale_linear"))?,
        };
        // A factor of 0 means unset, and a factor without a type is linear.
        Ok(factor.filter(|&factor| factor != 0.0 && kind != Some("none")))
    }

    fn sliding(&self, family: Family, layers: usize, head_dim: usize) -> Result<Option<Sliding>> {
        let key = |key: &str| format!("{}.{key}", family.name());
        let window = self.count(&key("attention.sliding_window"))?;
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
        if let Some(rotated) = count("rope.dimension_count")?.filter(|&rotated| rotated != spec.head_dim) {
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
            if let Some(number) = self.real(&format!("{name}.{key}"))?.filter(|&number| number != 0.0) {
                return Err(self.unsupported(what, &number.to_string(), "0, the default"));
            }
        }
        let known: HashSet<String> =
            spec.tensors().iter().filter_map(|(tensor, _)| gguf_name(tensor, &spec.layer_spec)).collect();
        let stranger = |tensor: &&String| !known.contains(*tensor) && *tensor != ROTARY_FACTORS;
        match self.content.tensor_infos.keys().filter(stranger).min() {
            Some(tensor) => Err(self.unsupported("tensor", tensor, &format!("the weights of a {name}"))),
            None => Ok(()),
        }
    }
}
