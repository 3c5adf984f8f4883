//! The refiner: the generator, asked again with a critique.
//!
//! Its conversation continues the generator's, so that the KV cache of the prompt and the response is reused.

use super::{Error, Template, complaints, first};
use crate::types::{ChatRole, Turn};
use serde::{Deserialize, Serialize};

const KEY: &str = "refiner.prompt";
const VARIABLES: &[&str] = &["critique"];

/// The refiner's template.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RefinerConfig {
    /// Template of the user's next turn, over `critique`.
    pub prompt: String,
}

impl RefinerConfig {
    /// Complaints about these values, all at once.
    pub fn complaints(&self) -> Vec<String> {
        complaints(KEY, &self.prompt, VARIABLES)
    }
}

/// The refiner's role.
#[derive(Debug)]
pub struct Refiner {
    template: Template,
}

impl Refiner {
    /// The role that `config` describes.
    pub fn new(config: &RefinerConfig) -> Result<Self, Error> {
        Ok(Self { template: Template::parse(KEY, &config.prompt, VARIABLES).map_err(first)? })
    }

    /// The conversation that every refinement for `critique` continues.
    pub fn conversation(&self, generator_conversation: &[Turn], response: &str, critique: &str) -> Vec<Turn> {
        let mut turns = generator_conversation.to_vec();
        turns.push(Turn::new(ChatRole::Assistant, response));
        turns.push(Turn::new(ChatRole::User, self.template.render(&[critique])));
        turns
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::roles::generator::{Generator, GeneratorConfig, GeneratorKind};
    use crate::types::Prompt;

    #[test]
    fn the_refiner_goes_on_with_the_generators_conversation() {
        let config =
            GeneratorConfig { kind: GeneratorKind::Local, system: "be brief".into(), prompt: "{{ prompt }}".into() };
        let prompt = Prompt { id: "p".into(), task: "t".into(), text: "3 + 4?".into(), answer: None, verifier: None };
        let asked = Generator::new(&config).unwrap().conversation(&prompt);
        let refiner = Refiner::new(&RefinerConfig { prompt: "{{ critique }}\nAgain.".into() }).unwrap();
        let turns = refiner.conversation(&asked, " 8\n", "It is 7.");
        assert_eq!(turns[..2], asked);
        assert_eq!(turns[2], Turn::new(ChatRole::Assistant, " 8\n"));
        assert_eq!(turns[3], Turn::new(ChatRole::User, "It is 7.\nAgain."));
        assert_eq!(turns.len(), 4);
    }
}
