//! The settings and files that must not change between two processes of a run; checked when it is resumed.
//!
//! Whatever is not listed here may change between two processes of a run: limits, N and M, the objective, learning rates,
//! the judge. It holds for episodes that start, and for steps that are taken, from then on.

use super::error::Error;
use crate::config::Config;
use crate::disk;
use crate::formats::template::ChatTemplate;
use crate::learner::Mode;
use crate::types::{ChatRole, Prompt, Turn};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// The file in a run directory.
const FILE: &str = "run.json";

/// What must not change, and what depends on it.
const REASONS: [(&str, &str); 8] = [
    ("model.source", "the critic was trained on the files with this sha256"),
    ("chat template", "the critic was trained on prompts that it rendered"),
    ("node.seed", "all random draws and the order of the prompts follow from it"),
    ("prompts.file", "episodes take its prompts by number"),
    ("prompts.shuffle", "episodes take the prompts in this order"),
    ("learner.mode", "the saved critic is of this kind"),
    ("learner.lora", "the saved adapter has this shape and scale"),
    ("learner.synchronous", "one group is learned at a time, from the first step on"),
];

/// The value of a key that a run of this mode does not use.
const UNUSED: &str = "unused";

/// What a run is made of: keys, and values or their sha256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Identity(BTreeMap<String, String>);

impl Identity {
    /// What the config alone decides: it is checked before the model is loaded.
    pub(super) fn of_config(config: &Config) -> Self {
        let lora = serde_json::to_string(&config.learner.lora).expect("numbers and names are always JSON");
        let values = [
            ("node.seed", config.node.seed.to_string()),
            ("prompts.shuffle", config.prompts.shuffle.to_string()),
            ("learner.mode", config.learner.mode.to_string()),
            ("learner.lora", if config.learner.mode == Mode::Lora { lora } else { UNUSED.to_owned() }),
            ("learner.synchronous", config.learner.synchronous.to_string()),
        ];
        Self(values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// Adds the model whose files have the digest `model`, what its chat template makes of a conversation, and the prompts.
    pub(super) fn with_files(mut self, model: String, template: &ChatTemplate, prompts: &[Prompt]) -> Self {
        let prompts = serde_json::to_vec(prompts).expect("strings are always JSON");
        self.0.insert("model.source".to_owned(), model);
        self.0.insert("chat template".to_owned(), sha256(rendered(template).as_bytes()));
        self.0.insert("prompts.file".to_owned(), sha256(&prompts));
        self
    }

    /// Writes it into the run directory; where a run is resumed, checks first that it is this one.
    ///
    /// # Errors
    /// As [`Identity::check`]; if the disk fails.
    pub(super) fn claim(&self, run: &Path, is_resumed: bool) -> Result<(), Error> {
        if is_resumed {
            self.check(run)?;
        }
        self.write(run)
    }

    /// Writes it into the run directory.
    ///
    /// # Errors
    /// If the disk fails.
    fn write(&self, run: &Path) -> Result<(), Error> {
        let (path, text) = (run.join(FILE), serde_json::to_vec_pretty(self).expect("strings are always JSON"));
        disk::replace(&path, &text).map_err(|source| Error::Io { path, source })
    }

    /// Checks that the run in the directory `run` is this one. A run without the file is accepted unchecked.
    ///
    /// # Errors
    /// If something has changed, or the file cannot be read.
    pub(super) fn check(&self, run: &Path) -> Result<(), Error> {
        let path = run.join(FILE);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            text => text.map_err(|source| Error::Io { path: path.clone(), source })?,
        };
        let before: Self = serde_json::from_slice(&text)
            .map_err(|error| Error::Changed { path: path.clone(), differences: error.to_string() })?;
        let differences: Vec<String> =
            REASONS.iter().filter_map(|(key, why)| self.difference(&before, key, why)).collect();
        match differences.is_empty() {
            true => Ok(()),
            false => Err(Error::Changed { path, differences: differences.join("; ") }),
        }
    }

    fn difference(&self, before: &Self, key: &str, why: &str) -> Option<String> {
        let (now, before) = (self.0.get(key)?, before.0.get(key)?);
        if now == before {
            return None;
        }
        let parts: [Option<Map<String, Value>>; 2] = [before, now].map(|value| serde_json::from_str(value).ok());
        let [Some(before_parts), Some(now_parts)] = parts else {
            // With another mode, one of the two has no adapter: the mode is what to name.
            let is_told = [before, now].iter().any(|value| *value == UNUSED);
            return (!is_told).then(|| format!("{key}: expected {before} as before, got {now} ({why})"));
        };
        let differs = |part: &&String| before_parts.get(*part) != now_parts.get(*part);
        let sentence = |part: &String| {
            let [before, now] = [&before_parts, &now_parts].map(|parts| parts.get(part).unwrap_or(&Value::Null));
            format!("{key}.{part}: expected {before} as before, got {now}")
        };
        let sentences: Vec<String> = now_parts.keys().filter(differs).map(sentence).collect();
        Some(format!("{} ({why})", sentences.join(", ")))
    }
}

/// What the template makes of a conversation that every template accepts, or why it does not.
fn rendered(template: &ChatTemplate) -> String {
    let turns = [(ChatRole::User, "a"), (ChatRole::Assistant, "b"), (ChatRole::User, "c")];
    let turns = turns.map(|(role, text)| Turn::new(role, text));
    template.render(&turns, true).unwrap_or_else(|error| error.to_string())
}

fn sha256(bytes: &[u8]) -> String {
    const_hex::encode(Sha256::digest(bytes))
}
