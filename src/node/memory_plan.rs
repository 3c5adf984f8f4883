//! Estimates the memory of a node, an engine or a learner, and checks that it fits the device.

use crate::config::Config;
use crate::engine::EngineConfig;
use crate::formats::spec::ModelSpec;
use crate::formats::spec::Projection;
use crate::kernels::{PassPrecisions, Precision, Weight};
use crate::learner::{LearnerConfig, Mode};
use crate::telemetry::metrics::{Label, MemoryOwner};
use crate::transformer::decode::{BLOCK_TOKENS, Decoder};
use crate::transformer::device;
use crate::transformer::gpu_costs::{self, memory::Recording, passes::Attention};
use crate::transformer::score::{activation_floats, widened_floats};
use candle_core::Device;

/// Memory by purpose, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryPlan {
    /// Names and sizes, in the order they are printed.
    pub(crate) parts: Vec<(&'static str, usize)>,
}

const F32: usize = size_of::<f32>();
// What cannot be counted was measured on SmolLM2: see "Memory" in docs/performance.md.
/// Memory of an engine or a learner without its model: code, tokenizer, threads.
const PROGRAM: usize = 85 << 20;
/// What a node has besides: actors, checkers, templates, records, and the heaps of their threads.
const NODE: usize = 232 << 20;
/// What the scheduler keeps of cached tokens, as a share of their keys and values.
const CACHE_INDEX: f64 = 0.02;
/// What the allocator and huge pages add to the activations of a learner, as a share of them.
const ROUNDING: f64 = 0.29;

impl MemoryPlan {
    /// The plan of an engine on `device`, without a learner; `weights` is the size of the model's weights there, in bytes.
    pub(crate) fn of_writing(spec: &ModelSpec, weights: usize, engine: &EngineConfig, device: &Device) -> Self {
        // A step's rows in the widest part of a layer, and the logits of every row that is sampled, with the sampler's copy.
        let widest = 2 * spec.hidden + 3 * spec.intermediate;
        let writing = engine.step_tokens_max * widest + 2 * engine.sequences_max * spec.vocab;
        let activations = if device.is_cpu() { writing * F32 } else { writing_on_gpu(spec, engine) };
        Self {
            parts: vec![
                ("weights", weights),
                ("kv cache", engine.kv_cache_mib << 20),
                ("program", program(device) + share(CACHE_INDEX, engine.kv_cache_mib << 20)),
                ("activations", activations),
            ],
        }
    }

    /// The plan of a node on `device`; `weights` is the size of the model's weights there for both passes, in bytes.
    pub(crate) fn new(spec: &ModelSpec, weights: usize, config: &Config, device: &Device) -> Self {
        let mut plan = Self::of_both(spec, weights, config, device);
        if device.is_cpu() {
            plan.parts.iter_mut().filter(|(name, _)| *name == "program").for_each(|(_, bytes)| *bytes += NODE);
        }
        plan
    }

    /// The plan of a node's engine and learner without the node around them.
    pub(crate) fn of_both(spec: &ModelSpec, weights: usize, config: &Config, device: &Device) -> Self {
        let targets = config.rollout.critiques * config.critic.sampling.max_tokens;
        let mut plan = Self::of_writing(spec, weights, &config.engine, device);
        let mut learning = Self::of_learning(spec, 0, &config.learner, targets, device).parts;
        if config.learner.mode == Mode::Full {
            // During a publication: the old and the new critic, each as stored and as served, and a copy of the moments for
            // the checkpoint.
            learning.push(("in service", 2 * (spec.parameters() * F32 + served(spec, config.engine.weights))));
            learning.push(("optimizer", 2 * spec.parameters() * F32));
        }
        if let Some((_, bytes)) = learning.iter_mut().find(|(name, _)| *name == "adapter") {
            // The learner's weights and their copy for the score pass, and two served versions during a publication.
            let adapter = *bytes / 2;
            *bytes *= 2;
            // A checkpoint copies the adapter and two moments, and serialising it copies them again. Like the program itself,
            // these copies are in host memory.
            if device.is_cpu() {
                learning.push(("checkpoint", 2 * 3 * adapter));
            }
        }
        for (name, bytes) in learning.into_iter().filter(|(name, _)| *name != "program") {
            match plan.parts.iter_mut().find(|(known, _)| *known == name) {
                Some((_, size)) => *size += bytes,
                None => plan.parts.insert(plan.parts.len() - 1, (name, bytes)),
            }
        }
        plan
    }

