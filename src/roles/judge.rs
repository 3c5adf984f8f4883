//! The judge: says whether a response or its refinement is better, or which of two critiques.
//!
//! A model judge also prefers a position, so each pair is judged in both orders. The two answers stay two verdicts, and a
//! critique's utility is the mean over all valid ones: the plain average of both orders. A judge that looks only at
//! positions scores 0.5 exactly; a tie in one order and a win in the other score 0.75. When verdicts come from
//! log-probabilities, the position bias can be subtracted first, so that a weak judge's slight preference shows.
//!
//! Invariant: if either order yields no verdict, both are invalid. One order alone would carry the whole position bias.

use super::parse_choice::read;
use super::{Error, Reasoning, Template, complaints_with, first, initial_turns};
use crate::types::{Choice, FinishReason, Invalid, Prompt, Turn, Verdict};
pub use criteria::Criteria;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

mod criteria;

const KEY: &str = "judge.prompt";
const VARIABLES: &[&str] = &["prompt", "first", "second"];
const CRITIQUES_KEY: &str = "judge.critiques_prompt";
const CRITIQUES_VARIABLES: &[&str] = &["prompt", "response", "first", "second"];
/// Optional template variables.
const OPTIONAL: &[&str] = &["criteria"];

/// The words that an answer begins with, as the default templates ask for them.
pub const ANSWERS: [(Choice, &[&str]); 3] =
    [(Choice::A, &["A"]), (Choice::B, &["B"]), (Choice::Tie, &["tie", "Tie", "TIE"])];
/// Minimum probability of all answers together. With less, the judge was about to say something else, and the likeliest
/// answer means little.
const MASS_MIN: f64 = 0.01;

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgeKind {
    /// The prompt's verifier.
    Verifier,
    /// A local model, in both orders.
    Model,
    /// A model on a remote server, in both orders.
    Remote,
}

/// How a model's verdict is obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictMethod {
    /// From the text that it generates.
    Text,
    /// From the log-probabilities of A, B and tie as the next token; no text is generated.
    Logprob,
    /// The same, with the position bias subtracted, which both orders together reveal.
    Balanced,
}

/// The result of one order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredChoice {
    /// The likeliest answer.
    pub read: Choice,
    /// Log-odds of A over B as the first token (nats); infinite if one has probability 0, and 0 if the verdict comes from
    /// text.
    pub odds: f64,
}

/// The judge's templates, and how its verdict is obtained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeConfig {
    /// Who judges refinements. The other keys apply to models only.
    pub kind: JudgeKind,
    /// The judge's model, named like `model.source`; empty for the base model.
    pub model: String,
    /// KV cache size of that model, in MiB.
    pub kv_cache_mib: usize,
    /// How its verdict is obtained.
    pub read: VerdictMethod,
    /// Texts sampled per order; the most frequent verdict counts.
    pub votes: usize,
    /// Whether critiques are also compared with each other, for DPCO. With a verifier, a local model does this.
    pub critique_preferences: bool,
    /// System text, used as it is; empty for none.
    pub system: String,
    /// Whether code may run on a machine that cannot isolate it. Whatever does hold there stays, and a warning names the rest.
    pub allow_unsandboxed: bool,
    /// Template of the user's turn, over `prompt`, `first` (answer A) and `second` (answer B);
    /// `criteria` is optional.
    pub prompt: String,
    /// Template of the user's turn that compares critiques, over `prompt`, `response`, `first` (critique A) and
    /// `second` (critique B); `criteria` is optional.
    pub critiques_prompt: String,
    /// What makes an answer good, by task.
    pub criteria: Criteria,
}

impl JudgeConfig {
    /// Whether refinements are judged by a model.
    pub fn uses_model(&self) -> bool {
        self.kind != JudgeKind::Verifier
    }

    /// Whether a local model is used: for verdicts, or with a verifier for preferences between critiques.
    pub fn uses_local_model(&self) -> bool {
        match self.kind {
            JudgeKind::Verifier => self.critique_preferences,
            JudgeKind::Model => true,
            JudgeKind::Remote => false,
        }
    }

    /// Complaints about these values, all at once. `temperature` is the judge's sampling temperature.
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

/// Maximum number of critiques for comparing all pairs; beyond that, all pairs would cost more than the refinements.
const ALL_PAIRS_MAX: usize = 8;

/// The pairs of `n` critiques to compare: all pairs of up to eight, otherwise each with the next one in a ring.
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
    /// How its verdict is obtained.
    pub method: VerdictMethod,
    /// Texts sampled per order.
    pub votes: usize,
    reasoning: Reasoning,
}

impl Judge {
    /// The same role, to which thoughts are shown or not.
    pub fn with_reasoning(self, reasoning: Reasoning) -> Self {
        Self { reasoning, ..self }
    }

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
            reasoning: Reasoning::default(),
        })
    }

    /// The conversation that asks about one order: `first` is called A and `second` B.
    ///
    /// The forward order puts the response first, the backward order the refinement.
    pub fn conversation(&self, prompt: &Prompt, first: &str, second: &str) -> Vec<Turn> {
        let [first, second] = [first, second].map(|text| self.reasoning.shown(text));
        let values = [&prompt.text, first, second, self.criteria.of(&prompt.task)];
        initial_turns(&self.system, self.template.render(&values))
    }

    /// The conversation that asks which critique of `response` is better: `first` is called A and `second` B.
    pub fn critiques_conversation(&self, prompt: &Prompt, response: &str, first: &str, second: &str) -> Vec<Turn> {
        let [response, first, second] = [response, first, second].map(|text| self.reasoning.shown(text));
        let values = [&prompt.text, response, first, second, &self.criteria.critique];
        initial_turns(&self.system, self.critiques.render(&values))
    }

    /// Parses the judge's text; `None` if it contains no verdict, or two different ones, or was cut before its verdict.
    pub fn read(text: &str, finish: FinishReason) -> Option<Choice> {
        read(text, finish == FinishReason::Length)
    }

    /// The most frequent vote, ignoring empty ones; if two are equally frequent, a tie.
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

    /// The likeliest answer by the log-probabilities (nats) of the tokens that begin it, summed over its spellings. Equal A
    /// and B are a tie. `None` if all answers together are too unlikely.
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

    /// Subtracts the position bias: balanced position calibration (arXiv 2305.17926) of the log-odds. With
    /// `odds = quality + bias` forward and `-quality + bias` backward, the sign of their difference is the sign of the
    /// quality, however large the bias. A tie if both orders say tie or the odds are equal.
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

    /// The answer that a token begins, if any; surrounding white space is ignored.
    pub fn choice_of_first_token(token: &str) -> Option<Choice> {
        let token = token.trim();
        ANSWERS
            .iter()
            .find(|(_, words)| !token.is_empty() && words.iter().any(|word| word.starts_with(token)))
            .map(|(read, _)| *read)
    }

    /// The verdicts of the forward order (the response was A) and of the backward order (it was B). If either order yields
    /// no verdict, both are invalid.
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

    /// The critique that both orders prefer: true for the first, false for the second. The first was A in `forward`, the
    /// second in `backward`.
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
