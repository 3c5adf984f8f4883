//! Sizes and constants of a transformer, as read from a GGUF header or a `config.json`.
//!
//! The differences between families are fields of the spec: the passes read the spec and never the family.

use crate::formats::rotary::Rotary;
pub use crate::kernels::ops::Activation;
use serde::{Deserialize, Serialize};

/// The supported model families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Llama 1 to 3.3, and models with its architecture (arXiv 2302.13971, 2407.21783).
    Llama,
    /// Qwen 2 and 2.5 (arXiv 2407.10671): biases on queries, keys and values.
    Qwen2,
    /// Qwen 3, dense (arXiv 2505.09388): queries and keys are normalised.
    Qwen3,
    /// Gemma 3, its text part (arXiv 2503.19786): sliding windows, norms on both sides of each block.
    Gemma3,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Gemma3];

    /// Its name in GGUF files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3",
        }
    }

    /// The make-up of its layers.
    pub fn layer_spec(self) -> LayerSpec {
        let llama = LayerSpec { qkv_bias: false, qk_norm: false, sandwich_norms: false, activation: Activation::Silu };
        match self {
            Self::Llama => llama,
            Self::Qwen2 => LayerSpec { qkv_bias: true, ..llama },
            Self::Qwen3 => LayerSpec { qk_norm: true, ..llama },
            Self::Gemma3 => {
                LayerSpec { qk_norm: true, sandwich_norms: true, activation: Activation::GeluTanh, ..llama }
            }
        }
    }

    /// The scale of embeddings of width `hidden`.
    pub fn embedding_scale(self, hidden: usize) -> f32 {
        match self {
            Self::Gemma3 => (hidden as f64).sqrt() as f32,
            Self::Llama | Self::Qwen2 | Self::Qwen3 => 1.0,
        }
    }
}

/// The make-up of a layer, apart from its linears and the norms before attention and feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSpec {
    /// Queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Each head of queries and keys is normalised before it is rotated (arXiv 2302.05442).
    pub qk_norm: bool,
    /// The outputs of attention and feed-forward are normalised before they are added to the residual stream.
    pub sandwich_norms: bool,
    /// The activation of the gate.
    pub activation: Activation,
}

/// Layers with sliding-window attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sliding {
    /// Tokens that a token attends to, itself included.
    pub window_tokens: usize,
    /// Their rotary positions.
    pub rotary: Rotary,
    /// For each layer of the model, whether it has a sliding window.
    pub layers: Vec<bool>,
}

/// A decoder: RMSNorm, rotary positions, grouped-query attention, a gated feed-forward block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// The family that the file names.
    pub family: Family,
    /// Rows of the embedding and of the head.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward block.
    pub intermediate: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// The make-up of the layers.
    #[serde(rename = "block")]
    pub layer_spec: LayerSpec,
    /// The scale of the embeddings.
    pub embedding_scale: f32,
    /// The scale of the attention scores.
    pub score_scale: f32,
    /// Rotary positions of the layers with full attention.
    pub rotary: Rotary,
    /// The layers with sliding-window attention, if there are any.
    pub sliding: Option<Sliding>,
    /// The epsilon of RMSNorm, under the root.
    pub norm_epsilon: f32,
    /// The longest context that the model was trained for, in tokens.
    pub context_tokens: usize,
    /// The head shares the weights of the embedding.
    pub tied: bool,
}

/// Names, under `model.layers.N.`, of the norms around attention and feed-forward.
pub(crate) struct NormNames {
    pub(crate) attention: &'static str,
    pub(crate) attention_output: Option<&'static str>,
    pub(crate) mlp: &'static str,
    pub(crate) mlp_output: Option<&'static str>,
}

impl LayerSpec {
    pub(crate) fn norm_names(&self) -> NormNames {
        let after_attention = "post_attention_layernorm";
        match self.sandwich_norms {
            false => NormNames {
                attention: "input_layernorm",
                attention_output: None,
                mlp: after_attention,
                mlp_output: None,
            },
            true => NormNames {
                attention: "input_layernorm",
                attention_output: Some(after_attention),
                mlp: "pre_feedforward_layernorm",
                mlp_output: Some("post_feedforward_layernorm"),
            },
        }
    }
}

/// A linear of a layer, by its Hugging Face name. Adapters target these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// Queries.
    QProj,
    /// Keys.
    KProj,
    /// Values.
    VProj,
    /// Attention's output.
    OProj,
    /// Feed-forward gate.
    GateProj,
    /// Feed-forward up.
    UpProj,
    /// Feed-forward down.
    DownProj,
}

impl Projection {
    /// Every projection, in the order of the forward pass.
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// The linear's name in Hugging Face models, such as `q_proj`.
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The module that holds it, such as `self_attn`.
    pub fn module(self) -> &'static str {
        match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        }
    }

    /// `(inputs, outputs)` of the linear.
    pub fn sizes(self, spec: &ModelSpec) -> (usize, usize) {
        let (hidden, queries, keys) = (spec.hidden, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        match self {
            Self::QProj => (hidden, queries),
            Self::KProj | Self::VProj => (hidden, keys),
            Self::OProj => (queries, hidden),
            Self::GateProj | Self::UpProj => (hidden, spec.intermediate),
            Self::DownProj => (spec.intermediate, hidden),
        }
    }
}

