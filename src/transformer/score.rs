//! The `score` pass: log-probabilities of given ids, and their gradient with respect to an adapter or to all weights.
//!
//! Each prefix is computed once, and each text behind it attends to the prefix and to itself, from the position after
//! the prefix on. On the CPU the backward pass is written out, layer by layer, over the panels of frozen weights that
//! the forward pass reads; on a GPU the tensor library differentiates. Frozen weights' gradients are never formed.

mod arena;
mod attention;
mod branches;
mod full_weights;
mod gradients;
mod head;
mod layer;
mod packed;
#[cfg(test)]
mod tests;

pub(crate) use arena::Arena;
pub(crate) use full_weights::record_full_in;
pub use full_weights::{FullGradients, record_full};
pub use gradients::AdapterGradients;
pub use packed::Packed;
pub(crate) use packed::Segments;

use super::dense;
use super::full_weights::ParamBlock;
use super::rope::Tables;
use super::{Panels, Placed, Stack, Transformer};
use crate::formats::adapter::Adapter;
use crate::formats::spec::{ModelSpec, Projection};
use crate::formats::{Error, Result};
use attention::{Blocks, Tree};
use branches::PackedBranches;
use full_weights::{GradTarget, HeadInputs};
use layer::{Tape, Walk};
use std::collections::BTreeSet;
use std::sync::Arc;

/// An adapter laid out for the score pass over the weights of one model.
#[derive(Debug)]
pub struct ScoreAdapter(Laid);

#[derive(Debug)]
enum Laid {
    Panels(PackedBranches),
    Dense(dense::Trainable),
}

impl ScoreAdapter {
    /// Lays `adapter` out as the weights of `model` lie.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn new(model: &Transformer, adapter: &Adapter) -> Result<Self> {
        let (rank, scale) = (adapter.config.rank, adapter.config.scale());
        Ok(Self(match &model.0 {
            Placed::Panels(stack) => Laid::Panels(PackedBranches::new(stack.spec(), rank, scale, &adapter.factors)),
            Placed::Dense(stack) => Laid::Dense(dense::Trainable::new(adapter, stack)?),
        }))
    }

    /// Takes `A` and `B` of other factors for the same places in the memory that is there; whether it can.
    pub(crate) fn refill<'f>(
        &mut self,
        scale: f32,
        factors: impl Fn(usize, Projection) -> (&'f [f32], &'f [f32]) + Sync,
    ) -> bool {
        let Laid::Panels(branches) = &mut self.0 else { return false };
        branches.refill(scale, factors);
        true
    }

    fn packed(&self) -> Result<&PackedBranches> {
        match &self.0 {
            Laid::Panels(branches) => Ok(branches),
            Laid::Dense(_) => Err(Error::OtherForm),
        }
    }

    fn dense(&self) -> Result<&dense::Trainable> {
        match &self.0 {
            Laid::Dense(branches) => Ok(branches),
            Laid::Panels(_) => Err(Error::OtherForm),
        }
    }
}

/// What is scored in one pass.
#[derive(Clone, Copy, Debug)]
pub struct ScoreBatch<'a> {
    /// Prefixes and their texts.
    pub packed: &'a [Packed<'a>],
    /// Logits are divided by it.
    pub temperature: f32,
}

/// What a pass over a batch found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// Log-probabilities of the texts' ids, `(ids of all texts)`, text after text.
    pub log_probs: Vec<f32>,
    /// The normalised hidden state, `(hidden)`, of each prefix's last token.
    pub prefixes: Vec<Vec<f32>>,
}

/// A pass that can still be differentiated.
pub struct Recorded<'a> {
    /// What it found.
    pub scored: Scored,
    graph: Graph<'a>,
}

enum Graph<'a> {
    Panels(Box<Record<'a>>),
    Dense(dense::score::Record<'a>),
}

/// How a recorded pass keeps what its gradient needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationPolicy {
    /// All of every layer.
    KeepAll,
    /// Each layer's input alone; the rest is computed again (gradient checkpointing, arXiv 1604.06174).
    Recompute,
}