    /// The plan of a learner alone, whose steps predict at most `targets` ids per group.
    pub(crate) fn of_learning(
        spec: &ModelSpec,
        weights: usize,
        learner: &LearnerConfig,
        targets: usize,
        device: &Device,
    ) -> Self {
        let targets = targets.min(learner.micro_batch_tokens);
        let rank = if learner.mode == Mode::Full { 0 } else { learner.lora.rank };
        let learning = activation_floats(spec, rank, learner.micro_batch_tokens, targets, learner.activation_policy());
        let (base, matmul) = (learner.base_precision(), learner.matmul());
        let precisions = PassPrecisions { matmul, ..PassPrecisions::both(base, base) };
        let widened = if device.is_cpu() { widened_floats(spec, precisions, learner.micro_batch_tokens) } else { 0 };
        if learner.mode == Mode::Full {
            // The critic's weights, which the score pass reads in place; their gradient and two moments.
            let whole = spec.parameters() * F32;
            let parts = [
                ("weights", weights),
                ("critic", whole),
                ("optimizer", 3 * whole),
                ("activations", (learning + widened) * F32),
            ];
            let parts = [("program", program(device))].into_iter().chain(parts);
            return Self { parts: parts.chain(rounding(learning, device)).collect() };
        }
        let lora = &learner.lora;
        let of_site = |site: &Projection| {
            let (inputs, outputs) = site.sizes(spec);
            lora.rank * (inputs + outputs)
        };
        let adapter = spec.layers * lora.targets.iter().map(of_site).sum::<usize>();
        let activations = match device.is_cpu() {
            true => (learning + widened) * F32,
            false => {
                let (rows, policy) = (learner.micro_batch_tokens, learner.activation_policy());
                gpu_costs::memory::score_activations(spec, &Recording { lora, rows, targets, policy })
            }
        };
        // The learner's weights and their copy for the score pass; the gradient, a micro-batch's gradient and two moments. With
        // a GPU all but the copy, which is replaced by a new one, are in host memory.
        let (adapter, optimizer) = match device.is_cpu() {
            true => (2 * adapter, 4 * adapter),
            false => (2 * gpu_costs::memory::device_adapter_floats(spec, lora), 0),
        };
        let parts = [
            ("weights", weights),
            ("adapter", adapter * F32),
            ("optimizer", optimizer * F32),
            ("program", program(device)),
            ("activations", activations),
        ];
        Self { parts: parts.into_iter().chain(rounding(learning, device)).collect() }
    }

    /// Adds a judge with its own model, whose weights take `weights` bytes.
    pub(crate) fn with_judge(
        mut self,
        spec: &ModelSpec,
        weights: usize,
        engine: &EngineConfig,
        device: &Device,
    ) -> Self {
        for (name, bytes) in Self::of_writing(spec, weights, engine, device).parts {
            match name {
                "weights" => self.parts.push(("judge's", bytes)),
                "kv cache" => self.parts.push(("judge's kv", bytes)),
                // The engines take turns, so only the larger of the two is in use at a time.
                _ => self
                    .parts
                    .iter_mut()
                    .filter(|(known, _)| *known == name)
                    .for_each(|(_, own)| *own = bytes.max(*own)),
            }
        }
        self
    }

    /// The parts by owner. Half of what adapters take is the learner's, half that of the critics in service.
    pub(crate) fn by_owner(&self) -> impl Iterator<Item = (MemoryOwner, usize)> {
        let planned = |owner| {
            let of_owner = |(name, bytes): &(&str, usize)| match (*name, owner) {
                ("weights" | "judge's", MemoryOwner::Weights)
                | ("kv cache" | "judge's kv", MemoryOwner::KvCache)
                | ("in service", MemoryOwner::Critics)
                | ("critic" | "optimizer", MemoryOwner::Learner)
                | ("program" | "activations" | "allocator" | "checkpoint", MemoryOwner::Other) => *bytes,
                ("adapter", MemoryOwner::Critics | MemoryOwner::Learner) => bytes / 2,
                _ => 0,
            };
            (owner, self.parts.iter().map(of_owner).sum())
        };
        MemoryOwner::ALL.iter().copied().map(planned)
    }

