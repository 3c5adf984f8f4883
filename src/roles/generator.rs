//! The generator: answers a prompt. Its conversation is the one that the refiner goes on with.

use super::{Error, Template, complaints, first, initial_turns};
use crate::types::{Prompt, Turn};
use serde::{Deserialize, Serialize};

const KEY: &str = "generator.prompt";
const VARIABLES: &[&str] = &["prompt"];

/// Where responses and refinements are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GeneratorKind {
    /// By the base model.
    Local,
    /// By a server elsewhere.
    Remote,
}

/// What the generator is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneratorConfig {
    /// Where it writes; the refiner writes there too.
    pub kind: GeneratorKind,
    /// Instructions above the conversation, as they are; empty for none.
    pub system: String,
    /// Template of the user's turn, over `prompt`.
    pub prompt: String,
}

impl GeneratorConfig {
    /// What is wrong with these values, all at once.
    pub fn complaints(&self) -> Vec<String> {
        complaints(KEY, &self.prompt, VARIABLES)
    }
}

/// The generator's role.
#[derive(Debug)]
pub struct Generator {
    system: String,
    template: Template,
}

impl Generator {
    /// The role that `config` describes.
    pub fn new(config: &GeneratorConfig) -> Result<Self, Error> {
        let template = Template::parse(KEY, &config.prompt, VARIABLES).map_err(first)?;
        Ok(Self { system: config.system.clone(), template })
    }

    /// The conversation that the response to `prompt` goes on.
    pub fn conversation(&self, prompt: &Prompt) -> Vec<Turn> {
        initial_turns(&self.system, self.template.render(&[&prompt.text]))
    }
}