/// Floats that a recorded pass over `tokens` tokens takes at most, an adapter of `rank` on every linear included: what a
/// memory plan reckons with. Rank 0 says that all weights are trained; then the `targets` predicted ids count.
pub fn activation_floats(
    spec: &ModelSpec,
    rank: usize,
    tokens: usize,
    targets: usize,
    keep: ActivationPolicy,
) -> usize {
    let layer = layer::tape_floats(spec, rank);
    let kept = match keep {
        ActivationPolicy::KeepAll => spec.layers * layer,
        ActivationPolicy::Recompute => spec.layers * spec.hidden + layer,
    };
    // The head's rows have room for every token's.
    let head = match rank {
        0 => head::working_floats(spec.vocab, targets),
        _ => tokens * head::log_probs_floats(spec.vocab, spec.hidden),
    };
    tokens * (kept + layer::working_floats(spec, rank) + spec.hidden) + head
}

/// Log-probabilities of a batch under `branches`, or under the base model without.
///
/// # Errors
/// Where the model was loaded for decoding alone, a prefix or a text is empty, an id is unknown, or the device fails.
pub fn score(model: &Transformer, batch: ScoreBatch<'_>, branches: Option<&ScoreAdapter>) -> Result<Scored> {
    score_in(model, batch, branches, &mut Arena::default())
}

/// [`score`] in the memory of `space`.
pub(crate) fn score_in(
    model: &Transformer,
    batch: ScoreBatch<'_>,
    branches: Option<&ScoreAdapter>,
    space: &mut Arena,
) -> Result<Scored> {
    let stack = match check(model, &batch)? {
        Placed::Panels(stack) => stack,
        Placed::Dense(stack) => {
            return dense::score::score(stack, batch, branches.map(ScoreAdapter::dense).transpose()?);
        }
    };
    let branches = branches.map(ScoreAdapter::packed).transpose()?;
    Ok(Record::new(stack, batch, branches, None, space)?.0)
}

/// A pass over a batch that [`Recorded::backward`] can differentiate.
///
/// # Errors
/// As [`score`].
pub fn record<'a>(
    model: &'a Transformer,
    batch: ScoreBatch<'_>,
    branches: &'a ScoreAdapter,
    keep: ActivationPolicy,
) -> Result<Recorded<'a>> {
    record_in(model, batch, branches, keep, &mut Arena::default())
}

/// [`record`] in the memory of `space`.
pub(crate) fn record_in<'a>(
    model: &'a Transformer,
    batch: ScoreBatch<'_>,
    branches: &'a ScoreAdapter,
    keep: ActivationPolicy,
    space: &mut Arena,
) -> Result<Recorded<'a>> {
    match check(model, &batch)? {
        Placed::Panels(stack) => {
            let branches = branches.packed()?;
            let (scored, record) = Record::new(stack, batch, Some(branches), Some(keep), space)?;
            Ok(Recorded { scored, graph: Graph::Panels(Box::new(record)) })
        }
        Placed::Dense(stack) => {
            let (scored, record) = dense::score::record(stack, batch, branches.dense()?)?;
            Ok(Recorded { scored, graph: Graph::Dense(record) })
        }
    }
}

