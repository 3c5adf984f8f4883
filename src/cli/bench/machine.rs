//! The machine's peak, and the cost of a step: operations, bytes, memory.
//!
//! Knows sizes and counters; runs only the loop that measures the peak.

use crate::engine::Counters;
use crate::formats::adapter::LoraConfig;
use crate::kernels::peak;
use crate::transformer::Transformer;
use crate::transformer::decode::{BLOCK_TOKENS, Decoder};
use serde::Serialize;

/// The machine, measured once per command.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Machine {
    /// Threads that compute.
    pub(super) threads: usize,
    /// Peak rate of f32 multiply-adds on registers alone, in 10^9 operations per second.
    pub(super) peak_gflops_per_second: f64,
}

impl Machine {
    pub(super) fn measure() -> Self {
        Self { threads: rayon::current_num_threads(), peak_gflops_per_second: peak::flops_per_second() / 1e9 }
    }
}

/// The cost of each unit of [`crate::engine::StepWork`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    token_flops: f64,
    adapter_flops: f64,
    pair_flops: f64,
    row_flops: f64,
    weight_bytes: f64,
    context_bytes: f64,
}

impl Cost {
    /// The cost for `model`, with an adapter like `lora` if given.
    pub(super) fn new(model: &Transformer, lora: Option<&LoraConfig>) -> Self {
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
            context_bytes: kv_bytes(model),
        }
    }

    /// Floating-point operations of linears and attention; a multiply-add counts as two.
    pub(super) fn flops(&self, counters: &Counters) -> f64 {
        let work = &counters.work;
        work.tokens as f64 * self.token_flops
            + work.adapted_tokens as f64 * self.adapter_flops
            + work.attended_pairs as f64 * self.pair_flops
            + work.logit_rows as f64 * self.row_flops
    }

    /// Bytes of weights and cached keys and values that the steps read, each once per step.
    pub(super) fn bytes(&self, counters: &Counters) -> f64 {
        counters.steps as f64 * self.weight_bytes + counters.work.context_tokens as f64 * self.context_bytes
    }
}

/// Bytes of one token's keys and values.
fn kv_bytes(model: &Transformer) -> f64 {
    Decoder::block_bytes(model.spec(), model.precision(), &model.device()) as f64 / BLOCK_TOKENS as f64
}

/// Peak resident memory of this process, if the system reports it.
pub(super) fn peak_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