    /// All parts together.
    pub(crate) fn total(&self) -> usize {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Refuses a context that the model or the KV cache cannot hold; `cache` is the config key of the cache size.
pub(crate) fn check_context(
    spec: &ModelSpec,
    engine: &EngineConfig,
    device: &Device,
    cache: &str,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        engine.context_tokens_max <= spec.context_tokens,
        "engine.context_tokens_max: expected at most the model's {}, got {}",
        spec.context_tokens,
        engine.context_tokens_max
    );
    let block = Decoder::block_bytes(spec, engine.kv_kind(), device);
    let one = engine.context_tokens_max.div_ceil(BLOCK_TOKENS) * block;
    anyhow::ensure!(
        one <= engine.kv_cache_mib << 20,
        "{cache}: expected at least {} for one context of {} tokens, got {}",
        one.div_ceil(1 << 20),
        engine.context_tokens_max,
        engine.kv_cache_mib
    );
    Ok(())
}

/// Refuses a plan that does not fit this device, where this process holds `held` bytes of it already.
///
/// # Errors
/// Names what does not fit, its size, and the size available.
pub(crate) fn check_memory(
    plan: &MemoryPlan,
    spec: &ModelSpec,
    config: &Config,
    device: &Device,
    held: usize,
) -> anyhow::Result<()> {
    check_context(spec, &config.engine, device, "engine.kv_cache_mib")?;
    if let Some(available) = device::available_bytes(device) {
        let beside =
            if held > 0 { format!(" beside the {:.0} that this process holds", mib(held)) } else { String::new() };
        anyhow::ensure!(
            plan.total() <= available + held,
            "memory: the plan needs {:.0} MiB, {} has {:.0} MiB available{beside}",
            mib(plan.total()),
            device::name(device),
            mib(available)
        );
    }
    Ok(())
}

/// Bytes of a critic's full weights as served, in addition to the stored f32 weights.
fn served(spec: &ModelSpec, precision: Precision) -> usize {
    let of_tensor = |(_, shape): &(String, Vec<usize>)| match shape[..] {
        // In f32 the stored weights are served.
        _ if precision == Precision::F32 => 0,
        [outputs, inputs] => Weight::planned_bytes(outputs, inputs, PassPrecisions::decode_only(precision), false),
        _ => F32 * shape.iter().product::<usize>(),
    };
    spec.tensors().iter().map(of_tensor).sum()
}

/// `share` of `bytes`.
fn share(share: f64, bytes: usize) -> usize {
    (share * bytes as f64) as usize
}

/// The part that a learner's `floats` of activations take beyond their size.
fn rounding(floats: usize, device: &Device) -> Option<(&'static str, usize)> {
    device.is_cpu().then(|| ("allocator", share(ROUNDING, floats * F32)))
}

/// What a step of the engine takes on a GPU, with its logits.
fn writing_on_gpu(spec: &ModelSpec, engine: &EngineConfig) -> usize {
    let &EngineConfig { sequences_max, step_tokens_max, context_tokens_max, .. } = engine;
    let flash = Attention::BUILT == Attention::Flash;
    gpu_costs::memory::engine_activations(spec, sequences_max, step_tokens_max, context_tokens_max, flash)
        + gpu_costs::memory::logits(spec, sequences_max)
}

/// Memory of the program itself on `device`.
fn program(device: &Device) -> usize {
    if device.is_cpu() { PROGRAM } else { 0 }
}

pub(crate) fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_part_has_an_owner() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny_llama");
        let spec = crate::formats::open(&golden).unwrap().spec;
        for mode in ["lora", "full"] {
            let config = Config::resolve(None, &[format!("learner.mode='{mode}'")]).unwrap();
            let plan = MemoryPlan::new(&spec, 1 << 20, &config, &Device::Cpu);
            let plan = plan.with_judge(&spec, 1 << 20, &config.engine, &Device::Cpu);
            assert_eq!(plan.by_owner().map(|(_, bytes)| bytes).sum::<usize>(), plan.total(), "{plan:?}");
        }
    }
}
