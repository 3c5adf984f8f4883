//! A model as judge. It sees every pair in both orders; its choice is parsed from the text it writes, or computed from
//! the log-probabilities of the first tokens of its possible answers.
//!
//! Knows no verifier and no episode. Invariants: each order is judged exactly once; an order without a choice carries
//! the reason; errors that would fail every episode alike are returned as errors.

use crate::episode::judge::{JudgeRequest, PreferenceRequest};
use crate::episode::sampling::{RenderedPrompt, SampleError, SamplingClient};
use crate::episode::seed::mix;
use crate::formats;
use crate::formats::{template::ChatTemplate, tokenizer::Tokenizer};
use crate::roles::judge::{ANSWERS, Judge, ScoredChoice, VerdictMethod, critique_pairs};
use crate::run::events::Event;
use crate::types::{Choice, Invalid, Label, Preference, Prompt, Turn, Verdict};
use std::sync::Arc;
use tokio::task::JoinSet;

/// The choice in one order, or why there is none.
type OrderChoice = Result<Choice, Invalid>;
/// The same, with the log-odds of the choice.
type OrderScored = Result<ScoredChoice, Invalid>;

/// A model that judges.
pub struct ModelJudge {
    role: Judge,
    /// The first tokens of the possible answers; empty if the choice is parsed from text.
    tokens: Vec<(Choice, u32)>,
}

impl ModelJudge {
    /// A judge that is a local model with this template and tokenizer.
    ///
    /// # Errors
    /// If log-probabilities are used and A, B and tie do not begin with distinct tokens.
    pub fn new(role: Judge, template: &ChatTemplate, tokenizer: &Tokenizer) -> formats::Result<Self> {
        let tokens = match role.method {
            VerdictMethod::Text => Vec::new(),
            VerdictMethod::Logprob | VerdictMethod::Balanced => first_tokens(&role, template, tokenizer)?,
        };
        Ok(Self { role, tokens })
    }

    /// A judge that is a model on a remote server. The server returns tokens as texts, so no token ids are needed.
    pub fn remote(role: Judge) -> Self {
        Self { role, tokens: Vec::new() }
    }

    /// The conversations that ask for a comparison of two texts, in both orders.
    pub(crate) fn orders(&self, prompt: &Prompt, one: &str, other: &str) -> [Vec<Turn>; 2] {
        [[one, other], [other, one]].map(|[first, second]| self.role.conversation(prompt, first, second))
    }

    /// Two verdicts per refinement, one per order, in the order of the refinements.
    pub(crate) async fn compare(
        self: &Arc<Self>,
        sampler: &SamplingClient,
        request: &JudgeRequest,
        seed: u64,
    ) -> Result<Vec<Verdict>, SampleError> {
        let (prompt, response) = (&request.context.prompt, &request.context.response.text);
        let pairs = request.refinements.iter().map(|refinement| self.orders(prompt, response, &refinement.text));
        let choices = self.ask_all(sampler, pairs.collect(), seed).await?;
        Ok(choices.into_iter().flat_map(|[forward, backward]| Judge::verdicts(forward, backward)).collect())
    }

    /// Preferences between critiques, for the pairs on which both orders agree.
    pub(crate) async fn prefer(
        self: &Arc<Self>,
        sampler: &SamplingClient,
        request: &PreferenceRequest,
        seed: u64,
    ) -> Result<Vec<Preference>, SampleError> {
        let PreferenceRequest { context, critiques } = request;
        let orders = |first: usize, second: usize| {
            let [first, second] = [&critiques[first].text, &critiques[second].text];
            self.role.critiques_conversation(&context.prompt, &context.response.text, first, second)
        };
        let pairs = critique_pairs(critiques.len());
        let conversations = pairs.iter().map(|&(one, other)| [orders(one, other), orders(other, one)]).collect();
        let choices = self.ask_all(sampler, conversations, seed).await?;
        let preferred = |(&(one, other), [forward, backward]): (&(usize, usize), [OrderChoice; 2])| {
            let is_first = Judge::preferred(forward, backward)?;
            let (chosen, rejected) = if is_first { (one, other) } else { (other, one) };
            Some(Preference { chosen, rejected })
        };
        Ok(pairs.iter().zip(choices).filter_map(preferred).collect())
    }

    /// The choices in both orders of every pair, all requested at once.
    async fn ask_all(
        self: &Arc<Self>,
        sampler: &SamplingClient,
        pairs: Vec<[Vec<Turn>; 2]>,
        seed: u64,
    ) -> Result<Vec<[OrderChoice; 2]>, SampleError> {
        let mut choices = vec![[Err(Invalid::Deadline); 2]; pairs.len()];
        let mut running = JoinSet::new();
        for (index, [forward, backward]) in pairs.into_iter().enumerate() {
            let (judge, sampler) = (self.clone(), sampler.clone());
            let seeds = [0, 1].map(|order| mix(seed, 2 * index as u64 + order));
            running.spawn(async move {
                let orders =
                    tokio::join!(judge.ask(&sampler, forward, seeds[0]), judge.ask(&sampler, backward, seeds[1]));
                (index, orders)
            });
        }
        while let Some(joined) = running.join_next().await {
            let (index, (forward, backward)) = joined.map_err(|error| SampleError::Broken(error.to_string()))?;
            let orders = [forward?, backward?];
            // The metrics show the judge's position bias, so they get the choices before calibration.
            let heard = orders.map(|order| order.map(|scored| scored.read));
            choices[index] = heard;
            if let (VerdictMethod::Balanced, [Ok(forward), Ok(backward)]) = (self.role.method, orders) {
                choices[index] = Judge::calibrate([forward, backward]).map(Ok);
            }
            sampler.events.emit(Event::PairJudged { heard, counted: choices[index] });
        }
        Ok(choices)
    }

