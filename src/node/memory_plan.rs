//! Estimates the memory of a node, an engine or a learner, and checks that it fits the device.

use crate::config::Config;
use crate::engine::EngineConfig;
use crate::formats::spec::ModelSpec;
use crate::formats::spec::Projection;
use crate::kernels::{PassPrecisions, Precision, Weight};
use crate::learner::{LearnerConfig, Mode};
use crate::telemetry::metrics::{Label, MemoryOwner};
use crate::transformer::decode::{BLOCK_TOKENS, Decoder};
use crate::transformer::dense::decode::DenseDecoder;
use crate::transformer::device;
use crate::transformer::score::{activation_floats, widened_floats};
use candle_core::Device;

/// Memory by purpose, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryPlan {
    /// Names and sizes, in the order they are printed.
    pub(crate) parts: Vec<(&'static str, usize)>,
}

const F32: usize = size_of::<f32>();
/// Memory of a node without a model: code, tokenizer, templates, threads.
const PROGRAM: usize = 64 << 20;
/// What the allocator keeps of freed activations in pages that are still in part in use, over their planned size. On the
/// quickstart with a full KV cache 350 MiB were measured over a plan with 400 MiB of activations.
const KEPT_BY_ALLOCATOR: f64 = 0.9;

impl MemoryPlan {
    /// The plan of an engine on `device`, without a learner; `weights` is the size of the model's weights there, in bytes.
    pub(crate) fn of_writing(spec: &ModelSpec, weights: usize, engine: &EngineConfig, device: &Device) -> Self {
        // A step's rows in the widest part of a layer, and the logits of every row that is sampled.
        let widest = 2 * spec.hidden + 3 * spec.intermediate;
        let mut writing = engine.step_tokens_max * widest + engine.sequences_max * spec.vocab;
        if !device.is_cpu() {
            writing += DenseDecoder::attention_floats(spec, engine.sequences_max, engine.context_tokens_max);
        }
        Self {
            parts: vec![
                ("weights", weights),
                ("kv cache", engine.kv_cache_mib << 20),
                ("program", program(device)),
                ("activations", writing * F32),
            ],
        }
    }

    /// The plan of a node on `device`; `weights` is the size of the model's weights there for both passes, in bytes.
    pub(crate) fn new(spec: &ModelSpec, weights: usize, config: &Config, device: &Device) -> Self {
        let targets = config.rollout.critiques * config.critic.sampling.max_tokens;
        let mut plan = Self::of_writing(spec, weights, &config.engine, device);
        let mut learning = Self::of_learning(spec, 0, &config.learner, targets, device).parts;
        if config.learner.mode == Mode::Full {
            // During a publication: the old and the new critic, each as stored and as served, and a copy of the moments for
            // the checkpoint.
            learning.push(("in service", 2 * (spec.parameters() * F32 + served(spec, config.engine.weights))));
            learning.push(("optimizer", 2 * spec.parameters() * F32));
        }
        // A checkpoint copies the adapter and two moments, and serialising it copies them again. Like the program itself,
        // these copies are in host memory.
        if let Some((_, bytes)) = learning.iter().find(|(name, _)| *name == "adapter").filter(|_| device.is_cpu()) {
            learning.push(("checkpoint", 2 * 3 * (bytes / 4)));
        }
        for (name, bytes) in learning.into_iter().filter(|(name, _)| *name != "program") {
            match plan.parts.iter_mut().find(|(known, _)| *known == name) {
                Some((_, size)) => *size += bytes,
                None => plan.parts.insert(plan.parts.len() - 1, (name, bytes)),
            }
        }
        if device.is_cpu() {
            let activations = plan.parts.iter().filter(|(name, _)| *name == "activations").map(|(_, bytes)| bytes);
            let kept = (KEPT_BY_ALLOCATOR * activations.sum::<usize>() as f64) as usize;
            plan.parts.push(("allocator", kept));
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
        let learning = learning + if device.is_cpu() { widened_floats(spec, learner.base_precision()) } else { 0 };
        if learner.mode == Mode::Full {
            // The critic's weights, which the score pass reads in place; their gradient and two moments.
            let whole = spec.parameters() * F32;
            let parts =
                [("weights", weights), ("critic", whole), ("optimizer", 3 * whole), ("activations", learning * F32)];
            return Self { parts: [("program", program(device))].into_iter().chain(parts).collect() };
        }
        let lora = &learner.lora;
        let of_site = |site: &Projection| {
            let (inputs, outputs) = site.sizes(spec);
            lora.rank * (inputs + outputs)
        };
        let adapter = spec.layers * lora.targets.iter().map(of_site).sum::<usize>();
        // The gradient, a micro-batch's gradient and two moments; with a GPU the moments stay in host memory.
        let optimizer = if device.is_cpu() { 4 } else { 1 } * adapter * F32;
        let parts = vec![
            ("weights", weights),
            // The learner's weights, their copy for the score pass, and two served versions during a publication.
            ("adapter", 4 * adapter * F32),
            ("optimizer", optimizer),
            ("program", program(device)),
            ("activations", learning * F32),
        ];
        Self { parts }
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

/// Refuses a plan that does not fit this device.
///
/// # Errors
/// Names what does not fit, its size, and the size available.
pub(crate) fn check_memory(
    plan: &MemoryPlan,
    spec: &ModelSpec,
    config: &Config,
    device: &Device,
) -> anyhow::Result<()> {
    check_context(spec, &config.engine, device, "engine.kv_cache_mib")?;
    if let Some(available) = device::available_bytes(device) {
        anyhow::ensure!(
            plan.total() <= available,
            "memory: the plan needs {:.0} MiB, {} has {:.0} MiB available",
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
