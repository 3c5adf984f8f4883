//! The generator: answers a prompt. The refiner continues its conversation.

use super::{Error, Template, complaints, first, initial_turns};
use crate::types::{ChatRole, Prompt, Turn};
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
    ///
    /// A prompt of several turns keeps them: the template is for the last one, and a system text of its own takes the place of the
    /// config's.
    pub fn conversation(&self, prompt: &Prompt) -> Vec<Turn> {
        let Some((last, before)) = prompt.turns.split_last() else {
            return initial_turns(&self.system, self.template.render(&[&prompt.text]));
        };
        let mut turns = initial_turns(&self.system, self.template.render(&[&last.content]));
        let asked = turns.pop();
        if before.first().is_some_and(|turn| turn.role == ChatRole::System) {
            turns.clear();
        }
        turns.extend(before.iter().cloned().chain(asked));
        turns
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_keeps_its_turns_and_its_own_system_text() {
        let turn = |role, text: &str| Turn::new(role, text);
        let config = |system: &str| GeneratorConfig {
            kind: GeneratorKind::Local,
            system: system.to_owned(),
            prompt: "Q: {{ prompt }}".to_owned(),
        };
        let conversation = |turns: Vec<Turn>, system| {
            let prompt =
                Prompt { id: "p".into(), task: "t".into(), text: "alone".into(), turns, answer: None, verifier: None };
            Generator::new(&config(system)).unwrap().conversation(&prompt)
        };
        assert_eq!(conversation(vec![], ""), [turn(ChatRole::User, "Q: alone")]);
        let talk = [turn(ChatRole::User, "a"), turn(ChatRole::Assistant, "b"), turn(ChatRole::User, "c")];
        let asked = [turn(ChatRole::User, "a"), turn(ChatRole::Assistant, "b"), turn(ChatRole::User, "Q: c")];
        assert_eq!(conversation(talk.to_vec(), "general")[0], turn(ChatRole::System, "general"));
        assert_eq!(conversation(talk.to_vec(), "general")[1..], asked);
        let own = [vec![turn(ChatRole::System, "own")], talk.to_vec()].concat();
        assert_eq!(conversation(own, "general"), [vec![turn(ChatRole::System, "own")], asked.to_vec()].concat());
    }
}