    /// The choice in one order. An error of this request alone makes the choice invalid.
    async fn ask(&self, sampler: &SamplingClient, turns: Vec<Turn>, seed: u64) -> Result<OrderScored, SampleError> {
        let chosen = match sampler.render(turns).await {
            Ok(rendered) => self.choose(sampler, rendered, seed).await,
            Err(error) => Err(error),
        };
        match chosen {
            Ok(choice) => Ok(choice.ok_or(Invalid::Unreadable)),
            Err(SampleError::Deadline) => Ok(Err(Invalid::Deadline)),
            Err(SampleError::TooLong) => Ok(Err(Invalid::TooLong)),
            Err(SampleError::Refused(why)) => {
                tracing::debug!(role = sampler.role.value(), why, "a text was refused");
                Ok(Err(Invalid::Refused))
            }
            Err(SampleError::Remote(_)) => Ok(Err(Invalid::Remote)),
            Err(error) => Err(error),
        }
    }

    /// The choice in one order; none if it cannot be read.
    async fn choose(
        &self,
        sampler: &SamplingClient,
        rendered: RenderedPrompt,
        seed: u64,
    ) -> Result<Option<ScoredChoice>, SampleError> {
        match self.role.method {
            VerdictMethod::Text => {
                let votes = sampler.write(&rendered, self.role.votes, seed).await?;
                let read = Judge::plurality(votes.iter().map(|vote| Judge::read(&vote.text, vote.finish)));
                Ok(read.map(|read| ScoredChoice { read, odds: 0.0 }))
            }
            VerdictMethod::Logprob | VerdictMethod::Balanced => {
                if let Some(tokens) = sampler.first_tokens(&rendered, seed).await? {
                    let answers = tokens
                        .iter()
                        .filter_map(|(token, log_prob)| Some((Judge::choice_of_first_token(token)?, *log_prob)));
                    return Ok(Judge::choice_from_log_probs(answers));
                }
                let ids = self.tokens.iter().map(|(_, id)| *id).collect();
                let log_probs = sampler.score_candidates(rendered.ids, ids).await?;
                let answers = self.tokens.iter().map(|(read, _)| *read);
                Ok(Judge::choice_from_log_probs(answers.zip(log_probs.into_iter().map(f64::from))))
            }
        }
    }
}

/// The first tokens of the judge's possible answers at the start of the assistant's turn: one for each spelling of an
/// answer that begins with a new token there.
fn first_tokens(role: &Judge, template: &ChatTemplate, tokenizer: &Tokenizer) -> formats::Result<Vec<(Choice, u32)>> {
    let prompt = Prompt {
        id: String::new(),
        task: String::new(),
        text: "1 + 1?".to_owned(),
        turns: Vec::new(),
        answer: None,
        verifier: None,
    };
    let text = template.render(&role.conversation(&prompt, "2", "3"), true)?;
    let before = tokenizer.encode(&text)?;
    let mut tokens: Vec<(Choice, u32)> = Vec::new();
    for (read, word) in ANSWERS.iter().flat_map(|(read, words)| words.iter().map(|word| (*read, word))) {
        let ids = tokenizer.encode(&format!("{text}{word}"))?;
        let Some(&id) = ids.strip_prefix(&before[..]).and_then(<[u32]>::first) else { continue };
        match tokens.iter().find(|(_, known)| *known == id) {
            Some((known, _)) if *known == read => {}
            Some((known, _)) => return Err(no_first_token(&format!("token {id} for both {known:?} and {read:?}"))),
            None => tokens.push((read, id)),
        }
    }
    let missing = ANSWERS.iter().find(|(read, _)| !tokens.iter().any(|(known, _)| known == read));
    match missing {
        Some((read, _)) => Err(no_first_token(&format!("none for {read:?}"))),
        None => Ok(tokens),
    }
}

fn no_first_token(got: &str) -> formats::Error {
    let expected = "expected \"text\", or a model in which A, B and tie begin with tokens of their own";
    formats::Error::Tokenizer(format!("judge.read: {expected}, got {got}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::roles::judge::JudgeConfig;
    use std::path::Path;

    fn role(read: VerdictMethod) -> Judge {
        #[derive(serde::Deserialize)]
        struct Config {
            judge: JudgeConfig,
        }
        let config: Config = toml::from_str(include_str!("../../../configs/quickstart.toml")).unwrap();
        Judge::new(&JudgeConfig { read, ..config.judge }).unwrap()
    }

    #[test]
    fn answers_are_scored_by_their_first_tokens_at_the_start_of_the_assistants_turn() {
        let opened = formats::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny_llama")).unwrap();
        let judge = ModelJudge::new(role(VerdictMethod::Logprob), &opened.template, &opened.tokenizer).unwrap();
        // Its tokenizer has one token per byte.
        let expected = [(Choice::A, 65), (Choice::B, 66), (Choice::Tie, 116), (Choice::Tie, 84)];
        assert_eq!(judge.tokens, expected);
        let judge = ModelJudge::new(role(VerdictMethod::Text), &opened.template, &opened.tokenizer).unwrap();
        assert!(judge.tokens.is_empty());
    }
}
