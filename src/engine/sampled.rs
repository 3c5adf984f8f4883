//! From a step's logits to what its sequences sample and report.
//!
//! Knows rows of logits and the states of requests; changes neither.

use super::candidates;
use super::error::Error;
use super::request::{RequestId, TokenReport};
use super::request_state::RequestState;
use super::sampler::{self, Draw, Scratch, Task};
use super::scheduler::Scheduler;
use super::sequence::{Name, Sequence};
use super::token_report::{Wanted, report_all};
use std::collections::BTreeMap;

/// What one sequence of a step samples: a token for each of its continuations, if its step ends its tokens.
pub(crate) struct Sampled {
    pub(crate) name: Name,
    /// Whether its step ends its tokens.
    pub(crate) is_last: bool,
    pub(crate) draws: Vec<(usize, Draw)>,
    /// Log-probabilities of the request's candidates; empty where it writes a text.
    pub(crate) candidate_log_probs: Vec<f32>,
    /// Reports of the prompt's tokens that the step predicts, then those of the drawn ones; empty where nobody asks.
    pub(crate) reports: Vec<TokenReport>,
    /// How many of them are the prompt's.
    pub(crate) prompt_reports: usize,
    /// Tokens of its prompt that were found in the cache.
    pub(crate) cached_tokens: usize,
}

/// The requests' states.
pub(crate) type States = BTreeMap<RequestId, RequestState>;

/// Samples for every planned sequence that reached its last token: one row, from which each of its
/// continuations draws its own token. `logits` are the step's rows of `vocab`; biases are added to them.
pub(crate) fn sample(
    scheduler: &Scheduler,
    states: &States,
    logits: &mut [f32],
    vocab: usize,
    scratch: &mut Vec<Scratch>,
) -> Result<Vec<Sampled>, Error> {
    let (mut names, mut tasks, mut rows) = (Vec::new(), Vec::new(), 0);
    for sequence in scheduler.planned() {
        let first = rows;
        rows += sequence.logit_rows();
        let state = &states[&sequence.name.request];
        state.request.add_bias(&mut logits[first * vocab..rows * vocab], vocab);
        for index in drawing(sequence, state) {
            let uniform = sampler::uniform(state.request.seed, index as u64, sequence.sampled() as u64);
            tasks.push(Task { row: rows - 1, config: &state.request.sampling, uniform });
            names.push(Name { index, ..sequence.name });
        }
    }
    let draws = sampler::draw_all(logits, vocab, &tasks, scratch);
    let mut drawn = names.iter().zip(draws);
    let (mut sampled, mut wanted, mut rows) = (Vec::new(), Vec::new(), 0);
    for sequence in scheduler.planned() {
        let (first, state) = (rows, &states[&sequence.name.request]);
        rows += sequence.logit_rows();
        let count = drawing(sequence, state).count();
        let draws = drawn.by_ref().take(count).map(|(&Name { request, index }, draw)| {
            draw.map(|draw| (index, draw)).ok_or(Error::Logits { request: request.0, index })
        });
        let draws = draws.collect::<Result<Vec<_>, _>>()?;
        let candidate_log_probs = match draws.first() {
            Some(&(_, draw)) => {
                candidates::log_probs(&logits[(rows - 1) * vocab..rows * vocab], draw, state.candidates())
            }
            None => Vec::new(),
        };
        let (top, before) = (state.request.reports.top.min(vocab), wanted.len());
        let mut prompt_reports = 0;
        if state.request.reports.any() {
            wanted.extend((first..).zip(sequence.predicted()).map(|(row, &id)| Wanted { row, id, top }));
            prompt_reports = wanted.len() - before;
            wanted.extend(draws.iter().map(|(_, draw)| Wanted { row: rows - 1, id: draw.id, top }));
        }
        sampled.push(Sampled {
            name: sequence.name,
            is_last: sequence.samples(),
            draws,
            candidate_log_probs,
            reports: Vec::new(),
            prompt_reports,
            cached_tokens: sequence.found.unwrap_or(0),
        });
    }
    if !wanted.is_empty() {
        report(&mut sampled, states, report_all(logits, vocab, &wanted))?;
    }
    Ok(sampled)
}

/// The continuations of `sequence` that draw a token.
fn drawing(sequence: &Sequence, state: &RequestState) -> impl Iterator<Item = usize> {
    sequence.continuations().filter(move |_| sequence.samples() && state.writes())
}

/// Gives each of `sampled` its part of `reports`.
fn report(sampled: &mut [Sampled], states: &States, reports: Vec<Option<TokenReport>>) -> Result<(), Error> {
    let mut reports = reports.into_iter();
    for Sampled { name, draws, prompt_reports, reports: own, .. } in sampled {
        if states[&name.request].request.reports.any() {
            let all: Option<Vec<_>> = reports.by_ref().take(*prompt_reports + draws.len()).collect();
            *own = all.ok_or(Error::Logits { request: name.request.0, index: name.index })?;
        }
    }
    Ok(())
}
