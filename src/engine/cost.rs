//! What a step costs by the arithmetic of the model: operations and bytes.

use super::report::StepWork;
use crate::formats::adapter::LoraConfig;
use crate::kernels::KvPrecision;
use crate::transformer::Transformer;
use crate::transformer::decode::{BLOCK_TOKENS, Decoder};

/// The cost of each unit of [`StepWork`].
#[derive(Clone, Copy, Debug)]
pub struct StepCost {
    token_flops: f64,
    adapter_flops: f64,
    pair_flops: f64,
    row_flops: f64,
    weight_bytes: f64,
    context_bytes: f64,
}

impl StepCost {
    /// The cost for `model` with keys and values in `kv`, with an adapter like `lora` if given.
    pub fn new(model: &Transformer, kv: KvPrecision, lora: Option<&LoraConfig>) -> Self {
        let spec = model.spec();
        let weights = |(name, shape): &(String, Vec<usize>)| {
            let in_layer = name.starts_with("model.layers.") && shape.len() == 2;
            if in_layer { shape.iter().product::<usize>() } else { 0 }
        };
        let linears: usize = spec.tensors().iter().map(weights).sum();
        let of_site = |lora: &LoraConfig| -> usize {
            let factors = lora.targets.iter().map(|site| site.sizes(spec)).map(|(inputs, outputs)| inputs + outputs);
            spec.layers * lora.rank * factors.sum::<usize>()
        };
        Self {
            token_flops: 2.0 * linears as f64,
            adapter_flops: 2.0 * lora.map_or(0, of_site) as f64,
            // Its score and its term of the weighted sum: one multiply-add per element each.
            pair_flops: 4.0 * (spec.layers * spec.heads * spec.head_dim) as f64,
            row_flops: 2.0 * (spec.hidden * spec.vocab) as f64,
            weight_bytes: model.decode_bytes() as f64,
            context_bytes: kv_bytes(model, kv),
        }
    }

    /// Floating-point operations of linears and attention; a multiply-add counts as two.
    pub fn flops(&self, work: &StepWork) -> f64 {
        work.tokens as f64 * self.token_flops
            + work.adapted_tokens as f64 * self.adapter_flops
            + work.attended_pairs as f64 * self.pair_flops
            + work.logit_rows as f64 * self.row_flops
    }

    /// Bytes of weights and cached keys and values that the steps read, each once per step, of `steps`
    /// steps that did `work` together.
    pub fn bytes(&self, steps: u64, work: &StepWork) -> f64 {
        steps as f64 * self.weight_bytes + work.context_tokens as f64 * self.context_bytes
    }
}

/// Bytes of one token's keys and values.
fn kv_bytes(model: &Transformer, kv: KvPrecision) -> f64 {
    Decoder::block_bytes(model.spec(), kv.kind(model.precision()), &model.device()) as f64 / BLOCK_TOKENS as f64
}
