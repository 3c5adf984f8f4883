//! A step in pieces: groups that fit into one micro-batch together, or some critiques of one that is too large.
//!
//! The references come first, then, where a group is too large for one piece, its log-ratios without a gradient,
//! because its baseline needs them all; then loss and gradient.

use super::{Error, Learner, objective};
use crate::episode::{CriticVersion, CritiqueGroup, ScoredCritique};
use crate::model::score::{self, Batch, Branches, Packed};
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

/// One uninterrupted piece of a step: a micro-batch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    work: Work,
    parts: Vec<Part>,
}

/// Some critiques of one group behind their prefix.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    group: usize,
    critiques: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Log-probabilities under the reference.
    Reference,
    /// Log-ratios without a gradient: where a group is too large for one piece, its baseline needs all of them.
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
        let chunks: Vec<_> = groups.iter().map(|group| chunks(group, tokens_max)).collect();
        let mut pieces = VecDeque::new();
        for work in [Work::Reference, Work::Ratios, Work::Gradient] {
            let mut room = 0;
            for (index, group) in groups.iter().enumerate() {
                let wanted = match work {
                    Work::Reference => !knows(group),
                    Work::Ratios => chunks[index].len() > 1,
                    Work::Gradient => true,
                };
                for critiques in chunks[index].iter().filter(|_| wanted) {
                    let part = Part { group: index, critiques: critiques.clone() };
                    let tokens = part.tokens(group);
                    match pieces.back_mut() {
                        Some(Piece { work: last, parts }) if *last == work && tokens <= room => parts.push(part),
                        _ => {
                            room = tokens_max;
                            pieces.push_back(Piece { work, parts: vec![part] });
                        }
                    }
                    room = room.saturating_sub(tokens);
                }
            }
        }
        let ratios = vec![vec![]; groups.len()];
        Self { batch, groups, pieces, ratios, loss: 0.0, differences: vec![] }
    }
}

impl Part {
    fn tokens(&self, group: &CritiqueGroup) -> usize {
        let critiques = &group.critiques[self.critiques.clone()];
        group.prefix_ids.len() + critiques.iter().map(|critique| critique.written.ids.len()).sum::<usize>()
    }

    fn packed<'a>(&self, group: &'a CritiqueGroup) -> Packed<'a> {
        let critiques = &group.critiques[self.critiques.clone()];
        Packed {
            prefix: &group.prefix_ids,
            texts: critiques.iter().map(|critique| critique.written.ids.as_slice()).collect(),
        }
    }
}

impl Learner {
    /// Does one piece.
    pub(super) fn run(&mut self, piece: &Piece, under_way: &mut UnderWay) -> Result<(), Error> {
        let groups = under_way.groups.clone();
        let packed: Vec<Packed<'_>> = piece.parts.iter().map(|part| part.packed(&groups[part.group])).collect();
        let batch = Batch { packed: &packed, temperature: self.temperature };
        let model = self.model.clone();
        let branches = match piece.work {
            Work::Reference => None,
            Work::Ratios | Work::Gradient => {
                Some(self.branches.take().map_or_else(|| Branches::new(&model, &self.adapter()), Ok)?)
            }
        };
        let mut space = std::mem::take(&mut self.space);
        if let (Work::Gradient, Some(branches)) = (piece.work, &branches) {
            let recorded = score::record_in(&model, batch, branches, self.config.keep(), &mut space)?;
            self.note(piece, &packed, &recorded.scored.log_probs, under_way);
            let weights = self.weigh(piece, &packed, under_way);
            let gradients = recorded.backward_in(&weights, &mut space)?;
            for (place, pair) in self.places.iter().zip(self.parameters.chunks_exact_mut(2)) {
                let [a, b] = pair else { unreachable!("chunks of two") };
                let found = gradients.factors.get(place).ok_or_else(|| Error::NoGradient { name: a.name.clone() })?;
                a.gather(&found.a);
                b.gather(&found.b);
            }
        } else {
            let scored = score::score_in(&model, batch, branches.as_ref(), &mut space)?;
            self.note(piece, &packed, &scored.log_probs, under_way);
        }
        self.space = space;
        self.branches = branches.or(self.branches.take());
        Ok(())
    }

    /// Keeps what `log_probs` tell: references, or log-ratios.
    fn note(&mut self, piece: &Piece, packed: &[Packed<'_>], log_probs: &[f32], under_way: &mut UnderWay) {
        let mut rest = log_probs;
        for (part, packed) in piece.parts.iter().zip(packed) {
            let group = under_way.groups[part.group].clone();
            let (ours, others) = rest.split_at(packed.texts.iter().map(|text| text.len()).sum());
            rest = others;
            let by_text = split(ours, packed);
            self.compare_with_sampler(&by_text, piece.work, &group.critiques[part.critiques.clone()], under_way);
            if piece.work == Work::Reference {
                let known = self.references.entry(group.episode.0).or_default();
                known.truncate(part.critiques.start);
                known.extend(by_text);
                continue;
            }
            let reference = &self.references[&group.episode.0][part.critiques.clone()];
            let ratios = by_text.iter().zip(reference).map(|(policy, reference)| log_ratio(policy, reference));
            if under_way.ratios[part.group].len() < group.critiques.len() {
                under_way.ratios[part.group].extend(ratios);
            }
        }
    }

    /// Loss of the piece's groups, and what each log-probability weighs in its gradient: that of
    /// `sum_i (d loss / d r_i) log pi(c_i)` is the loss's own.
    fn weigh(&self, piece: &Piece, packed: &[Packed<'_>], under_way: &mut UnderWay) -> Vec<f32> {
        let mut weights = vec![];
        for (part, packed) in piece.parts.iter().zip(packed) {
            let group = &under_way.groups[part.group];
            let utilities: Vec<f32> = group.critiques.iter().map(|critique| critique.utility).collect();
            let beta = f64::from(self.config.beta);
            let terms = objective::dro(self.config.baseline, beta, &utilities, &under_way.ratios[part.group]);
            let share = 1.0 / under_way.groups.len() as f64;
            if part.critiques.start == 0 {
                under_way.loss += terms.loss * share;
            }
            for (text, gradient) in packed.texts.iter().zip(&terms.gradient[part.critiques.clone()]) {
                weights.extend(std::iter::repeat_n((gradient * share) as f32, text.len()));
            }
        }
        weights
    }

    /// Notes how far the sampler's log-probs lie from this pass, for texts written by the very same weights.
    fn compare_with_sampler(
        &self,
        by_text: &[Vec<f32>],
        work: Work,
        critiques: &[ScoredCritique],
        under_way: &mut UnderWay,
    ) {
        let current = match work {
            Work::Reference => Some(CriticVersion::BASE),
            Work::Ratios => None,
            Work::Gradient => self.published.filter(|&(_, step)| step == self.step).map(|(version, _)| version),
        };
        for (ours, critique) in by_text.iter().zip(critiques) {
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
