//! A model as judge: every pair is asked about in both orders, and what it says is read from its words or from the
//! log-probabilities of the words it may begin with.
//!
//! Knows no verifier and no episode. Invariants: no order is left out, none is asked twice; an order that got no
//! answer says why, and what would end every episode alike is trouble instead.

use crate::episode::judge::{JudgeRequest, PreferenceRequest};
use crate::episode::sampling::{RenderedPrompt, SampleError, SamplingClient};
use crate::episode::seed::mix;
use crate::formats;
use crate::formats::{template::ChatTemplate, tokenizer::Tokenizer};
use crate::roles::judge::{ANSWERS, Judge, ScoredChoice, VerdictMethod, critique_pairs};
use crate::run::events::Event;
use crate::types::{Choice, Invalid, Preference, Prompt, Turn, Verdict};
use std::sync::Arc;
use tokio::task::JoinSet;

/// The choice in one order, or why there is none.
type OrderChoice = Result<Choice, Invalid>;
/// The same with the log-odds of its answers.
type OrderWeighed = Result<ScoredChoice, Invalid>;

/// A model that judges.
pub struct ModelJudge {
    role: Judge,
    /// The tokens that its answers begin with, where those are weighed.
    tokens: Vec<(Choice, u32)>,
}

impl ModelJudge {
    /// The role as a model with this template and tokenizer plays it.
    ///
    /// # Errors
    /// Where log-probabilities are read and A, B and tie do not begin with tokens of their own.
    pub fn new(role: Judge, template: &ChatTemplate, tokenizer: &Tokenizer) -> formats::Result<Self> {
        let tokens = match role.method {
            VerdictMethod::Text => Vec::new(),
            VerdictMethod::Logprob | VerdictMethod::Balanced => first_tokens(&role, template, tokenizer)?,
        };
        Ok(Self { role, tokens })
    }

    /// The role as a remote server plays it: its tokens are seen as texts, and there is nothing to look up.
    pub fn remote(role: Judge) -> Self {
        Self { role, tokens: Vec::new() }
    }

    /// Two verdicts on each refinement, those of its two orders, in the order of the refinements.
    pub(crate) async fn compare(
        self: &Arc<Self>,
        sampler: &SamplingClient,
        request: &JudgeRequest,
        seed: u64,
    ) -> Result<Vec<Verdict>, SampleError> {
        let response = &request.context.response.text;
        let orders = |first: &str, second: &str| self.role.conversation(&request.context.prompt, first, second);
        let pairs = request
            .refinements
            .iter()
            .map(|refinement| [orders(response, &refinement.text), orders(&refinement.text, response)]);
        let heard = self.ask_all(sampler, pairs.collect(), seed).await?;
        Ok(heard.into_iter().flat_map(|[forward, backward]| Judge::verdicts(forward, backward)).collect())
    }

