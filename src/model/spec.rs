//! Sizes and constants of a transformer, as read from a GGUF header or a `config.json`.

use serde::{Deserialize, Serialize};

/// A decoder of the Llama family: RMSNorm, rotary positions, grouped-query attention, SwiGLU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// `llama`, as the file names it.
    pub architecture: String,
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
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// Epsilon under the root of RMSNorm.
    pub norm_epsilon: f32,
    /// Longest context the model was trained for, in tokens.
    pub context_tokens: usize,
    /// The head is the embedding.
    pub tied: bool,
}

/// What every layer holds, by its name under `model.layers.N.`: norms first, then the linears.
const LAYER_TENSORS: [&str; 9] = [
    "input_layernorm",
    "post_attention_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

impl ModelSpec {
    /// Every tensor a model of these sizes is made of: Hugging Face name and shape, `(outputs, inputs)` for a linear.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner) = (self.hidden, self.intermediate);
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab, hidden])];
        for layer in 0..self.layers {
            for name in LAYER_TENSORS {
                let shape = match name {
                    "self_attn.q_proj" => vec![queries, hidden],
                    "self_attn.k_proj" | "self_attn.v_proj" => vec![keys, hidden],
                    "self_attn.o_proj" => vec![hidden, queries],
                    "mlp.gate_proj" | "mlp.up_proj" => vec![inner, hidden],
                    "mlp.down_proj" => vec![hidden, inner],
                    _ => vec![hidden],
                };
                tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.tied {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocab, hidden]));
        }
        tensors
    }

    /// Number of weights, a tied head counted once.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// What makes these sizes impossible, if anything does.
    pub(crate) fn complaint(&self) -> Option<String> {
        // Far above any model of today, and far below what overflows where sizes are multiplied.
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
        if let Some((what, size, most)) = sizes.iter().find(|(_, size, most)| !(1..=*most).contains(size)) {
            return Some(format!("{what}: expected 1 to {most}, got {size}"));
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
        if !(self.rope_base > 1.0 && self.rope_base.is_finite()) {
            return Some(format!("rotary base: expected a number above 1, got {}", self.rope_base));
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon < 1.0) {
            return Some(format!("norm epsilon: expected a number between 0 and 1, got {}", self.norm_epsilon));
        }
        None
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two layers, four query heads on two key-value heads.
    pub(crate) fn tiny() -> ModelSpec {
        ModelSpec {
            architecture: "llama".to_owned(),
            vocab: 260,
            hidden: 32,
            intermediate: 64,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            rope_base: 10_000.0,
            norm_epsilon: 1e-5,
            context_tokens: 128,
            tied: true,
        }
    }

    #[test]
    fn the_135m_model_has_as_many_weights_as_its_card_says() {
        let spec = ModelSpec {
            architecture: "llama".to_owned(),
            vocab: 49_152,
            hidden: 576,
            intermediate: 1536,
            layers: 30,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            rope_base: 100_000.0,
            norm_epsilon: 1e-5,
            context_tokens: 8192,
            tied: true,
        };
        assert_eq!(spec.parameters(), 134_515_008);
        assert_eq!(spec.complaint(), None);
    }

    #[test]
    fn an_untied_head_is_counted() {
        let tied = tiny();
        let untied = ModelSpec { tied: false, ..tiny() };
        assert_eq!(untied.parameters() - tied.parameters(), 260 * 32);
    }

    #[test]
    fn impossible_sizes_are_named() {
        for (spec, word) in [
            (ModelSpec { kv_heads: 3, ..tiny() }, "multiple of 3"),
            (ModelSpec { head_dim: 7, ..tiny() }, "even"),
            (ModelSpec { layers: 0, ..tiny() }, "layers"),
            (ModelSpec { vocab: usize::MAX, ..tiny() }, "vocabulary"),
            (ModelSpec { norm_epsilon: f32::NAN, ..tiny() }, "epsilon"),
        ] {
            let complaint = spec.complaint().unwrap_or_default();
            assert!(complaint.contains(word), "{complaint}");
        }
    }
}
