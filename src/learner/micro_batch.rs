//! A step in pieces: groups that fit into one micro-batch together, or some critiques of one that is too large.
//!
//! The references come first, then, where a group is too large for one piece, its log-ratios without a gradient,
//! because its baseline needs them all; then loss and gradient.

use super::reference::References;
use super::step_loss::StepLoss;
use super::value::Value;
use super::{Error, Learner, LearnerConfig};
use crate::transformer::{score, score::Packed, score::ScoreBatch, score::Scored};
use crate::types::{CriticVersion, CritiqueGroup, ScoredCritique};
use std::collections::VecDeque;
use std::ops::Range;

/// A step between its pieces.
pub(super) struct UnderWay {
    pub(super) batch: u64,
    pub(super) lesson: StepLoss,
    pub(super) pieces: VecDeque<Piece>,
    pub(super) differences: Vec<f32>,
}

/// One uninterrupted piece of a step: a micro-batch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    work: PassKind,
    parts: Vec<Part>,
}

/// Some critiques of one group behind their prefix.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    group: usize,
    critiques: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PassKind {
    /// Log-probabilities under the reference.
    Reference,
    /// Log-ratios without a gradient: where a group is too large for one piece, its baseline needs all of them, and a
    /// mask over the step needs those of all groups.
    Ratios,
    /// Log-ratios, loss and gradient.
    Gradient,
}

impl UnderWay {
    /// The pieces of a step on the groups of `lesson`; `knows` tells whose references are remembered.
    pub(super) fn new(
        batch: u64,
        lesson: StepLoss,
        config: &LearnerConfig,
        knows: impl Fn(&CritiqueGroup) -> bool,
    ) -> Self {
        let tokens_max = config.micro_batch_tokens;
        let groups = &lesson.groups;
        let chunks: Vec<_> = groups.iter().map(|group| chunks(group, tokens_max)).collect();
        let mut pieces = VecDeque::new();
        for work in [PassKind::Reference, PassKind::Ratios, PassKind::Gradient] {
            let mut room = 0;
            for (index, group) in groups.iter().enumerate() {
                let wanted = match work {
                    PassKind::Reference => !knows(group),
                    PassKind::Ratios => chunks[index].len() > 1 || config.second_moment_max > 0.0,
                    PassKind::Gradient => true,
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
        Self { batch, lesson, pieces, differences: vec![] }
    }
}

impl Part {
    fn tokens(&self, group: &CritiqueGroup) -> usize {
        let critiques = &group.critiques[self.critiques.clone()];
        group.prefix_ids.len() + critiques.iter().map(|critique| critique.completion.ids.len()).sum::<usize>()
    }

    fn packed<'a>(&self, group: &'a CritiqueGroup) -> Packed<'a> {
        let critiques = &group.critiques[self.critiques.clone()];
        Packed {
            prefix: &group.prefix_ids,
            texts: critiques.iter().map(|critique| critique.completion.ids.as_slice()).collect(),
        }
    }
}

impl Learner {
    /// Does one piece.
    pub(super) fn run(&mut self, piece: &Piece, under_way: &mut UnderWay) -> Result<(), Error> {
        let groups = under_way.lesson.groups.clone();
        let packed: Vec<Packed<'_>> = piece.parts.iter().map(|part| part.packed(&groups[part.group])).collect();
        let Self { model, config, trained, reference, references, value, arena, .. } = self;
        let batch = ScoreBatch { packed: &packed, temperature: self.temperature };
        let current = match piece.work {
            PassKind::Reference => reference.is_none().then_some(CriticVersion::BASE),
            PassKind::Ratios => None,
            PassKind::Gradient => self.published.filter(|&(_, step)| step == self.step).map(|(version, _)| version),
        };
        let mut desk = PassContext { piece, packed: &packed, current, config, references, value, under_way };
        let scored = match piece.work {
            PassKind::Reference => {
                let branches = reference.as_mut().map(|reference| reference.branches(model)).transpose()?;
                score::score_in(model, batch, branches, arena)?
            }
            PassKind::Ratios => trained.score(model, batch, arena)?,
            PassKind::Gradient => {
                return trained.learn(model, batch, config.activation_policy(), arena, |scored| {
                    desk.note(scored);
                    desk.weigh()
                });
            }
        };
        desk.note(&scored);
        Ok(())
    }
}

/// Where a piece's log-probabilities become references, ratios and weights.
struct PassContext<'a> {
    piece: &'a Piece,
    packed: &'a [Packed<'a>],
    /// The version that serves exactly the weights that the piece is scored with, where one does.
    current: Option<CriticVersion>,
    config: &'a LearnerConfig,
    references: &'a mut References,
    value: &'a mut Option<Value>,
    under_way: &'a mut UnderWay,
}

