//! The critic: says what is wrong with a response.

use super::{Error, Reasoning, Template, complaints, first, initial_turns};
use crate::types::{Prompt, Turn};
use serde::{Deserialize, Serialize};

const KEY: &str = "critic.prompt";
const VARIABLES: &[&str] = &["prompt", "response"];

/// The critic's system text and template.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CriticConfig {
    /// System text, used as it is; empty for none.
    pub system: String,
    /// Template of the user's turn, over `prompt` and `response`.
    pub prompt: String,
}

impl CriticConfig {
    /// Complaints about these values, all at once.
    pub fn complaints(&self) -> Vec<String> {
        complaints(KEY, &self.prompt, VARIABLES)
    }
}

/// The critic's role.
#[derive(Debug)]
pub struct Critic {
    system: String,
    template: Template,
    reasoning: Reasoning,
}

impl Critic {
    /// The role that `config` describes.
    pub fn new(config: &CriticConfig) -> Result<Self, Error> {
        let template = Template::parse(KEY, &config.prompt, VARIABLES).map_err(first)?;
        Ok(Self { system: config.system.clone(), template, reasoning: Reasoning::default() })
    }

    /// The same role, to which thoughts are shown or not.
    pub fn with_reasoning(self, reasoning: Reasoning) -> Self {
        Self { reasoning, ..self }
    }

    /// The conversation that every critique of `response` continues.
    pub fn conversation(&self, prompt: &Prompt, response: &str) -> Vec<Turn> {
        initial_turns(&self.system, self.template.render(&[&prompt.text, self.reasoning.shown(response)]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::ChatRole;

    #[test]
    fn the_critic_sees_the_prompt_and_the_response() {
        let config = CriticConfig { system: "be strict".into(), prompt: "Q: {{ prompt }} A: {{ response }}".into() };
        let prompt = Prompt {
            id: "p".into(),
            task: "t".into(),
            text: "3 + 4?".into(),
            turns: Vec::new(),
            answer: Some("7".into()),
            verifier: None,
        };
        let turns = Critic::new(&config).unwrap().conversation(&prompt, "8");
        let expected = [Turn::new(ChatRole::System, "be strict"), Turn::new(ChatRole::User, "Q: 3 + 4? A: 8")];
        assert_eq!(turns, expected);
    }

    #[test]
    fn thoughts_are_shown_to_the_critic_if_they_are_kept() {
        let config = CriticConfig { system: String::new(), prompt: "{{ prompt }}: {{ response }}".into() };
        let prompt =
            Prompt { id: "p".into(), task: "t".into(), text: "?".into(), turns: vec![], answer: None, verifier: None };
        let content = |reasoning| {
            let critic = Critic::new(&config).unwrap().with_reasoning(reasoning);
            critic.conversation(&prompt, "<think>7?</think>8")[0].content.clone()
        };
        assert_eq!(content(Reasoning::Strip), "?: 8");
        assert_eq!(content(Reasoning::Keep), "?: <think>7?</think>8");
    }

    #[test]
    fn the_answer_cannot_reach_the_critic() {
        let config = CriticConfig { system: String::new(), prompt: "{{ prompt }}{{ response }}{{ answer }}".into() };
        assert_eq!(config.complaints(), ["critic.prompt: expected no variables but prompt, response, got `answer`"]);
        assert_eq!(Critic::new(&config).unwrap_err().to_string(), config.complaints()[0]);
    }
}
