//! Comparison of critics on held-out prompts: the records of what was generated, and the figures over them.
//!
//! A [`Record`] is one prompt with the results of every critic; [`figures`] computes shares and intervals over many. Pure:
//! knows no model, no clock and no file. `episode` generates the texts.
//!
//! Invariants: all critics of a record criticise the same response; figures follow from the records and a seed alone, so
//! they can be recomputed from saved records.

use crate::types::{Verdict, utility};
use serde::{Deserialize, Serialize};

pub mod bootstrap;
pub mod figures;
pub mod plot;
pub mod stance;
pub mod summary;
pub mod table;

/// The template variable of the oracle's critique.
const ANSWER: &str = "{{ answer }}";

/// Evaluation: the critics that are not models, and the online evaluation during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// Held-out prompts, named like `prompts.file`; empty for the held-out twin of `prompts.file`.
    pub file: String,
    /// During `start`, evaluates the served critic before the first learner step and then every N steps; 0: never.
    pub every_steps: u64,
    /// Number of prompts of that evaluation: the first of the file.
    pub prompts: usize,
    /// N: critiques of a response.
    pub critiques: usize,
    /// M: refinements of a critique.
    pub refinements: usize,
    /// The critique that the critic `empty` gives to every response.
    pub empty_critique: String,
    /// The prompt of the critic `self`, as the next turn of the generator's conversation.
    pub self_prompt: String,
    /// The critique of the critic `oracle`; `{{ answer }}` is the prompt's known answer.
    pub oracle_critique: String,
}

impl EvalConfig {
    /// Complaints about these values, all at once.
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

    /// The oracle's critique for the correct `answer`.
    pub fn oracle(&self, answer: &str) -> String {
        self.oracle_critique.replace(ANSWER, answer)
    }
}

/// The held-out twin of a bundled prompt file: `bundled:NAME-train` has `bundled:NAME-heldout`.
pub fn held_out_twin(file: &str) -> Option<String> {
    let name = file.strip_prefix("bundled:")?.strip_suffix("-train")?;
    Some(format!("bundled:{name}-heldout"))
}

/// A response or a refinement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoredText {
    /// The text.
    pub text: String,
    /// Its length in tokens.
    pub tokens: usize,
    /// Its score by the prompt's verifier, in `[0, 1]`; `None` if the prompt has no verifier or the check failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
}

impl ScoredText {
    /// Whether it is fully correct; `None` if unknown.
    pub fn is_right(&self) -> Option<bool> {
        self.score.map(|score| score >= 1.0)
    }
}

/// One critique and its refinements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CritiqueOutcome {
    /// Round of iterative refinement, from 1.
    pub round: usize,
    /// Index of the critique among the N of the first round, or of the one it follows; from 0.
    pub chain: usize,
    /// The critique's text.
    pub critique: String,
    /// Its length in tokens.
    pub tokens: usize,
    /// The criticised text, if it is a refinement of the previous round and not the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<ScoredText>,
    /// Its M refinements.
    pub refinements: Vec<ScoredText>,
    /// Verdicts of each refinement against the record's response; two per refinement, by order, from a judge asked in both.
    pub verdicts: Vec<Verdict>,
}

impl CritiqueOutcome {
    /// Critique utility (RCO, arXiv 2506.22157, eq. 2), in `[0, 1]`; `None` without a valid verdict.
    pub fn utility(&self) -> Option<f32> {
        utility(&self.verdicts)
    }
}

/// All critiques of one response by one critic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CriticRecord {
    /// The critic's name.
    pub critic: String,
    /// Its critiques by round and chain; failed ones are missing.
    pub attempts: Vec<CritiqueOutcome>,
}

/// One prompt with the results of every critic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The prompt's id.
    pub id: String,
    /// The prompt's task.
    pub task: String,
    /// The response that every critic criticised.
    pub response: ScoredText,
    /// The critics, in the requested order.
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
