//! The micro-batches of a step: several groups that fit one together, or a slice of one group that does not fit.
//!
//! Reference log-probabilities come first. If a group takes several micro-batches, its log-ratios are then computed
//! without a gradient, because the baseline needs all of them. Loss and gradient come last.

use super::config::LearnerConfig;
use super::reference::References;
use super::step_loss::StepLoss;
use super::value::Value;
use crate::transformer::score::{Packed, Scored};
use crate::types::{CriticVersion, CritiqueGroup, ScoredCritique};
use std::collections::VecDeque;
use std::ops::Range;

/// A step in progress.
pub(super) struct StepInProgress {
    pub(super) batch: u64,
    pub(super) loss: StepLoss,
    pub(super) micro_batches: VecDeque<MicroBatch>,
    pub(super) mismatches: Vec<f32>,
}

/// One micro-batch of a step, which runs without interruption.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MicroBatch {
    pub(super) kind: PassKind,
    pub(super) slices: Vec<GroupSlice>,
}

/// Some critiques of one group, after their prefix.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GroupSlice {
    pub(super) group: usize,
    critiques: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PassKind {
    /// Log-probabilities under the reference.
    Reference,
    /// Log-ratios without a gradient. The baseline of a group too large for one micro-batch needs all of the group's,
    /// and a mask over the step needs those of all groups.
    Ratios,
    /// Log-ratios, loss and gradient.
    Gradient,
}

impl StepInProgress {
    /// The micro-batches of a step on the groups of `loss`; `knows` tells whose reference values are known.
    pub(super) fn new(
        batch: u64,
        loss: StepLoss,
        config: &LearnerConfig,
        knows: impl Fn(&CritiqueGroup) -> bool,
    ) -> Self {
        let tokens_max = config.micro_batch_tokens;
        let groups = &loss.groups;
        let chunks: Vec<_> = groups.iter().map(|group| chunks(group, tokens_max)).collect();
        let mut micro_batches = VecDeque::new();
        for kind in [PassKind::Reference, PassKind::Ratios, PassKind::Gradient] {
            let mut room = 0;
            for (index, group) in groups.iter().enumerate() {
                let wanted = match kind {
                    PassKind::Reference => !knows(group),
                    PassKind::Ratios => chunks[index].len() > 1 || config.second_moment_max > 0.0,
                    PassKind::Gradient => true,
                };
                for critiques in chunks[index].iter().filter(|_| wanted) {
                    let slice = GroupSlice { group: index, critiques: critiques.clone() };
                    let tokens = slice.tokens(group);
                    match micro_batches.back_mut() {
                        Some(MicroBatch { kind: last, slices }) if *last == kind && tokens <= room => {
                            slices.push(slice)
                        }
                        _ => {
                            room = tokens_max;
                            micro_batches.push_back(MicroBatch { kind, slices: vec![slice] });
                        }
                    }
                    room = room.saturating_sub(tokens);
                }
            }
        }
        Self { batch, loss, micro_batches, mismatches: vec![] }
    }
}

impl GroupSlice {
    fn tokens(&self, group: &CritiqueGroup) -> usize {
        let critiques = &group.critiques[self.critiques.clone()];
        group.prefix_ids.len() + critiques.iter().map(|critique| critique.completion.ids.len()).sum::<usize>()
    }

    pub(super) fn packed<'a>(&self, group: &'a CritiqueGroup) -> Packed<'a> {
        let critiques = &group.critiques[self.critiques.clone()];
        Packed {
            prefix: &group.prefix_ids,
            texts: critiques.iter().map(|critique| critique.completion.ids.as_slice()).collect(),
        }
    }
}

/// Turns a micro-batch's log-probabilities into reference values, log-ratios and weights.
pub(super) struct PassContext<'a> {
    pub(super) micro_batch: &'a MicroBatch,
    pub(super) packed: &'a [Packed<'a>],
    /// The version in service with exactly the weights that score the micro-batch, if there is one.
    pub(super) current: Option<CriticVersion>,
    pub(super) config: &'a LearnerConfig,
    pub(super) references: &'a mut References,
    pub(super) value: &'a mut Option<Value>,
    pub(super) in_progress: &'a mut StepInProgress,
}

