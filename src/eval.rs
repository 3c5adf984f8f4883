//! Held-out prompts through several critics side by side: what was written, and the figures over it.
//!
//! A [`Record`] is one prompt with everything that every critic's critiques came to; [`figures`] makes shares and
//! intervals of many. Pure: knows no model, no clock and no file; who writes the texts is the actors' business.
//!
//! Invariants: all critics of a record criticise the same response; figures follow from records and a seed alone,
//! so they can be made again from what was kept.

use crate::types::{Verdict, utility};
use serde::{Deserialize, Serialize};

pub mod bootstrap;
pub mod figures;
pub mod plot;
pub mod stance;
pub mod summary;
pub mod table;

/// The variable that an oracle's critique shows.
const ANSWER: &str = "{{ answer }}";

/// Evaluation: its critics that are no model of their own, and the small one during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// Held-out prompts, named as `prompts.file` is; empty for the held-out twin of `prompts.file`.
    pub file: String,
    /// The critic in service is examined during `start` whenever so many more learner steps are taken, and before the
    /// first; 0: never.
    pub every_steps: u64,
    /// Prompts of that exam, the first of the file.
    pub prompts: usize,
    /// N: critiques of a response.
    pub critiques: usize,
    /// M: refinements of a critique.
    pub refinements: usize,
    /// What the critic `empty` says of every response.
    pub empty_critique: String,
    /// What the critic `self` is asked, as the next turn of the generator's own conversation.
    pub self_prompt: String,
    /// What the critic `oracle` says; `{{ answer }}` is the prompt's known answer.
    pub oracle_critique: String,
}

impl EvalConfig {
    /// What is wrong with these values, all at once.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let sizes = [("prompts", self.prompts), ("critiques", self.critiques), ("refinements", self.refinements)];
        for (key, got) in sizes {
            if got < 1 {
                complaints.push(format!("eval.{key}: expected at least 1, got {got}"));
            }
        }
        for (key, text) in [("empty_critique", &self.empty_critique), ("self_prompt", &self.self_prompt)] {
            if text.trim().is_empty() {
                complaints.push(format!("eval.{key}: expected a text, got {text:?}"));
            }
        }
        if !self.oracle_critique.contains(ANSWER) {
            complaints.push(format!("eval.oracle_critique: expected {ANSWER} in it, got {:?}", self.oracle_critique));
        }
        complaints
    }

    /// What the oracle says where `answer` is known to be right.
    pub fn oracle(&self, answer: &str) -> String {
        self.oracle_critique.replace(ANSWER, answer)
    }
}

/// The held-out twin of a prompt file that comes with the node: `bundled:NAME-train` has `bundled:NAME-heldout`.
pub fn held_out_twin(file: &str) -> Option<String> {
    let name = file.strip_prefix("bundled:")?.strip_suffix("-train")?;
    Some(format!("bundled:{name}-heldout"))
}

/// A response or a refinement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoredText {
    /// What was written.
    pub text: String,
    /// Its length in tokens.
    pub tokens: usize,
    /// How right it is by the prompt's verifier, in `[0, 1]`; none where the prompt has none or the checker failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
}

impl ScoredText {
    /// Whether it is right in full; none where nobody knows.
    pub fn is_right(&self) -> Option<bool> {
        self.score.map(|score| score >= 1.0)
    }
}

/// One critique and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CritiqueOutcome {
    /// Of iterative refinement, from 1.
    pub round: usize,
    /// Which of the N critiques it is, or goes on from; from 0.
    pub chain: usize,
    /// What the critic said.
    pub critique: String,
    /// Its length in tokens.
    pub tokens: usize,
    /// What it criticises, where that is a refinement of the round before and not the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<ScoredText>,
    /// Its M refinements.
    pub refinements: Vec<ScoredText>,
    /// Each refinement beside the record's response; two a refinement, by order, from a judge that is asked in both.
    pub verdicts: Vec<Verdict>,
}

impl CritiqueOutcome {
    /// Critique utility (RCO, arXiv 2506.22157, eq. 2), in `[0, 1]`; none without a valid verdict.
    pub fn utility(&self) -> Option<f32> {
        utility(&self.verdicts)
    }
}

/// All that one critic said of one response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CriticRecord {
    /// The critic's name.
    pub critic: String,
    /// Its critiques by round and chain; those of which nothing came are missing.
    pub attempts: Vec<CritiqueOutcome>,
}

/// One prompt through every critic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The prompt's id.
    pub id: String,
    /// The prompt's task.
    pub task: String,
    /// What every critic criticised.
    pub response: ScoredText,
    /// By critic, in the order asked for.
    pub critics: Vec<CriticRecord>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_training_file_has_a_held_out_twin() {
        assert_eq!(held_out_twin("bundled:qa-train").as_deref(), Some("bundled:qa-heldout"));
        for file in ["bundled:humaneval", "bundled:qa-heldout", "mine-train", "bundled:-training"] {
            assert_eq!(held_out_twin(file), None, "{file}");
        }
    }

    #[test]
    fn an_oracle_that_does_not_show_the_answer_is_refused() {
        let config = EvalConfig {
            file: String::new(),
            every_steps: 0,
            prompts: 1,
            critiques: 0,
            refinements: 1,
            empty_critique: " ".into(),
            self_prompt: "Is it right?".into(),
            oracle_critique: "It is {{answer}}.".into(),
        };
        let complaints = config.complaints();
        assert_eq!(complaints.len(), 3, "{complaints:?}");
        for (complaint, key) in complaints.iter().zip(["eval.critiques", "eval.empty_critique", "eval.oracle_critique"])
        {
            assert!(complaint.starts_with(key), "{complaint}");
        }
        let config = EvalConfig { oracle_critique: "It is {{ answer }}.".into(), ..config };
        assert_eq!(config.oracle("7"), "It is 7.");
    }
}
