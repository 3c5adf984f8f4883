//! Sizes of models that plans are shown for beside the config's own, as their `config.json` on the Hugging Face hub has them.

use crate::formats::rotary::Rotary;
use crate::formats::spec::{Family, ModelSpec};

/// Sizes of one model of the Qwen2.5 family.
struct Shape {
    name: &'static str,
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    intermediate: usize,
    vocab: usize,
    tied: bool,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "Qwen2.5-0.5B",
        layers: 24,
        hidden: 896,
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        intermediate: 4864,
        vocab: 151_936,
        tied: true,
    },
    Shape {
        name: "Qwen2.5-1.5B",
        layers: 28,
        hidden: 1536,
        heads: 12,
        kv_heads: 2,
        head_dim: 128,
        intermediate: 8960,
        vocab: 151_936,
        tied: true,
    },
    Shape {
        name: "Qwen2.5-7B",
        layers: 28,
        hidden: 3584,
        heads: 28,
        kv_heads: 4,
        head_dim: 128,
        intermediate: 18_944,
        vocab: 152_064,
        tied: false,
    },
];

/// The reference models: name and spec of each.
pub(crate) fn references() -> Vec<(&'static str, ModelSpec)> {
    SHAPES.iter().map(|shape| (shape.name, shape.spec())).collect()
}

impl Shape {
    fn spec(&self) -> ModelSpec {
        ModelSpec {
            family: Family::Qwen2,
            vocab: self.vocab,
            hidden: self.hidden,
            intermediate: self.intermediate,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            layer_spec: Family::Qwen2.layer_spec(),
            embedding_scale: 1.0,
            score_scale: 1.0 / (self.head_dim as f32).sqrt(),
            rotary: Rotary::new(1_000_000.0, self.head_dim),
            sliding: None,
            norm_epsilon: 1e-6,
            context_tokens: 32_768,
            tied: self.tied,
            residual_scale: 1.0,
            logit_divisor: 1.0,
            unrotated: Vec::new(),
        }
    }
}
