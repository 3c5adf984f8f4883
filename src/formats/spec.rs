//! Sizes and constants of a transformer, as read from a GGUF header or a `config.json`.
//!
//! The differences between families are fields of the spec: the passes read the spec and never the family.

mod family;
mod tensors;

pub use family::{Family, LayerSpec, Projection};

use crate::formats::rotary::Rotary;
pub use crate::kernels::ops::Activation;
use serde::{Deserialize, Serialize};

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
    /// The scale of what each block adds to the residual stream.
    #[serde(default = "one")]
    pub residual_scale: f32,
    /// What logits are divided by. The weight of the norm before the head is read divided by it.
    #[serde(default = "one")]
    pub logit_divisor: f32,
    /// For each layer of the model, whether it has no rotary positions; empty if all have them.
    #[serde(default)]
    pub unrotated: Vec<bool>,
}

fn one() -> f32 {
    1.0
}

impl Projection {
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

impl ModelSpec {
    /// Whether the layers are such that the learner can train all weights.
    pub(crate) fn trains_whole(&self) -> bool {
        let LayerSpec { output_bias, mlp_bias, post_norms, .. } = self.layer_spec;
        !(output_bias || mlp_bias || post_norms)
    }

    /// Whether the tensor library's passes, which a GPU runs, compute all of it.
    pub(crate) fn runs_on_gpus(&self) -> bool {
        self.trains_whole() && self.unrotated.is_empty() && self.residual_scale == 1.0
    }

    /// Whether `layer` has rotary positions.
    pub(crate) fn rotates(&self, layer: usize) -> bool {
        !self.unrotated.get(layer).copied().unwrap_or(false)
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
            embedding_scale: self.embedding_scale,
            residual_scale: self.residual_scale,
            logit_divisor: self.logit_divisor,
            sliding: other
                .sliding
                .clone()
                .zip(self.sliding.as_ref())
                .map(|(other, own)| Sliding { rotary: own.rotary.clone(), ..other }),
            ..other.clone()
        };
        let scales = |spec: &Self| [spec.score_scale, spec.embedding_scale, spec.residual_scale, spec.logit_divisor];
        let scaled = scales(self).iter().zip(scales(other)).all(|(own, other)| (own / other - 1.0).abs() < 1e-5);
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
        for (what, scale) in [
            ("embedding scale", self.embedding_scale),
            ("attention scale", self.score_scale),
            ("residual scale", self.residual_scale),
            ("divisor of logits", self.logit_divisor),
        ] {
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
        if !self.unrotated.is_empty() && self.unrotated.len() != self.layers {
            let got = self.unrotated.len();
            return Some(format!("layers without rotary positions: expected {} entries, got {got}", self.layers));
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon < 1.0) {
            return Some(format!("norm epsilon: expected a number between 0 and 1, got {}", self.norm_epsilon));
        }
        None
    }

    fn rotary_complaint(&self, rotary: &Rotary) -> Option<String> {
        let (got, most) = (rotary.frequencies.len(), self.head_dim / 2);
        if !(1..=most).contains(&got) {
            return Some(format!("rotary frequencies: expected 1 to {most}, got {got}"));
        }
        if !(rotary.magnitude > 0.0 && rotary.magnitude.is_finite()) {
            return Some(format!("rotary attention factor: expected a number above 0, got {}", rotary.magnitude));
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