impl PassContext<'_> {
    /// Keeps what a pass tells: references, or log-ratios.
    fn note(&mut self, scored: &Scored) {
        let (piece, under_way) = (self.piece, &mut *self.under_way);
        let mut rest = scored.log_probs.as_slice();
        for ((part, packed), hidden) in piece.parts.iter().zip(self.packed).zip(&scored.prefixes) {
            let group = under_way.lesson.groups[part.group].clone();
            let critiques = &group.critiques[part.critiques.clone()];
            let (ours, others) = rest.split_at(packed.texts.iter().map(|text| text.len()).sum());
            rest = others;
            let by_text = split(ours, packed);
            under_way.compare_with_sampler(&by_text, self.current, critiques);
            if piece.work == PassKind::Reference {
                let hidden = if self.value.is_some() { hidden.as_slice() } else { &[] };
                self.references.remember(group.episode.0, part.critiques.start, by_text, hidden);
                continue;
            }
            let Some(known) = self.references.get(group.episode.0) else { unreachable!("references come first") };
            let reference = &known.log_probs[part.critiques.clone()];
            let sampled = critiques.iter().map(|critique| &critique.completion.log_probs);
            let ratios = by_text.iter().zip(reference).zip(sampled);
            let ratios = ratios.map(|((ours, reference), mu)| [log_ratio(ours, reference), log_ratio(ours, mu)]);
            under_way.lesson.note(part.group, ratios);
        }
    }

    /// Loss of the piece's groups, and what each log-probability weighs in its gradient: that of
    /// `sum_i (d loss / d r_i) log pi(c_i)` is the loss's own.
    fn weigh(&mut self) -> Vec<f32> {
        let Self { piece, packed, config, value, references, under_way, .. } = self;
        let mut weights = vec![];
        for (part, packed) in piece.parts.iter().zip(*packed) {
            let hidden = references.get(under_way.lesson.groups[part.group].episode.0);
            let value = value.as_mut().zip(hidden.map(|known| known.hidden.as_slice()));
            let first = part.critiques.start == 0;
            let gradient = under_way.lesson.teach(config, part.group, first, value);
            for (text, slope) in packed.texts.iter().zip(&gradient[part.critiques.clone()]) {
                weights.extend(std::iter::repeat_n(*slope as f32, text.len()));
            }
        }
        weights
    }
}

impl UnderWay {
    /// Notes how far the sampler's log-probs lie from this pass, for texts written by the very same weights.
    fn compare_with_sampler(
        &mut self,
        by_text: &[Vec<f32>],
        current: Option<CriticVersion>,
        critiques: &[ScoredCritique],
    ) {
        for (ours, critique) in by_text.iter().zip(critiques) {
            if Some(critique.completion.version) == current {
                let pairs = ours.iter().zip(&critique.completion.log_probs);
                self.differences.extend(pairs.map(|(ours, sampler)| (ours - sampler).abs()));
            }
        }
    }
}

/// The group's critiques in runs that fit `tokens_max` with their prefix; at least one critique each.
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

/// `log pi(c) - log q(c)`, summed over the critique's tokens.
fn log_ratio(policy: &[f32], other: &[f32]) -> f32 {
    policy.iter().zip(other).map(|(&p, &r)| f64::from(p) - f64::from(r)).sum::<f64>() as f32
}
