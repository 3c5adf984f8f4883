//! A step in pieces: some critiques of one group behind their prefix, one packed pass each.
//!
//! The references of a group come first, then, where a group is too large for one piece, its log-ratios
//! without a graph, because its baseline needs them all; then loss and gradient.

use super::{Error, Learner, objective};
use crate::episode::{CriticVersion, CritiqueGroup};
use crate::model::score::{self, Packed};
use candle_core::Tensor;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// A step between its pieces.
pub(super) struct UnderWay {
    pub(super) batch: u64,
    pub(super) groups: Vec<Arc<CritiqueGroup>>,
    pub(super) pieces: VecDeque<Piece>,
    /// Log-ratio of each critique of each group, as far as known.
    pub(super) ratios: Vec<Vec<f32>>,
    pub(super) loss: f64,
    pub(super) differences: Vec<f32>,
}

/// One uninterrupted piece of a step: some critiques of one group behind their prefix.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    group: usize,
    critiques: Range<usize>,
    work: Work,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Log-probabilities under the reference.
    Reference,
    /// Log-ratios without a graph: where a group is too large for one piece, its baseline needs all of them.
    Ratios,
    /// Log-ratios, loss and gradient.
    Gradient,
}

impl UnderWay {
    /// The pieces of a step on `groups`; `knows` tells whose references are remembered.
    pub(super) fn new(
        batch: u64,
        groups: Vec<Arc<CritiqueGroup>>,
        tokens_max: usize,
        knows: impl Fn(&CritiqueGroup) -> bool,
    ) -> Self {
        let mut pieces = VecDeque::new();
        for (index, group) in groups.iter().enumerate() {
            let chunks = chunks(group, tokens_max);
            let mut add = |work| {
                pieces.extend(chunks.iter().map(|critiques| Piece {
                    group: index,
                    critiques: critiques.clone(),
                    work,
                }));
            };
            if !knows(group) {
                add(Work::Reference);
            }
            if chunks.len() > 1 {
                add(Work::Ratios);
            }
            add(Work::Gradient);
        }
        let ratios = vec![vec![]; groups.len()];
        Self { batch, groups, pieces, ratios, loss: 0.0, differences: vec![] }
    }
}

impl Learner {
    /// Does one piece.
    pub(super) fn run(&mut self, piece: &Piece, under_way: &mut UnderWay) -> Result<(), Error> {
        let group = under_way.groups[piece.group].clone();
        let critiques = &group.critiques[piece.critiques.clone()];
        let packed = Packed {
            prefix: &group.prefix_ids,
            texts: critiques.iter().map(|critique| critique.written.ids.as_slice()).collect(),
        };
        let branches = (piece.work != Work::Reference).then_some(&self.branches);
        let log_probs = score::log_probs(&self.model, &packed, branches, self.temperature)?; // (ids of all texts)
        let by_text = split(&log_probs.to_vec1::<f32>()?, &packed);
        self.compare_with_sampler(&by_text, piece, &group, under_way);
        if piece.work == Work::Reference {
            let known = self.references.entry(group.episode.0).or_default();
            known.truncate(piece.critiques.start);
            known.extend(by_text);
            return Ok(());
        }
        let reference = &self.references[&group.episode.0][piece.critiques.clone()];
        let ratios = by_text.iter().zip(reference).map(|(policy, reference)| log_ratio(policy, reference));
        if under_way.ratios[piece.group].len() < group.critiques.len() {
            under_way.ratios[piece.group].extend(ratios);
        }
        if piece.work == Work::Gradient {
            self.learn(piece, &group, &packed, &log_probs, under_way)?;
        }
        Ok(())
    }

    /// Gradient of one piece: `sum_i (d loss / d r_i) log pi(c_i)`, whose gradient is the loss's own.
    fn learn(
        &mut self,
        piece: &Piece,
        group: &CritiqueGroup,
        packed: &Packed<'_>,
        log_probs: &Tensor,
        under_way: &mut UnderWay,
    ) -> Result<(), Error> {
        let utilities: Vec<f32> = group.critiques.iter().map(|critique| critique.utility).collect();
        let beta = f64::from(self.config.beta);
        let terms = objective::dro(self.config.baseline, beta, &utilities, &under_way.ratios[piece.group]);
        let share = 1.0 / under_way.groups.len() as f64;
        if piece.critiques.start == 0 {
            under_way.loss += terms.loss * share;
        }
        let weights: Vec<f32> = packed
            .texts
            .iter()
            .zip(&terms.gradient[piece.critiques.clone()])
            .flat_map(|(text, &gradient)| std::iter::repeat_n((gradient * share) as f32, text.len()))
            .collect();
        let weights = Tensor::from_vec(weights, log_probs.shape(), log_probs.device())?;
        let gradients = (log_probs * weights)?.sum_all()?.backward()?;
        for parameter in &mut self.parameters {
            let gradient = gradients.get(&parameter.var);
            parameter.gather(gradient.ok_or_else(|| Error::NoGradient { name: parameter.name.clone() })?)?;
        }
        Ok(())
    }

    /// Notes how far the sampler's log-probs lie from this pass, for texts written by the very same weights.
    fn compare_with_sampler(
        &self,
        by_text: &[Vec<f32>],
        piece: &Piece,
        group: &CritiqueGroup,
        under_way: &mut UnderWay,
    ) {
        let current = match piece.work {
            Work::Reference => Some(CriticVersion::BASE),
            Work::Ratios => None,
            Work::Gradient => self.published.filter(|&(_, step)| step == self.step).map(|(version, _)| version),
        };
        for (ours, critique) in by_text.iter().zip(&group.critiques[piece.critiques.clone()]) {
            if Some(critique.written.version) == current {
                let pairs = ours.iter().zip(&critique.written.log_probs);
                under_way.differences.extend(pairs.map(|(ours, sampler)| (ours - sampler).abs()));
            }
        }
    }
}

/// The group's critiques in runs that fit `tokens_max` with their prefix; at least one critique each.
fn chunks(group: &CritiqueGroup, tokens_max: usize) -> Vec<Range<usize>> {
    let mut chunks: Vec<Range<usize>> = vec![];
    let mut tokens = usize::MAX;
    for (index, critique) in group.critiques.iter().enumerate() {
        let len = critique.written.ids.len();
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

/// The flat log-probs, text by text.
fn split(flat: &[f32], packed: &Packed<'_>) -> Vec<Vec<f32>> {
    let mut rest = flat;
    let take = |text: &&[u32]| {
        let (ours, others) = rest.split_at(text.len());
        rest = others;
        ours.to_vec()
    };
    packed.texts.iter().map(take).collect()
}

/// `log pi(c) - log pi_ref(c)`, summed over the critique's tokens.
fn log_ratio(policy: &[f32], reference: &[f32]) -> f32 {
    policy.iter().zip(reference).map(|(&p, &r)| f64::from(p) - f64::from(r)).sum::<f64>() as f32
}
