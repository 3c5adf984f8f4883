//! Weighing: how likely given tokens are as the next one of a prompt, without writing any.
//!
//! It takes the way of a request for one greedy token, in the same batches and over the same blocks, and reads the
//! candidates off the row of logits that the token is drawn from. Knows no text.

use super::sampler::{Draw, SamplingConfig};
use super::{Engine, Error, Request, RequestId};
use crate::transformer::decode::Forward;

impl<F: Forward> Engine<F> {
    /// Asks the base how likely each of `candidates` is as the next token of `prompt`. What is handed out is one
    /// completion whose `ids` are the candidates and whose `log_probs` are the model's own (softmax over the whole
    /// vocabulary at temperature 1, in nats); its text is empty.
    ///
    /// # Errors
    /// As [`Engine::submit`], and where there is no candidate or one is no token of the model.
    pub fn weigh(&mut self, prompt: Vec<u32>, candidates: Vec<u32>) -> Result<RequestId, Error> {
        let vocab = self.model.vocab();
        if let Some(&id) = candidates.iter().find(|id| **id as usize >= vocab) {
            return Err(crate::formats::Error::TokenId { id, vocab }.into());
        }
        if candidates.is_empty() {
            return Err(crate::formats::Error::EmptyText.into());
        }
        let sampling = SamplingConfig::greedy(1);
        let id = self.submit(Request { prompt, n: 1, sampling, stop_ids: Vec::new(), seed: 0, critic: false })?;
        let job = self.jobs.get_mut(&id).expect("a prompt that was taken leaves room for one token");
        job.weigh(candidates);
        Ok(id)
    }
}

/// Log-probabilities of `candidates` by `row`, whose likeliest id and its log-probability are `greedy`.
pub(super) fn log_probs(row: &[f32], greedy: Draw, candidates: &[u32]) -> Vec<f32> {
    let normaliser = f64::from(row[greedy.id as usize]) - f64::from(greedy.log_prob);
    candidates.iter().map(|&id| (f64::from(row[id as usize]) - normaliser) as f32).collect()
}
