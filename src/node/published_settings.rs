//! What a run is configured to do, as metrics.

use crate::config::Config;
use crate::prompts::PromptStream;
use crate::telemetry::metrics::{self, Settings};
use serde::Serialize;

/// Publishes `config`, and the series of the tasks of `prompts`.
pub(super) fn publish(config: &Config, prompts: &PromptStream) {
    metrics::UTILITY_HISTOGRAM.register(prompts.prompts().iter().map(|prompt| prompt.task.as_str()));
    metrics::CONFIG_INFO.publish(Settings {
        model: config.model.source.clone(),
        judge: word(config.judge.role.kind),
        objective: word(config.learner.objective),
        mode: word(config.learner.mode),
        critiques: config.rollout.critiques,
        refinements: config.rollout.refinements,
        groups_per_step: config.learner.groups_per_step,
        publish_every_steps: config.learner.publish_every_steps,
        age_versions_max: config.replay.age_versions_max,
    });
}

/// The word of a choice in the config.
fn word(choice: impl Serialize) -> String {
    let value = serde_json::to_value(choice).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}
