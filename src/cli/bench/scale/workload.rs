//! The workload of one point: the arguments of the bench that measures it, and the memory that it needs.

use crate::cli::bench::harness::sized_engine;
use crate::config::Config;
use crate::formats::spec::ModelSpec;
use crate::node::memory_plan::MemoryPlan;
use crate::transformer::decode::Decoder;
use candle_core::Device;

/// A model before it is loaded.
pub(super) struct ModelSizes {
    pub(super) source: String,
    pub(super) spec: ModelSpec,
    /// Bytes of weights of an engine, and those of an engine with a learner.
    pub(super) engine_bytes: usize,
    pub(super) both_bytes: usize,
}

/// What one child process measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// Tokens generated behind prompts that are in the cache.
    Decode { sequences: usize, context: usize, max_tokens: usize },
    /// One prompt.
    Prefill { context: usize },
    /// Trees, learner steps included.
    Episode { n: usize, m: usize, max_tokens: usize },
}

impl Workload {
    /// The arguments of `bench` that measure it.
    pub(super) fn arguments(&self) -> Vec<String> {
        let words = match self {
            Self::Decode { sequences, context, max_tokens } => {
                format!("decode --warm --sequences {sequences} --context {context} --max-tokens {max_tokens}")
            }
            Self::Prefill { context } => format!("prefill --context {context}"),
            // Greedy refinements of one critique would be one text.
            Self::Episode { n, m, max_tokens } => format!(
                "episode --n {n} --m {m} --max-tokens {max_tokens} --episodes 2 --set refiner.sampling.temperature=0.7"
            ),
        };
        words.split(' ').map(str::to_owned).collect()
    }

    /// Bytes that the memory plan of `check` asks for it.
    pub(super) fn bytes(&self, model: &ModelSizes, config: &Config, device: &Device) -> usize {
        let ModelSizes { spec, engine_bytes, both_bytes, .. } = model;
        let mut engine = config.engine.clone();
        let block = Decoder::block_bytes(spec, engine.kv_kind(), device);
        match *self {
            Self::Decode { sequences, context, max_tokens } => {
                engine = sized_engine(&engine, block, &vec![context + max_tokens; sequences]);
                // As `decode --warm` does.
                engine.kv_cache_mib *= 2;
                MemoryPlan::of_writing(spec, *engine_bytes, &engine, device).total()
            }
            Self::Prefill { context } => {
                engine = sized_engine(&engine, block, &[context + 1]);
                MemoryPlan::of_writing(spec, *engine_bytes, &engine, device).total()
            }
            Self::Episode { n, max_tokens, .. } => {
                let mut config = config.clone();
                config.rollout.critiques = n;
                config.critic.sampling.max_tokens = max_tokens;
                MemoryPlan::of_both(spec, *both_bytes, &config, device).total()
            }
        }
    }
}
