//! The resolved config: the built-in default, overlaid with a file and with `--set`.
//!
//! Resolving is strict and reports all mistakes at once: unknown keys, wrong types, and values that a section or a pair of
//! sections does not allow. The built-in default is `configs/quickstart.toml`, which names every key; there is no other
//! default.

mod complaints;
mod overlay;
mod schema;
mod section_checks;

pub(crate) use overlay::closest;
pub use schema::{Config, ModelConfig, NodeConfig, RoleSection};
pub(crate) use section_checks::sampling as sampling_complaints;

use std::path::{Path, PathBuf};

/// Why a config cannot be resolved.
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

    /// The default overlaid with `file` (its path, for messages, and its text), then with `sets`, each
    /// `section.key=value` where the value is TOML or else an unquoted string.
    ///
    /// # Errors
    /// If the file is not TOML; otherwise every complaint at once.
    pub fn resolve(file: Option<(&Path, &str)>, sets: &[String]) -> Result<Self, ConfigError> {
        let default: toml::Table =
            toml::from_str(Self::embedded_text()).expect("the embedded config is TOML: a test resolves it");
        let mut edits = overlay::Edits::of(&default);
        if let Some((path, text)) = file {
            edits.overlay(parse(path, text)?);
        }
        sets.iter().for_each(|set| edits.set(set));
        let (edits, mut complaints) = edits.finish();

        let mut merged = default.clone();
        for edit in edits {
            // Try each key alone on the default, so that every invalid key is reported and not only the first.
            let mut trial = default.clone();
            edit.apply(&mut trial);
            match trial.try_into::<Self>() {
                Ok(_) => edit.apply(&mut merged),
                Err(error) => complaints.push(edit.complaint(error.message())),
            }
        }
        let config: Self = merged.try_into().expect("every key was valid alone, and keys are independent");
        complaints.extend(config.complaints());
        if complaints.is_empty() { Ok(config) } else { Err(ConfigError::Complaints(complaints)) }
    }

    /// Complaints about the values, all at once: those of each section, then those across sections.
    pub fn complaints(&self) -> Vec<String> {
        [
            self.node.complaints(),
            self.model.complaints(),
            self.prompts.complaints(),
            self.rollout.complaints(),
            section_checks::engine(&self.engine),
            self.generator.role.complaints(),
            section_checks::sampling("generator", &self.generator.sampling),
            self.critic.role.complaints(),
            section_checks::sampling("critic", &self.critic.sampling),
            self.refiner.role.complaints(),
            section_checks::sampling("refiner", &self.refiner.sampling),
            self.judge.role.complaints(self.judge.sampling.temperature),
            section_checks::sampling("judge", &self.judge.sampling),
            self.remote.judge.complaints("remote.judge", self.remote_judge().is_some()),
            self.remote.generator.complaints("remote.generator", self.remote_generator().is_some()),
            section_checks::replay(&self.replay),
            section_checks::learner(&self.learner),
            self.eval.complaints(),
            self.checkpoint.complaints(),
            self.swap.complaints(),
            self.device.complaints(),
            self.supervisor.complaints(),
            self.telemetry.complaints(),
            self.http.complaints(),
            self.tracking.complaints(),
            self.episodes.complaints(),
            section_checks::between(self),
        ]
        .concat()
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