impl PassContext<'_> {
    /// Stores the result of a pass: reference values or log-ratios.
    pub(super) fn record(&mut self, scored: &Scored) {
        let (micro_batch, in_progress) = (self.micro_batch, &mut *self.in_progress);
        let mut rest = scored.log_probs.as_slice();
        for ((slice, packed), hidden) in micro_batch.slices.iter().zip(self.packed).zip(&scored.prefixes) {
            let group = in_progress.loss.groups[slice.group].clone();
            let critiques = &group.critiques[slice.critiques.clone()];
            let (ours, others) = rest.split_at(packed.texts.iter().map(|text| text.len()).sum());
            rest = others;
            let by_text = split(ours, packed);
            in_progress.record_mismatch(&by_text, self.current, critiques);
            if micro_batch.kind == PassKind::Reference {
                let hidden = if self.value.is_some() { hidden.as_slice() } else { &[] };
                self.references.remember(group.episode.0, slice.critiques.start, by_text, hidden);
                continue;
            }
            let Some(known) = self.references.get(group.episode.0) else { unreachable!("references come first") };
            let reference = &known.log_probs[slice.critiques.clone()];
            let sampled = critiques.iter().map(|critique| &critique.completion.log_probs);
            let ratios = by_text.iter().zip(reference).zip(sampled);
            let ratios = ratios.map(|((ours, reference), mu)| [log_ratio(ours, reference), log_ratio(ours, mu)]);
            in_progress.loss.record(slice.group, ratios);
        }
    }

    /// Adds the loss of the micro-batch's groups and returns the weight of each log-probability in its gradient, which
    /// equals the gradient of `sum_i (d loss / d r_i) log pi(c_i)`.
    pub(super) fn log_prob_weights(&mut self) -> Vec<f32> {
        let Self { micro_batch, packed, config, value, references, in_progress, .. } = self;
        let mut weights = vec![];
        for (slice, packed) in micro_batch.slices.iter().zip(*packed) {
            let hidden = references.get(in_progress.loss.groups[slice.group].episode.0);
            let value = value.as_mut().zip(hidden.map(|known| known.hidden.as_slice()));
            let first = slice.critiques.start == 0;
            let gradient = in_progress.loss.gradient(config, slice.group, first, value);
            for (text, slope) in packed.texts.iter().zip(&gradient[slice.critiques.clone()]) {
                weights.extend(std::iter::repeat_n(*slope as f32, text.len()));
            }
        }
        weights
    }
}

impl StepInProgress {
    /// Records the difference between the sampler's log-probs and this pass, for texts written by the same weights.
    fn record_mismatch(&mut self, by_text: &[Vec<f32>], current: Option<CriticVersion>, critiques: &[ScoredCritique]) {
        for (ours, critique) in by_text.iter().zip(critiques) {
            if Some(critique.completion.version) == current {
                let pairs = ours.iter().zip(&critique.completion.log_probs);
                self.mismatches.extend(pairs.map(|(ours, sampler)| (ours - sampler).abs()));
            }
        }
    }
}

/// Splits the group's critiques into runs that fit `tokens_max` with their prefix; at least one critique each.
fn chunks(group: &CritiqueGroup, tokens_max: usize) -> Vec<Range<usize>> {
    let mut chunks: Vec<Range<usize>> = vec![];
    let mut tokens = usize::MAX;
    for (index, critique) in group.critiques.iter().enumerate() {
        let len = critique.completion.ids.len();
        match chunks.last_mut() {
            Some(last) if tokens + len <= tokens_max => {
                last.end = index + 1;
                tokens += len;
            }
            _ => {
                chunks.push(index..index + 1);
                tokens = group.prefix_ids.len() + len;
            }
        }
    }
    chunks
}

/// Splits the concatenated log-probs by text.
fn split(flat: &[f32], packed: &Packed<'_>) -> Vec<Vec<f32>> {
    let mut rest = flat;
    let take = |text: &&[u32]| {
        let (ours, others) = rest.split_at(text.len());
        rest = others;
        ours.to_vec()
    };
    packed.texts.iter().map(take).collect()
}

/// `log pi(c) - log q(c)`, summed over the critique's tokens.
fn log_ratio(policy: &[f32], other: &[f32]) -> f32 {
    policy.iter().zip(other).map(|(&p, &r)| f64::from(p) - f64::from(r)).sum::<f64>() as f32
}