impl Recorded<'_> {
    /// The gradient of `sum_i weights_i log_probs_i` with respect to the adapter's factors.
    ///
    /// # Errors
    /// Where the device fails, or the pass was recorded for all weights.
    ///
    /// # Panics
    /// Where there are not as many weights as log-probabilities.
    pub fn backward(self, weights: &[f32]) -> Result<AdapterGradients> {
        let mut gradients = AdapterGradients::default();
        self.backward_in(weights, &mut gradients, &mut Arena::default())?;
        Ok(gradients)
    }

    /// [`Recorded::backward`] in the memory of `space`; `gradients` become the pass's, in the memory they have.
    pub(crate) fn backward_in(
        self,
        weights: &[f32],
        gradients: &mut AdapterGradients,
        space: &mut Arena,
    ) -> Result<()> {
        assert_eq!(weights.len(), self.scored.log_probs.len(), "one weight a log-probability");
        match self.graph {
            Graph::Panels(record) if record.spoken.is_some() => return Err(Error::OtherForm),
            Graph::Panels(record) => {
                gradients.clear();
                record.backward(weights, &mut GradTarget::Factors(gradients), space);
            }
            Graph::Dense(record) => *gradients = record.backward(weights)?,
        }
        Ok(())
    }
}

/// The weights to score `batch` with, once it is known to be whole.
fn check<'a>(model: &'a Transformer, batch: &ScoreBatch<'_>) -> Result<&'a Placed> {
    if !model.has_score() {
        return Err(Error::DecodeOnly);
    }
    for packed in batch.packed {
        if packed.prefix.is_empty() || packed.texts.is_empty() || packed.texts.iter().any(|text| text.is_empty()) {
            return Err(Error::EmptyText);
        }
        if let Some(id) = packed.ids().find(|&id| id as usize >= model.spec().vocab) {
            return Err(Error::TokenId { id, vocab: model.spec().vocab });
        }
    }
    Ok(&model.0)
}

/// What the backward pass over panels reads.
struct Record<'a> {
    model: &'a Stack<Panels>,
    branches: Option<&'a PackedBranches>,
    trees: Vec<Tree>,
    positions: Vec<usize>,
    tapes: Vec<Tape>,
    keep: Option<ActivationPolicy>,
    /// Rows that predict, each once, in ascending order: those that are read after the last layer.
    read: Vec<usize>,
    /// The residual stream after the last layer, `(read, hidden)`.
    last: Vec<f32>,
    /// For each predicted id its row of `last`, and the gradient of its log-probability with respect to that row's normalised
    /// state, `(targets, hidden)`; where the head is trained, that state itself.
    predicting: Vec<usize>,
    slopes: Vec<f32>,
    /// What was read and predicted, where all weights are trained.
    spoken: Option<HeadInputs>,
}

impl<'a> Record<'a> {
    fn new(
        model: &'a Arc<Stack<Panels>>,
        batch: ScoreBatch<'_>,
        branches: Option<&'a PackedBranches>,
        keep: Option<ActivationPolicy>,
        space: &mut Arena,
    ) -> Result<(Scored, Self)> {
        let (mut trees, mut positions, mut predicting, mut first) = (vec![], vec![], vec![], 0);
        let (mut ids, mut targets, mut firsts) = (vec![], vec![], vec![]);
        for packed in batch.packed {
            let segments = Segments::of(packed);
            positions.extend((0..packed.tokens()).map(|row| segments.position(row)));
            firsts.push(predicting.len());
            predicting.extend(packed.predicting_rows().into_iter().map(|row| first + row as usize));
            ids.extend(packed.ids());
            targets.extend(packed.texts.iter().copied().flatten());
            trees.push(Tree { segments, rows: first..first + packed.tokens() });
            first += packed.tokens();
        }
        let (spec, rows) = (model.spec(), ids.len());
        space.begin(rows);
        let scale = 1.0 / batch.temperature;
        let is_whole = keep.is_some() && branches.is_none();
        let spoken = is_whole.then(|| HeadInputs::new(&ids, &targets, scale));
        let mut read = predicting.clone();
        read.sort_unstable();
        read.dedup();
        predicting.iter_mut().for_each(|row| *row = read.partition_point(|before| before < row));
        let (tapes, last, slopes) = (vec![], vec![], vec![]);
        let mut record =
            Self { model, branches, trees, positions, tapes, keep, read, last, predicting, slopes, spoken };
        let mut x = space.take(rows, spec.hidden);
        model.embed(&ids, |weight, row, out| weight.score().row(row, out), &mut x)?;
        let walk = record.walk();
        let mut tapes = vec![];
        for index in 0..spec.layers {
            let (after, mut tape) = walk.forward(index, x, space);
            x = after;
            match keep {
                Some(ActivationPolicy::KeepAll) => tapes.push(tape),
                Some(ActivationPolicy::Recompute) => {
                    tape.keep_input(space);
                    tapes.push(tape);
                }
                None => tape.recycle(space),
            }
        }
        let mut hidden = space.take(record.predicting.len(), spec.hidden);
        crate::kernels::ops::by_rows(&mut hidden, spec.hidden, |first, hidden| {
            for (out, &row) in hidden.chunks_exact_mut(spec.hidden).zip(&record.predicting[first..]) {
                crate::kernels::ops::norm_part(
                    &x[row * spec.hidden..][..spec.hidden],
                    out,
                    model.norm(),
                    spec.norm_epsilon,
                );
            }
        });
        let prefixes = firsts.iter().map(|&first| hidden[first * spec.hidden..][..spec.hidden].to_vec()).collect();
        let slopes = keep.is_some() && !is_whole;
        let mut log_probs = vec![0.0; targets.len()];
        head::log_probs(model.head().score(), &mut hidden, &targets, scale, slopes, &mut log_probs);
        (record.tapes, record.last, record.slopes) = (tapes, x, hidden);
        if keep.is_none() {
            space.give(std::mem::take(&mut record.last));
            space.give(std::mem::take(&mut record.slopes));
        }
        Ok((Scored { log_probs, prefixes }, record))
    }

