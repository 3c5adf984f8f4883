//! The refiner: the generator, asked again with a critique.
//!
//! Its conversation continues the generator's, so that the KV cache of the prompt and the response is reused.

use super::{Error, Reasoning, Template, complaints, first};
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
    reasoning: Reasoning,
}

impl Refiner {
    /// The role that `config` describes.
    pub fn new(config: &RefinerConfig) -> Result<Self, Error> {
        let template = Template::parse(KEY, &config.prompt, VARIABLES).map_err(first)?;
        Ok(Self { template, reasoning: Reasoning::default() })
    }

    /// The same role, to which thoughts are shown or not.
    pub fn with_reasoning(self, reasoning: Reasoning) -> Self {
        Self { reasoning, ..self }
    }

    /// Whether the role sees all of `response`, so that its conversation goes on from the ids that were sampled.
    pub fn sees_all(&self, response: &str) -> bool {
        self.reasoning.shown(response).len() == response.len()
    }

    /// The conversation that every refinement for `critique` continues.
    pub fn conversation(&self, generator_conversation: &[Turn], response: &str, critique: &str) -> Vec<Turn> {
        let mut turns = generator_conversation.to_vec();
        turns.push(Turn::new(ChatRole::Assistant, self.reasoning.shown(response)));
        turns.push(Turn::new(ChatRole::User, self.template.render(&[self.reasoning.shown(critique)])));
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
        let prompt = Prompt {
            id: "p".into(),
            task: "t".into(),
            text: "3 + 4?".into(),
            turns: Vec::new(),
            answer: None,
            verifier: None,
        };
        let asked = Generator::new(&config).unwrap().conversation(&prompt);
        let refiner = Refiner::new(&RefinerConfig { prompt: "{{ critique }}\nAgain.".into() }).unwrap();
        let turns = refiner.conversation(&asked, " 8\n", "It is 7.");
        assert_eq!(turns[..2], asked);
        assert_eq!(turns[2], Turn::new(ChatRole::Assistant, " 8\n"));
        assert_eq!(turns[3], Turn::new(ChatRole::User, "It is 7.\nAgain."));
        assert_eq!(turns.len(), 4);
        assert!(refiner.sees_all(" 8\n"));
        let thoughtful = "<think>7?</think>8";
        assert!(!refiner.sees_all(thoughtful));
        let turns = refiner.conversation(&asked, thoughtful, "<think>hm</think>It is 7.");
        assert_eq!((turns[2].content.as_str(), turns[3].content.as_str()), ("8", "It is 7.\nAgain."));
    }
}