    /// Which critiques are better than which, where both orders say so.
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
        let asked = pairs.iter().map(|&(one, other)| [orders(one, other), orders(other, one)]).collect();
        let heard = self.ask_all(sampler, asked, seed).await?;
        let preferred = |(&(one, other), [forward, backward]): (&(usize, usize), [OrderChoice; 2])| {
            let is_first = Judge::preferred(forward, backward)?;
            let (chosen, rejected) = if is_first { (one, other) } else { (other, one) };
            Some(Preference { chosen, rejected })
        };
        Ok(pairs.iter().zip(heard).filter_map(preferred).collect())
    }

    /// Both orders of every pair, all at once.
    async fn ask_all(
        self: &Arc<Self>,
        sampler: &SamplingClient,
        pairs: Vec<[Vec<Turn>; 2]>,
        seed: u64,
    ) -> Result<Vec<[OrderChoice; 2]>, SampleError> {
        let mut heard = vec![[Err(Invalid::Deadline); 2]; pairs.len()];
        let mut asking = JoinSet::new();
        for (index, [forward, backward]) in pairs.into_iter().enumerate() {
            let (judge, sampler) = (self.clone(), sampler.clone());
            let seeds = [0, 1].map(|order| mix(seed, 2 * index as u64 + order));
            asking.spawn(async move {
                let orders =
                    tokio::join!(judge.ask(&sampler, forward, seeds[0]), judge.ask(&sampler, backward, seeds[1]));
                (index, orders)
            });
        }
        while let Some(asked) = asking.join_next().await {
            let (index, (forward, backward)) = asked.map_err(|error| SampleError::Broken(error.to_string()))?;
            let orders = [forward?, backward?];
            heard[index] = orders.map(|order| order.map(|said| said.read));
            // The judge's own bias is what the metrics are to show, whatever is made of it.
            sampler.events.emit(Event::PairJudged(heard[index]));
            if let (VerdictMethod::Balanced, [Ok(forward), Ok(backward)]) = (self.role.method, orders) {
                heard[index] = Judge::calibrate([forward, backward]).map(Ok);
            }
        }
        Ok(heard)
    }

    /// One order.
    async fn ask(&self, sampler: &SamplingClient, turns: Vec<Turn>, seed: u64) -> Result<OrderWeighed, SampleError> {
        let rendered = sampler.compose(turns)?;
        match self.hear(sampler, rendered, seed).await {
            Ok(said) => Ok(said.ok_or(Invalid::Unreadable)),
            Err(SampleError::Deadline) => Ok(Err(Invalid::Deadline)),
            Err(SampleError::TooLong) => Ok(Err(Invalid::TooLong)),
            Err(SampleError::Remote(_)) => Ok(Err(Invalid::Remote)),
            Err(trouble) => Err(trouble),
        }
    }

    async fn hear(
        &self,
        sampler: &SamplingClient,
        rendered: RenderedPrompt,
        seed: u64,
    ) -> Result<Option<ScoredChoice>, SampleError> {
        match self.role.method {
            VerdictMethod::Text => {
                let votes = sampler.write(&rendered, self.role.votes, seed).await?;
                let read = Judge::plurality(votes.iter().map(|vote| Judge::read(&vote.text)));
                Ok(read.map(|read| ScoredChoice { read, odds: 0.0 }))
            }
            VerdictMethod::Logprob | VerdictMethod::Balanced => {
                if let Some(tokens) = sampler.first_tokens(&rendered, seed).await? {
                    let answers =
                        tokens.iter().filter_map(|(token, log_prob)| Some((Judge::choice_begun_by(token)?, *log_prob)));
                    return Ok(Judge::choice_from_log_probs(answers));
                }
                let ids = self.tokens.iter().map(|(_, id)| *id).collect();
                let log_probs = sampler.weigh(rendered.ids, ids).await?;
                let answers = self.tokens.iter().map(|(read, _)| *read);
                Ok(Judge::choice_from_log_probs(answers.zip(log_probs.into_iter().map(f64::from))))
            }
        }
    }
}

/// The tokens that the judge's answers begin with, where the assistant's turn does: all ways to say each that begin
/// with a token of their own there.
fn first_tokens(role: &Judge, template: &ChatTemplate, tokenizer: &Tokenizer) -> formats::Result<Vec<(Choice, u32)>> {
    let prompt =
        Prompt { id: String::new(), task: String::new(), text: "1 + 1?".to_owned(), answer: None, verifier: None };
    let text = template.render(&role.conversation(&prompt, "2", "3"), true)?;
    let before = tokenizer.encode(&text)?;
    let mut tokens: Vec<(Choice, u32)> = Vec::new();
    for (read, word) in ANSWERS.iter().flat_map(|(read, words)| words.iter().map(|word| (*read, word))) {
        let ids = tokenizer.encode(&format!("{text}{word}"))?;
        let Some(&id) = ids.strip_prefix(&before[..]).and_then(<[u32]>::first) else { continue };
        match tokens.iter().find(|(_, known)| *known == id) {
            Some((known, _)) if *known == read => {}
            Some((known, _)) => return Err(unweighable(&format!("token {id} for both {known:?} and {read:?}"))),
            None => tokens.push((read, id)),
        }
    }
    let missing = ANSWERS.iter().find(|(read, _)| !tokens.iter().any(|(known, _)| known == read));
    match missing {
        Some((read, _)) => Err(unweighable(&format!("none for {read:?}"))),
        None => Ok(tokens),
    }
}

fn unweighable(got: &str) -> formats::Error {
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
        struct Whole {
            judge: JudgeConfig,
        }
        let whole: Whole = toml::from_str(include_str!("../../../configs/quickstart.toml")).unwrap();
        Judge::new(&JudgeConfig { read, ..whole.judge }).unwrap()
    }

    #[test]
    fn answers_are_weighed_by_the_tokens_they_begin_with_behind_the_assistants_opening() {
        let opened = formats::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny_llama")).unwrap();
        let judge = ModelJudge::new(role(VerdictMethod::Logprob), &opened.template, &opened.tokenizer).unwrap();
        // Its tokens are bytes.
        let expected = [(Choice::A, 65), (Choice::B, 66), (Choice::Tie, 116), (Choice::Tie, 84)];
        assert_eq!(judge.tokens, expected);
        let judge = ModelJudge::new(role(VerdictMethod::Text), &opened.template, &opened.tokenizer).unwrap();
        assert!(judge.tokens.is_empty());
    }
}
