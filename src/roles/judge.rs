//! The judge: says which of a response and its refinement is better.
//!
//! A judge that is a model prefers a position as well as a text, so each pair is asked about in both orders.
//! The two answers stay two verdicts, one per order: a critique's utility is the mean over all valid ones,
//! which is the plain average of the orders. A judge that only looks at positions thus scores 0.5 exactly,
//! one order's tie beside the other's win scores 0.75, and an order that cannot be read leaves the other.

use super::reading::{Read, read};
use super::{Error, Template, complaints, first, opening};
use crate::episode::{Invalid, Prompt, Turn, Verdict};
use serde::{Deserialize, Serialize};

const KEY: &str = "judge.prompt";
const VARIABLES: &[&str] = &["prompt", "first", "second"];

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgeKind {
    /// A checker, by the prompt's own answer.
    Verifier,
    /// A model, in both orders.
    Model,
}

/// What the judge is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeConfig {
    /// Who judges; the rest matters to a model only.
    pub kind: JudgeKind,
    /// Instructions above the conversation, as they are; empty for none.
    pub system: String,
    /// Whether code may be run where the machine does not isolate it.
    pub allow_unsandboxed: bool,
    /// Template of the user's turn, over `prompt`, `first` (answer A) and `second` (answer B).
    pub prompt: String,
}

impl JudgeConfig {
    /// What is wrong with these values, all at once.
    pub fn complaints(&self) -> Vec<String> {
        complaints(KEY, &self.prompt, VARIABLES)
    }
}

/// The judge's role.
#[derive(Debug)]
pub struct Judge {
    system: String,
    template: Template,
}

impl Judge {
    /// The role that `config` describes.
    pub fn new(config: &JudgeConfig) -> Result<Self, Error> {
        let template = Template::parse(KEY, &config.prompt, VARIABLES).map_err(first)?;
        Ok(Self { system: config.system.clone(), template })
    }

    /// The conversation that asks about one order: `first` is called A and `second` B.
    ///
    /// The forward order puts the response first, the backward order the refinement.
    pub fn conversation(&self, prompt: &Prompt, first: &str, second: &str) -> Vec<Turn> {
        opening(&self.system, self.template.render(&[&prompt.text, first, second]))
    }

    /// What the judge's text says; none where it says nothing, or two things.
    pub fn read(text: &str) -> Option<Read> {
        read(text)
    }

    /// The verdicts of the forward order (the response was A) and of the backward order (it was B).
    pub fn verdicts(forward: Option<Read>, backward: Option<Read>) -> [Verdict; 2] {
        let refinement_first = |answer| match answer {
            Some(Read::A) => Verdict::Win,
            Some(Read::Tie) => Verdict::Tie,
            Some(Read::B) => Verdict::Loss,
            None => Verdict::Invalid(Invalid::Unreadable),
        };
        [refinement_first(forward).swapped(), refinement_first(backward)]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::episode::utility;
    use proptest::prelude::*;

    fn answer() -> impl Strategy<Value = Option<Read>> {
        prop_oneof![Just(Some(Read::A)), Just(Some(Read::B)), Just(Some(Read::Tie)), Just(None)]
    }

    fn other_side(answer: Option<Read>) -> Option<Read> {
        answer.map(|answer| match answer {
            Read::A => Read::B,
            Read::B => Read::A,
            Read::Tie => Read::Tie,
        })
    }

    #[test]
    fn the_judge_sees_both_texts_in_the_order_asked() {
        let config = JudgeConfig {
            kind: JudgeKind::Model,
            system: String::new(),
            allow_unsandboxed: false,
            prompt: "{{ prompt }}: A {{ first }}, B {{ second }}".into(),
        };
        assert!(config.complaints().is_empty());
        let prompt = Prompt { id: "p".into(), task: "t".into(), text: "3 + 4?".into(), answer: None, verifier: None };
        let turns = Judge::new(&config).unwrap().conversation(&prompt, "8", "7");
        assert_eq!(turns[0].content, "3 + 4?: A 8, B 7");
    }

    #[test]
    fn the_refinement_wins_as_b_forward_and_as_a_backward() {
        assert_eq!(Judge::verdicts(Some(Read::B), Some(Read::A)), [Verdict::Win; 2]);
        assert_eq!(Judge::verdicts(Some(Read::A), Some(Read::B)), [Verdict::Loss; 2]);
        assert_eq!(Judge::verdicts(Some(Read::Tie), None), [Verdict::Tie, Verdict::Invalid(Invalid::Unreadable)]);
        assert_eq!(utility(&Judge::verdicts(Some(Read::Tie), Some(Read::A))), Some(0.75));
    }

    #[test]
    fn a_judge_that_only_looks_at_positions_scores_one_half() {
        for position in [Read::A, Read::B, Read::Tie] {
            assert_eq!(utility(&Judge::verdicts(Some(position), Some(position))), Some(0.5));
        }
    }

    proptest! {
        /// A judge is what it says of (response, refinement) and of (refinement, response), whatever its bias.
        #[test]
        fn swapping_positions_leaves_the_utility_unchanged(forward in answer(), backward in answer()) {
            let straight = utility(&Judge::verdicts(forward, backward));
            // The same judge behind a screen that exchanges the positions and the names of the texts.
            let screened = utility(&Judge::verdicts(other_side(backward), other_side(forward)));
            prop_assert_eq!(straight, screened);
            // With response and refinement exchanged the utility is mirrored.
            let exchanged = utility(&Judge::verdicts(backward, forward));
            prop_assert_eq!(straight.map(|utility| 1.0 - utility), exchanged);
        }

        /// Quality decides by more than the bias; the bias pulls towards a position.
        #[test]
        fn a_bias_of_any_size_never_turns_the_preference(better in -3i32..4, bias in -5i32..6) {
            let says = |first: i32, second: i32| Some(match (first + bias).cmp(&second) {
                std::cmp::Ordering::Greater => Read::A,
                std::cmp::Ordering::Equal => Read::Tie,
                std::cmp::Ordering::Less => Read::B,
            });
            let score = utility(&Judge::verdicts(says(0, better), says(better, 0))).unwrap();
            match better.cmp(&0) {
                std::cmp::Ordering::Greater => prop_assert!(score >= 0.5),
                std::cmp::Ordering::Equal => prop_assert_eq!(score, 0.5),
                std::cmp::Ordering::Less => prop_assert!(score <= 0.5),
            }
        }
    }
}
