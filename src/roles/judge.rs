//! The judge: says which of a response and its refinement is better, or which of two critiques.
//!
//! A judge that is a model prefers a position as well as a text, so each pair is asked about in both orders.
//! The two answers stay two verdicts, one per order: a critique's utility is the mean over all valid ones,
//! which is the plain average of the orders. A judge that only looks at positions thus scores 0.5 exactly, and
//! one order's tie beside the other's win scores 0.75. Where it is the log-probabilities that are read, what a place is
//! worth can be taken out beforehand, and a weak judge's slight preference shows.
//!
//! Invariant: a verdict counts only beside the other order's. One order alone would carry the whole bias, so
//! where one has no answer the other is set aside too.

use super::parse_choice::read;
use super::{Error, Template, complaints_with, first, initial_turns};
use crate::types::{Choice, Invalid, Prompt, Turn, Verdict};
pub use criteria::Criteria;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

mod criteria;

const KEY: &str = "judge.prompt";
const VARIABLES: &[&str] = &["prompt", "first", "second"];
const CRITIQUES_KEY: &str = "judge.critiques_prompt";
const CRITIQUES_VARIABLES: &[&str] = &["prompt", "response", "first", "second"];
/// What a template may show besides.
const OPTIONAL: &[&str] = &["criteria"];

/// Words that the answers begin with, as the default templates ask for them.
pub const ANSWERS: [(Choice, &[&str]); 3] =
    [(Choice::A, &["A"]), (Choice::B, &["B"]), (Choice::Tie, &["tie", "Tie", "TIE"])];
/// Least probability of all answers together. A judge that gives them less was about to say something else, and
/// which of them is the likeliest says little.
const MASS_MIN: f64 = 0.01;

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgeKind {
    /// A checker, by the prompt's own answer.
    Verifier,
    /// A model, in both orders.
    Model,
    /// A model on a server elsewhere, in both orders.
    Remote,
}

/// How a model's verdict is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictMethod {
    /// It writes, and its words are read.
    Text,
    /// Nothing is written: the likeliest of A, B and tie as the next token.
    Logprob,
    /// The same, less what a place is worth to the judge, which both orders tell together.
    Balanced,
}

/// What an order came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredChoice {
    /// The likeliest answer.
    pub read: Choice,
    /// By how much A is likelier than B as the first token (nats); infinite where one of them cannot be, 0 where words were
    /// read.
    pub odds: f64,
}

/// What the judge is shown, and how its answer is found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeConfig {
    /// Who judges refinements; the rest matters to a model only.
    pub kind: JudgeKind,
    /// A model of its own, named as `model.source` is; empty for the base model.
    pub model: String,
    /// Memory of that model's KV cache, in MiB.
    pub kv_cache_mib: usize,
    /// How its verdict is found.
    pub read: VerdictMethod,
    /// Texts sampled for each order; the most frequent verdict is the order's.
    pub votes: usize,
    /// Whether critiques are compared with each other too, for DPCO. A verifier cannot: beside it a local model does.
    pub critique_preferences: bool,
    /// Instructions above the conversation, as they are; empty for none.
    pub system: String,
    /// Whether code may be run where the machine does not isolate it.
    pub allow_unsandboxed: bool,
    /// Template of the user's turn, over `prompt`, `first` (answer A) and `second` (answer B); it may show
    /// `criteria`.
    pub prompt: String,
    /// Template of the user's turn that compares critiques, over `prompt`, `response`, `first` (critique A) and
    /// `second` (critique B); it may show `criteria`.
    pub critiques_prompt: String,
    /// What makes an answer good, by task.
    pub criteria: Criteria,
}

impl JudgeConfig {
    /// Whether refinements are judged by a model.
    pub fn uses_model(&self) -> bool {
        self.kind != JudgeKind::Verifier
    }

    /// Whether a local model is asked anything: for verdicts, or beside a verifier for preferences between critiques.
    pub fn uses_local_model(&self) -> bool {
        match self.kind {
            JudgeKind::Verifier => self.critique_preferences,
            JudgeKind::Model => true,
            JudgeKind::Remote => false,
        }
    }

    /// What is wrong with these values, all at once. `temperature` is the one it samples with.
    pub fn complaints(&self, temperature: f32) -> Vec<String> {
        let mut complaints = complaints_with(KEY, &self.prompt, VARIABLES, OPTIONAL);
        complaints.extend(complaints_with(CRITIQUES_KEY, &self.critiques_prompt, CRITIQUES_VARIABLES, OPTIONAL));
        if self.votes < 1 {
            complaints.push(format!("judge.votes: expected at least 1, got {}", self.votes));
        }
        let votes = "judge.votes: expected 1";
        if self.votes > 1 && self.read != VerdictMethod::Text {
            complaints.push(format!("{votes} where log-probabilities are read, got {}", self.votes));
        } else if self.votes > 1 && temperature == 0.0 {
            complaints.push(format!("{votes} where judge.sampling.temperature is 0, got {}", self.votes));
        }
        if self.kv_cache_mib < 1 {
            complaints.push(format!("judge.kv_cache_mib: expected at least 1, got {}", self.kv_cache_mib));
        }
        complaints
    }
}

/// Up to so many critiques are all compared with each other; more would cost more questions than their refinements.
const ALL_PAIRS_MAX: usize = 8;

/// Which of `n` critiques are compared: every pair of up to eight, each with the next in a ring of more.
pub fn critique_pairs(n: usize) -> Vec<(usize, usize)> {
    match n {
        0..=ALL_PAIRS_MAX => (0..n).flat_map(|one| (one + 1..n).map(move |other| (one, other))).collect(),
        _ => (0..n).map(|one| (one, (one + 1) % n)).collect(),
    }
}

