//! The model families, and the make-up of their layers: linears, norms, biases.

use crate::kernels::ops::Activation;
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
    /// Mistral 7B and its successors (arXiv 2310.06825): llama, in some versions with a sliding window in every layer.
    Mistral,
    /// Phi 3 and Phi 4 mini (arXiv 2404.14219, 2503.01743): fused linears, rotary positions of a part of each head.
    Phi3,
    /// SmolLM 3: llama with layers that have no rotary positions (arXiv 2501.18795).
    Smollm3,
    /// OLMo 2 (arXiv 2501.00656): norms behind each block and none before it, queries and keys normalised over all heads.
    Olmo2,
    /// Granite 3: llama with multipliers on embeddings, scores, residual stream and logits.
    Granite,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 9] = [
        Self::Llama,
        Self::Qwen2,
        Self::Qwen3,
        Self::Gemma3,
        Self::Mistral,
        Self::Phi3,
        Self::Smollm3,
        Self::Olmo2,
        Self::Granite,
    ];

    /// Its name. GGUF files have the same, but call a Mistral `llama`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3",
            Self::Mistral => "mistral",
            Self::Phi3 => "phi3",
            Self::Smollm3 => "smollm3",
            Self::Olmo2 => "olmo2",
            Self::Granite => "granite",
        }
    }

    /// Whether GGUF files hold the rows of queries and keys in interleaved order.
    pub(crate) fn interleaves(self) -> bool {
        matches!(self, Self::Llama | Self::Mistral | Self::Smollm3 | Self::Granite)
    }

    /// The make-up of its layers.
    pub fn layer_spec(self) -> LayerSpec {
        let llama = LayerSpec {
            qkv_bias: false,
            qk_norm: false,
            sandwich_norms: false,
            activation: Activation::Silu,
            output_bias: false,
            mlp_bias: false,
            post_norms: false,
            fused: false,
        };
        match self {
            Self::Llama | Self::Mistral | Self::Smollm3 | Self::Granite => llama,
            Self::Phi3 => LayerSpec { fused: true, ..llama },
            Self::Olmo2 => LayerSpec { qk_norm: true, post_norms: true, ..llama },
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
            _ => 1.0,
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
    /// Attention's output has a bias.
    #[serde(default)]
    pub output_bias: bool,
    /// Gate, up and down have a bias.
    #[serde(default)]
    pub mlp_bias: bool,
    /// The outputs of attention and feed-forward are normalised, and their inputs are not. Queries and keys are then
    /// normalised over all heads at once.
    #[serde(default)]
    pub post_norms: bool,
    /// Hugging Face files hold queries, keys and values as one linear, and gate and up as another.
    #[serde(default)]
    pub fused: bool,
}

/// Names, under `model.layers.N.`, of the norms around attention and feed-forward.
pub(crate) struct NormNames {
    pub(crate) attention: Option<&'static str>,
    pub(crate) attention_output: Option<&'static str>,
    pub(crate) mlp: Option<&'static str>,
    pub(crate) mlp_output: Option<&'static str>,
}

impl NormNames {
    pub(super) fn all(&self) -> [Option<&'static str>; 4] {
        [self.attention, self.attention_output, self.mlp, self.mlp_output]
    }
}

impl LayerSpec {
    /// The tensor that Hugging Face files hold for the tensor `name` of a linear, where they fuse some.
    pub(super) fn fused_name(&self, name: &str) -> Option<String> {
        let fused = [
            ("self_attn.q_proj", "self_attn.qkv_proj"),
            ("self_attn.k_proj", "self_attn.qkv_proj"),
            ("self_attn.v_proj", "self_attn.qkv_proj"),
            ("mlp.gate_proj", "mlp.gate_up_proj"),
            ("mlp.up_proj", "mlp.gate_up_proj"),
        ];
        let (part, whole) = fused.into_iter().find(|(part, _)| self.fused && name.contains(part))?;
        Some(name.replacen(part, whole, 1))
    }

    /// Whether `projection` has a bias.
    pub(crate) fn has_bias(&self, projection: Projection) -> bool {
        match projection {
            Projection::QProj | Projection::KProj | Projection::VProj => self.qkv_bias,
            Projection::OProj => self.output_bias,
            Projection::GateProj | Projection::UpProj | Projection::DownProj => self.mlp_bias,
        }
    }

    pub(crate) fn norm_names(&self) -> NormNames {
        let (before, between) = (Some("input_layernorm"), Some("post_attention_layernorm"));
        let last = Some("post_feedforward_layernorm");
        match (self.sandwich_norms, self.post_norms) {
            (false, false) => NormNames { attention: before, attention_output: None, mlp: between, mlp_output: None },
            (false, true) => NormNames { attention: None, attention_output: between, mlp: None, mlp_output: last },
            (true, _) => NormNames {
                attention: before,
                attention_output: between,
                mlp: Some("pre_feedforward_layernorm"),
                mlp_output: last,
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
}

impl std::fmt::Display for Projection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
