//! The config's types: one section per room, as `configs/quickstart.toml` lays them out.
//!
//! Knows of each room only its `XConfig`. Resolving and value checks are elsewhere.

use super::complaints::not_blank;
use crate::actors::device::DeviceConfig;
use crate::actors::supervisor::SupervisorConfig;
use crate::checkpoint::CheckpointConfig;
use crate::engine::EngineConfig;
use crate::engine::sampler::SamplingConfig;
use crate::episode::tree::RolloutConfig;
use crate::eval::{EvalConfig, held_out_twin};
use crate::http::HttpConfig;
use crate::learner::LearnerConfig;
use crate::prompts::PromptsConfig;
use crate::records::EpisodesConfig;
use crate::remote::{RemoteConfig, RemotesConfig};
use crate::replay::ReplayConfig;
use crate::roles::RolesConfig;
use crate::roles::critic::CriticConfig;
use crate::roles::generator::{GeneratorConfig, GeneratorKind};
use crate::roles::judge::{JudgeConfig, JudgeKind};
use crate::roles::refiner::RefinerConfig;
use crate::run::critics::SwapConfig;
use crate::telemetry::TelemetryConfig;
use crate::tracking::TrackingConfig;
use crate::transformer::device::DeviceChoice;
use serde::{Deserialize, Serialize};

/// Every setting, as `configs/quickstart.toml` lays it out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The run as a whole.
    pub node: NodeConfig,
    /// The base model.
    pub model: ModelConfig,
    /// Where prompts come from.
    pub prompts: PromptsConfig,
    /// Size of an episode, and how many run at once.
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
    /// What all roles have in common.
    pub roles: RolesConfig,
    /// Servers that replace local models.
    pub remote: RemotesConfig,
    /// Limits of the buffer of critique groups.
    pub replay: ReplayConfig,
    /// How the critic learns.
    pub learner: LearnerConfig,
    /// Evaluation on held-out prompts.
    pub eval: EvalConfig,
    /// Which checkpoints are kept.
    pub checkpoint: CheckpointConfig,
    /// How much of the episodes is kept for people to look at.
    pub episodes: EpisodesConfig,
    /// How critics are tried, put into service and taken back.
    pub swap: SwapConfig,
    /// How long the device thread may stand still.
    pub device: DeviceConfig,
    /// How often actors may restart.
    pub supervisor: SupervisorConfig,
    /// Who may use the listener.
    pub http: HttpConfig,
    /// Metrics, health endpoints and logs.
    pub telemetry: TelemetryConfig,
    /// Where a run's figures go.
    pub tracking: TrackingConfig,
}

/// The run as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Seed of everything random.
    pub seed: u64,
    /// The folder of this run's checkpoints and journal.
    pub run_directory: String,
    /// After a stop request, running episodes have this long to finish, in seconds.
    pub drain_seconds: u64,
}

impl NodeConfig {
    /// Complaints about its values.
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
    /// Complaints about its values. Whether the model exists is only known when it is opened.
    pub fn complaints(&self) -> Vec<String> {
        not_blank("model.source", &self.source, "a folder, a .gguf file, hf:... or pip:...")
    }
}

/// A role: its prompt template and its sampling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleSection<R> {
    /// Its prompt template and other settings of the role.
    #[serde(flatten)]
    pub role: R,
    /// How its texts are sampled.
    pub sampling: SamplingConfig,
}

impl Config {
    /// The held-out prompt file: `eval.file`, or the held-out twin of `prompts.file`; empty if there is neither.
    pub fn held_out(&self) -> String {
        let named = Some(self.eval.file.clone()).filter(|file| !file.trim().is_empty());
        named.or_else(|| held_out_twin(&self.prompts.file)).unwrap_or_default()
    }

    /// The judge's model, if a local judge is used and its model differs from the base model.
    pub fn judge_model(&self) -> Option<&str> {
        let JudgeConfig { model, .. } = &self.judge.role;
        let is_other = !model.is_empty() && *model != self.model.source;
        (self.judge.role.uses_local_model() && is_other).then_some(model)
    }

    /// The judge's server, if the judge is remote.
    pub fn remote_judge(&self) -> Option<&RemoteConfig> {
        (self.judge.role.kind == JudgeKind::Remote).then_some(&self.remote.judge)
    }

    /// The generator's server, if the generator is remote.
    pub fn remote_generator(&self) -> Option<&RemoteConfig> {
        (self.generator.role.kind == GeneratorKind::Remote).then_some(&self.remote.generator)
    }

    /// Limits of the judge model's engine: the node's, with the judge's KV cache size.
    pub fn judge_engine(&self) -> EngineConfig {
        EngineConfig { kv_cache_mib: self.judge.role.kv_cache_mib, ..self.engine.clone() }
    }
}
