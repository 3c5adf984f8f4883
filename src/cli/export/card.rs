//! What the card of an exported critic says of the run that trained it.

use crate::checkpoint::{self, CheckpointEntry};
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::disk;
use crate::export::{CardEvaluation, ModelCard};
use crate::tracking::{self, Line};
use anyhow::Context;

/// The settings that a reader of the card asks for, by their keys in the config.
const SETTINGS: [&str; 16] = [
    "learner.mode",
    "learner.start_from",
    "learner.objective",
    "learner.baseline",
    "learner.beta",
    "learner.learning_rate",
    "learner.groups_per_step",
    "learner.lora.rank",
    "learner.lora.alpha",
    "rollout.critiques",
    "rollout.refinements",
    "generator.kind",
    "judge.kind",
    "critic.prompt",
    "critic.temperature",
    "node.seed",
];

/// The card of the checkpoint `listed`.
///
/// # Errors
/// If a file of its run cannot be read.
pub(super) fn of_checkpoint(listed: &CheckpointEntry, licence: Option<String>) -> Result<ModelCard, CommandError> {
    let path = listed.path.join(checkpoint::CONFIG);
    let text = disk::read_text(&path, checkpoint::CONFIG_BYTES_MAX).with_context(|| path.display().to_string());
    let config: toml::Table = text.or_exit(Exit::Checkpoint)?.parse().or_exit(Exit::Checkpoint)?;
    let run = listed.path.parent().and_then(std::path::Path::parent);
    let lines = run.map(|run| tracking::read(run).or_exit(Exit::Usage)).transpose()?.unwrap_or_default().lines;
    let lines: Vec<&Line> = lines.iter().filter(|line| line.step <= listed.step).collect();
    let setting = |key: &str| value(&config, key).map(|value| (key.to_owned(), value));
    let mut data: Vec<String> =
        setting("prompts.file").into_iter().map(|(key, file)| format!("{key} = {file}")).collect();
    for (name, what) in [("total/episodes", "episodes"), ("total/groups", "scored groups of critiques")] {
        let last = lines.iter().rev().find_map(|line| line.get(name));
        data.extend(last.map(|count| format!("{count} {what}")));
    }
    Ok(ModelCard {
        licence,
        data,
        steps: Some(listed.step),
        settings: SETTINGS.into_iter().filter_map(setting).collect(),
        evaluations: lines.into_iter().filter(|line| line.get("eval/seconds").is_some()).map(evaluation).collect(),
    })
}

fn evaluation(line: &Line) -> CardEvaluation {
    let figure = |name: &str| {
        let [value, low, high] = ["", "_low", "_high"].map(|bound| line.get(&format!("eval/{name}{bound}")));
        Some([value?, low?, high?])
    };
    CardEvaluation {
        step: line.step,
        prompts: line.get("eval/prompts").map(|prompts| prompts as u64),
        utility: figure("cu"),
        accuracy: figure("accuracy_after"),
    }
}

/// The value of `section.key`, if it is there and says something.
fn value(config: &toml::Table, key: &str) -> Option<String> {
    let (section, key) = key.rsplit_once('.')?;
    let mut table = config;
    for name in section.split('.') {
        table = table.get(name)?.as_table()?;
    }
    let value = table.get(key)?;
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    (!text.is_empty()).then_some(text)
}
