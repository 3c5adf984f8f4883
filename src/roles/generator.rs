//! The generator: answers a prompt. The refiner continues its conversation.

use super::{Error, Template, complaints, first, initial_turns};
use crate::types::{Prompt, Turn};
use serde::{Deserialize, Serialize};

const KEY: &str = "generator.prompt";
const VARIABLES: &[&str] = &["prompt"];

/// Where responses and refinements are generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GeneratorKind {
    /// By the local base model.
    Local,
    /// By a remote server.
    Remote,
}

/// The generator's place, system text and template.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneratorConfig {
    /// Where it runs; the refiner runs there too.
    pub kind: GeneratorKind,
    /// System text, used as it is; empty for none.
    pub system: String,
    /// Template of the user's turn, over `prompt`.
    pub prompt: String,
}

impl GeneratorConfig {
    /// Complaints about these values, all at once.
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

    /// The conversation that the response to `prompt` continues.
    pub fn conversation(&self, prompt: &Prompt) -> Vec<Turn> {
        initial_turns(&self.system, self.template.render(&[&prompt.text]))
    }
}
