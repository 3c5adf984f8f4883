//! The memory of a node on a GPU, and what is left of the card.

use super::card::Card;
use super::workload::Workload;
use crate::formats::spec::ModelSpec;
use crate::transformer::decode::BLOCK_TOKENS;
use crate::transformer::gpu_costs::memory::{self as costs, Recording};
use crate::transformer::gpu_costs::passes::Attention;
use serde::Serialize;

/// Memory of the CUDA context with the library's kernels, and cuBLAS's workspace (32 MiB on compute capability 9.0): an
/// assumption.
const CONTEXT: usize = 768 << 20;
/// Share of the card that programs cannot allocate: the driver keeps it, and error correction takes some.
const RESERVED_SHARE: f64 = 0.02;
/// What the driver's pool holds beyond the activations in use, as a share of them: freed pieces that fit nothing new. An
/// assumption.
const POOL_SHARE: f64 = 0.1;

/// A purpose and its bytes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Part {
    /// The purpose.
    pub(crate) name: &'static str,
    /// Its size.
    pub(crate) bytes: usize,
}

/// What a node takes of a card's memory.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Memory {
    /// By purpose; together they are the total.
    pub(crate) parts: Vec<Part>,
    /// All parts.
    pub(crate) total_bytes: usize,
    /// What programs can have of the card.
    pub(crate) usable_bytes: usize,
    /// Whether the total is at most that.
    pub(crate) fits: bool,
    /// Keys and values of one token.
    pub(crate) kv_bytes_a_token: usize,
    /// Tokens in the cache if it takes all that the other parts leave.
    pub(crate) kv_tokens: usize,
}

impl Memory {
    /// The memory of `spec` on `card` with the sizes of `workload`.
    pub(super) fn new(spec: &ModelSpec, card: &Card, workload: &Workload) -> Self {
        let kv_token = costs::kv_token(spec);
        let cache = workload.sequences * workload.context_tokens.next_multiple_of(BLOCK_TOKENS) * kv_token;
        let adapter = costs::device_adapter_floats(spec, &workload.lora) * size_of::<f32>();
        // Engine and learner take turns, so the larger of the two passes counts.
        let activations = decoding(spec, workload).max(learning(spec, workload));
        let parts: Vec<Part> = [
            ("weights, bf16", costs::weights(spec)),
            ("KV cache", cache),
            // Those of one step are joined to one pair of factors a linear.
            ("adapters served, f32", 2 * workload.served_adapters * adapter),
            ("adapter learned, f32", adapter),
            ("activations", activations),
            ("logits rows", costs::logits(spec, workload.sequences)),
            ("pool", (POOL_SHARE * activations as f64) as usize),
            ("CUDA context", CONTEXT),
        ]
        .map(|(name, bytes)| Part { name, bytes })
        .into();
        let total_bytes: usize = parts.iter().map(|part| part.bytes).sum();
        let usable_bytes = ((1.0 - RESERVED_SHARE) * card.memory_gib * f64::from(1 << 30)) as usize;
        Self {
            parts,
            total_bytes,
            usable_bytes,
            fits: total_bytes <= usable_bytes,
            kv_bytes_a_token: kv_token,
            kv_tokens: usable_bytes.saturating_sub(total_bytes - cache) / kv_token,
        }
    }
}

/// Bytes that a step of the engine takes.
fn decoding(spec: &ModelSpec, workload: &Workload) -> usize {
    let &Workload { sequences, step_tokens, context_tokens, attention, .. } = workload;
    costs::engine_activations(spec, sequences, step_tokens, context_tokens, attention == Attention::Flash)
}

/// Bytes that a micro-batch of the learner takes. One that holds a single critique may be longer than the limit.
fn learning(spec: &ModelSpec, workload: &Workload) -> usize {
    let critique = workload.critique_tokens;
    let rows = workload.micro_batch_tokens.max(workload.prefix_tokens() + critique);
    let targets = (workload.learned_critiques * critique).min(rows);
    costs::score_activations(spec, &Recording { lora: &workload.lora, rows, targets, policy: workload.policy() })
}