impl std::fmt::Display for Projection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl ModelSpec {
    /// Every tensor of the model: its Hugging Face name and its shape, `(outputs, inputs)` for a linear.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let hidden = self.hidden;
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab, hidden])];
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: Vec<usize>| tensors.push((format!("model.layers.{layer}.{name}"), shape));
            let norms = self.layer_spec.norm_names();
            for norm in [Some(norms.attention), norms.attention_output, Some(norms.mlp), norms.mlp_output] {
                norm.into_iter().for_each(|norm| add(&format!("{norm}.weight"), vec![hidden]));
            }
            if self.layer_spec.qk_norm {
                add("self_attn.q_norm.weight", vec![self.head_dim]);
                add("self_attn.k_norm.weight", vec![self.head_dim]);
            }
            for projection in Projection::ALL {
                let (inputs, outputs) = projection.sizes(self);
                let name = format!("{}.{}", projection.module(), projection.name());
                add(&format!("{name}.weight"), vec![outputs, inputs]);
                if self.layer_spec.qkv_bias
                    && matches!(projection, Projection::QProj | Projection::KProj | Projection::VProj)
                {
                    add(&format!("{name}.bias"), vec![outputs]);
                }
            }
        }
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.tied {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocab, hidden]));
        }
        tensors
    }

    /// Whether both specs are equal, up to rounding of rotary frequencies and scales.
    pub(crate) fn is_nearly(&self, other: &Self) -> bool {
        let sliding = match (&self.sliding, &other.sliding) {
            (None, None) => true,
            (Some(one), Some(two)) => one.rotary.is_nearly(&two.rotary),
            _ => false,
        };
        let alike = Self {
            rotary: self.rotary.clone(),
            score_scale: self.score_scale,
            sliding: other
                .sliding
                .clone()
                .zip(self.sliding.as_ref())
                .map(|(other, own)| Sliding { rotary: own.rotary.clone(), ..other }),
            ..other.clone()
        };
        let scaled = (self.score_scale / other.score_scale - 1.0).abs() < 1e-5;
        sliding && scaled && self.rotary.is_nearly(&other.rotary) && *self == alike
    }

    /// Whether `layer` has a sliding window.
    pub fn slides(&self, layer: usize) -> bool {
        self.sliding.as_ref().is_some_and(|sliding| sliding.layers[layer])
    }

    /// Tokens that a token of `layer` attends to at most, itself included.
    pub(crate) fn window(&self, layer: usize) -> usize {
        match &self.sliding {
            Some(sliding) if sliding.layers[layer] => sliding.window_tokens,
            _ => usize::MAX,
        }
    }

    /// Number of weights. A tied head counts once.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            vocab: self.vocab,
            hidden: self.hidden,
            intermediate: self.intermediate,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            context_tokens: self.context_tokens,
        }
    }

    /// Why this spec is invalid, if it is.
    pub(crate) fn complaint(&self) -> Option<String> {
        if let Some(complaint) = self.sizes().complaint() {
            return Some(complaint);
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Some(format!(
                "expected {} heads to be a multiple of {} key-value heads",
                self.heads, self.kv_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Some(format!("head width: expected an even number for rotary positions, got {}", self.head_dim));
        }
        for (what, scale) in [("embedding scale", self.embedding_scale), ("attention scale", self.score_scale)] {
            if !(scale > 0.0 && scale.is_finite()) {
                return Some(format!("{what}: expected a number above 0, got {scale}"));
            }
        }
        let sliding = self.sliding.iter().map(|sliding| &sliding.rotary);
        if let Some(complaint) =
            [&self.rotary].into_iter().chain(sliding).find_map(|rotary| self.rotary_complaint(rotary))
        {
            return Some(complaint);
        }
        if let Some(Sliding { window_tokens, layers, .. }) = &self.sliding
            && (*window_tokens == 0 || layers.len() != self.layers)
        {
            let got = layers.len();
            return Some(format!(
                "sliding window: expected at least one token and {} layers, got {window_tokens} and {got}",
                self.layers
            ));
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon < 1.0) {
            return Some(format!("norm epsilon: expected a number between 0 and 1, got {}", self.norm_epsilon));
        }
        None
    }

    fn rotary_complaint(&self, rotary: &Rotary) -> Option<String> {
        let (got, expected) = (rotary.frequencies.len(), self.head_dim / 2);
        if got != expected {
            return Some(format!("rotary frequencies: expected {expected}, got {got}"));
        }
        let wrong = rotary.frequencies.iter().find(|&&frequency| !(frequency > 0.0 && frequency <= 1.0));
        wrong.map(|wrong| {
            format!("rotary frequency (base or scaling): expected a number above 0 and up to 1, got {wrong}")
        })
    }
}

/// The sizes that a file states. They are checked before a spec is built: its frequencies and layers are lists of these
/// lengths.
pub(crate) struct Sizes {
    pub(crate) vocab: usize,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) context_tokens: usize,
}

impl Sizes {
    /// The first size that no model has, if there is one.
    pub(crate) fn complaint(&self) -> Option<String> {
        // Far above any existing model, and far below what overflows when sizes are multiplied.
        let sizes = [
            ("vocabulary", self.vocab, 1 << 24),
            ("hidden width", self.hidden, 1 << 17),
            ("feed-forward width", self.intermediate, 1 << 19),
            ("number of layers", self.layers, 1 << 10),
            ("number of heads", self.heads, 1 << 10),
            ("number of key-value heads", self.kv_heads, 1 << 10),
            ("head width", self.head_dim, 1 << 12),
            ("context", self.context_tokens, 1 << 30),
        ];
        let (what, size, most) = sizes.iter().find(|(_, size, most)| !(1..=*most).contains(size))?;
        Some(format!("{what}: expected 1 to {most}, got {size}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests;
