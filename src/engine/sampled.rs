//! From a step's logits to what its sequences sample and report.
//!
//! Knows rows of logits and the states of requests; changes neither.

use super::candidates;
use super::error::Error;
use super::request::{RequestId, TokenReport};
use super::request_state::RequestState;
use super::sampler::{self, Draw, Scratch, Task};
use super::sampling_config::SamplingConfig;
use super::scheduler::Scheduler;
use super::sequence::{Name, Sequence};
use super::token_report::{Wanted, report_all};
use crate::transformer::decode::{Batch, RowSampling};
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

/// What a step computed.
pub(crate) struct Computed<'a> {
    /// Its sequences, in the order of the schedule.
    pub(crate) batch: &'a Batch,
    /// The tokens that the device drew itself.
    pub(crate) drawn: Vec<Option<Draw>>,
    /// The other rows, of `vocab` each.
    pub(crate) logits: &'a mut [f32],
    pub(crate) vocab: usize,
}

/// Samples for every planned sequence that reached its last token: one row, from which each of its
/// continuations draws its own token. Biases are added to the logits.
pub(crate) fn sample(
    scheduler: &Scheduler,
    states: &States,
    computed: Computed<'_>,
    scratch: &mut Vec<Scratch>,
) -> Result<Vec<Sampled>, Error> {
    let Computed { batch, drawn, logits, vocab } = computed;
    let (mut tasks, mut rows) = (Vec::new(), 0);
    for (sequence, _) in scheduler.planned().zip(&batch.spans).filter(|(_, span)| !span.is_drawn) {
        let first = rows;
        rows += sequence.logit_rows();
        let state = &states[&sequence.name.request];
        state.request.add_bias(&mut logits[first * vocab..rows * vocab], vocab);
        for index in drawing(sequence, state) {
            let uniform = uniform(sequence, state, index);
            tasks.push(Task { row: rows - 1, config: &state.request.sampling, uniform });
        }
    }
    let (mut here, mut there) = (sampler::draw_all(logits, vocab, &tasks, scratch).into_iter(), drawn.into_iter());
    let (mut sampled, mut wanted, mut rows) = (Vec::new(), Vec::new(), 0);
    for (sequence, span) in scheduler.planned().zip(&batch.spans) {
        let (first, state) = (rows, &states[&sequence.name.request]);
        rows += if span.is_drawn { 0 } else { sequence.logit_rows() };
        let draws = drawing(sequence, state).map(|index| {
            let draw = if span.is_drawn { there.next() } else { here.next() };
            let name = sequence.name.request;
            draw.flatten().map(|draw| (index, draw)).ok_or(Error::Logits { request: name.0, index })
        });
        let draws = draws.collect::<Result<Vec<_>, _>>()?;
        let candidate_log_probs = match draws.first() {
            Some(&(_, draw)) if !state.candidates().is_empty() => {
                candidates::log_probs(&logits[(rows - 1) * vocab..rows * vocab], draw, state.candidates())
            }
            _ => Vec::new(),
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

/// Makes `batch` the planned step. Where the device draws tokens, it does so for every row of which ids are all that is wanted.
pub(crate) fn fill_batch(batch: &mut Batch, scheduler: &Scheduler, states: &States, draws: bool) {
    batch.clear();
    for sequence in scheduler.planned() {
        let tokens = &sequence.tokens[sequence.cached..sequence.cached + sequence.planned];
        let state = &states[&sequence.name.request];
        let adapter = state.weights.adapter.as_ref();
        batch.push(tokens, sequence.cached, &sequence.table, adapter, sequence.logit_rows());
        if let Some(samplings) = drawn_blindly(sequence, state).filter(|_| draws) {
            batch.draw(samplings);
        }
    }
}

/// How the continuations of `sequence` draw their tokens, if ids are all that is wanted of its step.
fn drawn_blindly<'a>(
    sequence: &'a Sequence,
    state: &'a RequestState,
) -> Option<impl Iterator<Item = RowSampling> + 'a> {
    let SamplingConfig { temperature, top_k, top_p, min_p, .. } = state.request.sampling;
    let is_row = sequence.samples() && sequence.logit_rows() == 1 && state.writes();
    let is_blind = state.request.logit_bias.is_empty() && !state.request.reports.any() && state.candidates().is_empty();
    (is_row && is_blind).then(|| {
        drawing(sequence, state).map(move |index| {
            let uniform = uniform(sequence, state, index);
            RowSampling { row: 0, uniform, temperature, top_k, top_p, min_p }
        })
    })
}

/// The random number of a continuation's next token.
fn uniform(sequence: &Sequence, state: &RequestState, index: usize) -> f64 {
    sampler::uniform(state.request.seed, index as u64, sequence.sampled() as u64)
}

/// The continuations of `sequence` that draw a token.
fn drawing<'a>(sequence: &'a Sequence, state: &'a RequestState) -> impl Iterator<Item = usize> + 'a {
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