/// The judge's role.
#[derive(Debug)]
pub struct Judge {
    system: String,
    template: Template,
    critiques: Template,
    criteria: Criteria,
    /// How its verdict is found.
    pub method: VerdictMethod,
    /// Texts sampled for each order.
    pub votes: usize,
}

impl Judge {
    /// The role that `config` describes.
    pub fn new(config: &JudgeConfig) -> Result<Self, Error> {
        let parse = |key, source, variables| Template::parse_with(key, source, variables, OPTIONAL).map_err(first);
        Ok(Self {
            system: config.system.clone(),
            template: parse(KEY, &config.prompt, VARIABLES)?,
            critiques: parse(CRITIQUES_KEY, &config.critiques_prompt, CRITIQUES_VARIABLES)?,
            criteria: config.criteria.clone(),
            method: config.read,
            votes: config.votes,
        })
    }

    /// The conversation that asks about one order: `first` is called A and `second` B.
    ///
    /// The forward order puts the response first, the backward order the refinement.
    pub fn conversation(&self, prompt: &Prompt, first: &str, second: &str) -> Vec<Turn> {
        let values = [&prompt.text, first, second, self.criteria.of(&prompt.task)];
        initial_turns(&self.system, self.template.render(&values))
    }

    /// The conversation that asks which critique of `response` is better: `first` is called A and `second` B.
    pub fn critiques_conversation(&self, prompt: &Prompt, response: &str, first: &str, second: &str) -> Vec<Turn> {
        let values = [&prompt.text, response, first, second, &self.criteria.critique];
        initial_turns(&self.system, self.critiques.render(&values))
    }

    /// What the judge's text says; none where it says nothing, or two things.
    pub fn read(text: &str) -> Option<Choice> {
        read(text)
    }

    /// What most of the votes say, those that say nothing left out; a draw of the foremost is a tie.
    pub fn plurality(votes: impl IntoIterator<Item = Option<Choice>>) -> Option<Choice> {
        let (mut a, mut b, mut tie) = (0u32, 0u32, 0u32);
        for vote in votes.into_iter().flatten() {
            *match vote {
                Choice::A => &mut a,
                Choice::B => &mut b,
                Choice::Tie => &mut tie,
            } += 1;
        }
        let most = a.max(b).max(tie);
        match (a == most, b == most) {
            _ if most == 0 => None,
            (true, false) if tie < most => Some(Choice::A),
            (false, true) if tie < most => Some(Choice::B),
            _ => Some(Choice::Tie),
        }
    }

    /// The likeliest answer by the log-probabilities (nats) of the tokens that begin one, summed over the ways to
    /// say it; A and B exactly alike are a tie. None where all answers together are next to impossible.
    pub fn choice_from_log_probs(tokens: impl IntoIterator<Item = (Choice, f64)>) -> Option<ScoredChoice> {
        let (mut a, mut b, mut tie) = (0.0, 0.0, 0.0);
        for (answer, log_prob) in tokens {
            *match answer {
                Choice::A => &mut a,
                Choice::B => &mut b,
                Choice::Tie => &mut tie,
            } += log_prob.exp();
        }
        let read = match () {
            () if a > b && a > tie => Choice::A,
            () if b > a && b > tie => Choice::B,
            () => Choice::Tie,
        };
        (a + b + tie >= MASS_MIN).then(|| ScoredChoice { read, odds: a.ln() - b.ln() })
    }

    /// What both orders say of a pair less what a place is worth to the judge: balanced position calibration (arXiv
    /// 2305.17926) of the log-odds. With `odds = quality + bias` forward and `-quality + bias` backward the sign of their
    /// difference is that of the quality, however large the bias. A tie where both orders say so, or nothing differs.
    pub fn calibrate([forward, backward]: [ScoredChoice; 2]) -> [Choice; 2] {
        if [forward.read, backward.read] == [Choice::Tie; 2] {
            return [Choice::Tie; 2];
        }
        match forward.odds.partial_cmp(&backward.odds) {
            Some(Ordering::Greater) => [Choice::A, Choice::B],
            Some(Ordering::Less) => [Choice::B, Choice::A],
            _ => [Choice::Tie; 2],
        }
    }

    /// The answer that a text of one token begins, where it begins one; white space before it does not count.
    pub fn choice_begun_by(token: &str) -> Option<Choice> {
        let token = token.trim();
        ANSWERS
            .iter()
            .find(|(_, words)| !token.is_empty() && words.iter().any(|word| word.starts_with(token)))
            .map(|(read, _)| *read)
    }

    /// The verdicts of the forward order (the response was A) and of the backward order (it was B). Where one is
    /// invalid, the other is so too.
    pub fn verdicts(forward: Result<Choice, Invalid>, backward: Result<Choice, Invalid>) -> [Verdict; 2] {
        let refinement_first = |answer| match answer {
            Choice::A => Verdict::Win,
            Choice::Tie => Verdict::Tie,
            Choice::B => Verdict::Loss,
        };
        match (forward, backward) {
            (Ok(forward), Ok(backward)) => [refinement_first(forward).swapped(), refinement_first(backward)],
            (forward, backward) => {
                [forward, backward].map(|order| Verdict::Invalid(order.err().unwrap_or(Invalid::Unpaired)))
            }
        }
    }

    /// Which of two critiques is preferred: that which both orders prefer. `forward` asked with the first as A,
    /// `backward` with the second as A. True for the first.
    pub fn preferred(forward: Result<Choice, Invalid>, backward: Result<Choice, Invalid>) -> Option<bool> {
        match (forward, backward) {
            (Ok(Choice::A), Ok(Choice::B)) => Some(true),
            (Ok(Choice::B), Ok(Choice::A)) => Some(false),
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