    fn walk(&self) -> Walk<'_> {
        let (spec, trees, rows) = (self.model.spec(), self.trees.as_slice(), self.positions.len());
        let windows: BTreeSet<usize> = (0..spec.layers).map(|layer| spec.window(layer)).collect();
        let blocks = windows.into_iter().map(|window| (window, Blocks::new(trees, window))).collect();
        let angles = Tables::new(spec, &self.positions);
        Walk { model: self.model, branches: self.branches, trees, blocks, angles, rows, read: &self.read }
    }

    fn backward(mut self, weights: &[f32], sought: &mut GradTarget<'_>, space: &mut Arena) {
        let spec = self.model.spec();
        let (hidden, mut tapes) = (spec.hidden, std::mem::take(&mut self.tapes));
        let is_weighted = matches!(sought, GradTarget::All(_));
        if let GradTarget::All(all) = sought {
            self.head_backward(weights, all, space);
        }
        // Of the normalised state: a row predicts the first id of each text behind its prefix.
        let mut normed = space.take(self.last.len() / hidden, hidden);
        normed.fill(0.0);
        for ((&row, slope), weight) in self.predicting.iter().zip(self.slopes.chunks_exact(hidden)).zip(weights) {
            let weight = if is_weighted { 1.0 } else { *weight };
            let to = &mut normed[row * hidden..][..hidden];
            to.iter_mut().zip(slope).for_each(|(to, slope)| *to += weight * slope);
        }
        let mut d = space.take(self.last.len() / hidden, hidden);
        d.fill(0.0);
        sought.norm(ParamBlock::Norm, &self.last, &normed);
        crate::kernels::ops::norm_backward(&self.last, &normed, &mut d, self.model.norm(), spec.norm_epsilon);
        space.give_all([normed, std::mem::take(&mut self.last), std::mem::take(&mut self.slopes)]);
        let walk = self.walk();
        while let Some(mut tape) = tapes.pop() {
            let index = tapes.len();
            if self.keep == Some(ActivationPolicy::Recompute) {
                let (after, whole) = walk.forward(index, tape.x, space);
                space.give(after);
                tape = whole;
            }
            d = walk.backward(index, &tape, d, sought, space);
            tape.recycle(space);
        }
        if let GradTarget::All(all) = sought {
            self.embedding_backward(&d, all);
        }
        space.give(d);
    }
}
