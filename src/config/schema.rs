//! The config's types: one section for each room, as `configs/quickstart.toml` lays them out.
//!
//! Knows no room beyond its `XConfig`. How a config is resolved and what its values must be is told elsewhere.

use super::complaints::not_blank;
use crate::actors::rollout::RolloutConfig;
use crate::actors::supervisor::SupervisorConfig;
use crate::checkpoint::CheckpointConfig;
use crate::engine::EngineConfig;
use crate::engine::sampler::SamplingConfig;
use crate::eval::{EvalConfig, held_out_twin};
use crate::learner::LearnerConfig;
use crate::prompts::PromptsConfig;
use crate::remote::{RemoteConfig, RemotesConfig};
use crate::replay::ReplayConfig;
use crate::roles::critic::CriticConfig;
use crate::roles::generator::{GeneratorConfig, GeneratorKind};
use crate::roles::judge::{JudgeConfig, JudgeKind};
use crate::roles::refiner::RefinerConfig;
use crate::telemetry::TelemetryConfig;
use crate::transformer::device::DeviceChoice;
use serde::{Deserialize, Serialize};

/// All that can be set, as `configs/quickstart.toml` lays it out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The run as a whole.
    pub node: NodeConfig,
    /// The base model.
    pub model: ModelConfig,
    /// Where prompts come from.
    pub prompts: PromptsConfig,
    /// Size of an episode, and how many are under way.
    pub rollout: RolloutConfig,
    /// Limits of the engine.
    pub engine: EngineConfig,
    /// Writes responses.
    pub generator: RoleSection<GeneratorConfig>,
    /// Writes critiques.
    pub critic: RoleSection<CriticConfig>,
    /// Writes refinements.
    pub refiner: RoleSection<RefinerConfig>,
    /// Compares a refinement with its response.
    pub judge: RoleSection<JudgeConfig>,
    /// Servers that stand in for local models.
    pub remote: RemotesConfig,
    /// Limits of the buffer of critique groups.
    pub replay: ReplayConfig,
    /// How the critic learns.
    pub learner: LearnerConfig,
    /// How critics are evaluated on held-out prompts.
    pub eval: EvalConfig,
    /// How many checkpoints are kept.
    pub checkpoint: CheckpointConfig,
    /// When the node gives up.
    pub supervisor: SupervisorConfig,
    /// What the node says of itself, and where.
    pub telemetry: TelemetryConfig,
}

/// The run as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// All that is drawn at random follows from it.
    pub seed: u64,
    /// Where checkpoints and logs of this run live.
    pub run_directory: String,
    /// On a stop, episodes under way get this long to end, in seconds.
    pub drain_seconds: u64,
}

impl NodeConfig {
    /// What is wrong with it.
    pub fn complaints(&self) -> Vec<String> {
        not_blank("node.run_directory", &self.run_directory, "a folder")
    }
}

/// The base model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A folder or .gguf file, `hf:owner/name`, or `pip:package==version#file?sha256=digest`.
    pub source: String,
    /// Where it runs.
    pub device: DeviceChoice,
}

impl ModelConfig {
    /// What is wrong with it; whether there is such a model is found on opening it.
    pub fn complaints(&self) -> Vec<String> {
        not_blank("model.source", &self.source, "a folder, a .gguf file, hf:... or pip:...")
    }
}

/// A role: what it is shown, and how its text is sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleSection<R> {
    /// What it is shown.
    #[serde(flatten)]
    pub role: R,
    /// How its text is sampled.
    pub sampling: SamplingConfig,
}

impl Config {
    /// Where held-out prompts come from: `eval.file`, or the twin of `prompts.file`; empty where there is neither.
    pub fn held_out(&self) -> String {
        let named = Some(self.eval.file.clone()).filter(|file| !file.trim().is_empty());
        named.or_else(|| held_out_twin(&self.prompts.file)).unwrap_or_default()
    }

    /// The model that judges or compares critiques, where it is another than the base model.
    pub fn judge_model(&self) -> Option<&str> {
        let JudgeConfig { model, .. } = &self.judge.role;
        let is_other = !model.is_empty() && *model != self.model.source;
        (self.judge.role.uses_local_model() && is_other).then_some(model)
    }

    /// The server that judges, where one does.
    pub fn remote_judge(&self) -> Option<&RemoteConfig> {
        (self.judge.role.kind == JudgeKind::Remote).then_some(&self.remote.judge)
    }

    /// The server that answers and refines, where one does.
    pub fn remote_generator(&self) -> Option<&RemoteConfig> {
        (self.generator.role.kind == GeneratorKind::Remote).then_some(&self.remote.generator)
    }

    /// Limits of that model's engine: the node's, but for the memory of its cache.
    pub fn judge_engine(&self) -> EngineConfig {
        EngineConfig { kv_cache_mib: self.judge.role.kv_cache_mib, ..self.engine.clone() }
    }
}
