//! The `score` pass over plain tensors: plain attention in f32, differentiable with respect to an adapter.
//!
//! Each piece of a layer keeps its input alone and is computed again for the gradient; frozen weights get none.

use super::{Branches, ByKind, Dense, Trainable, Turn, ops};
use crate::formats::Result;
use crate::transformer::rope::Tables;
use crate::transformer::score::{AdapterGradients, Packed, ScoreBatch, Scored, Segments};

use crate::formats::spec::ModelSpec;
use crate::transformer::{Linear, Pass, QkNorms, Stack};
use candle_core::Tensor;

/// Passes over a batch that can still be differentiated.
pub(crate) struct Record<'a> {
    /// Log-probabilities of each packed sequence's targets.
    log_probs: Vec<Tensor>,
    branches: &'a Trainable,
}

/// Log-probabilities of a batch, without a graph.
pub(crate) fn score(model: &Stack<Dense>, batch: ScoreBatch<'_>, branches: Option<&Trainable>) -> Result<Scored> {
    Ok(all(model, batch, branches.map(|branches| branches.branches(false)).as_ref())?.0)
}

/// Log-probabilities of a batch and their graph.
pub(crate) fn record<'a>(
    model: &Stack<Dense>,
    batch: ScoreBatch<'_>,
    branches: &'a Trainable,
) -> Result<(Scored, Record<'a>)> {
    let (scored, log_probs) = all(model, batch, Some(&branches.branches(true)))?;
    Ok((scored, Record { log_probs, branches }))
}

impl Record<'_> {
    /// The gradient of `sum_i weights_i log_probs_i` with respect to the factors.
    pub(crate) fn backward(self, weights: &[f32]) -> Result<AdapterGradients> {
        let mut rest = weights;
        let mut gradients = AdapterGradients::default();
        for log_probs in self.log_probs {
            let (ours, others) = rest.split_at(log_probs.elem_count());
            rest = others;
            let weighted = (&log_probs * Tensor::new(ours, log_probs.device())?)?.sum_all()?;
            let found = self.branches.gradients(&weighted.backward()?)?;
            found.factors.into_iter().for_each(|((layer, projection), pair)| gradients.add(layer, projection, pair));
        }
        Ok(gradients)
    }
}

/// Each packed sequence by itself: what was found, and its log-probabilities as tensors.
fn all(model: &Stack<Dense>, batch: ScoreBatch<'_>, branches: Option<&Branches>) -> Result<(Scored, Vec<Tensor>)> {
    let (mut scored, mut tensors) = (Scored::default(), vec![]);
    for packed in batch.packed {
        let (log_probs, prefix) = one(model, packed, 1.0 / batch.temperature, branches)?;
        scored.log_probs.extend(log_probs.to_vec1::<f32>()?);
        scored.prefixes.push(prefix.to_vec1()?);
        tensors.push(log_probs);
    }
    Ok((scored, tensors))
}

/// Log-probabilities of the texts' ids, `(targets)`, and the normalised state of the prefix's last token, `(hidden)`.
fn one(model: &Stack<Dense>, packed: &Packed<'_>, scale: f32, branches: Option<&Branches>) -> Result<(Tensor, Tensor)> {
    let (spec, device) = (model.spec(), &model.form().device);
    let segments = Segments::of(packed);
    let rows = packed.tokens();
    let positions: Vec<usize> = (0..rows).map(|row| segments.position(row)).collect();
    let tables = Tables::new(spec, &positions);
    let mut pass = ScorePass {
        spec,
        angles: ByKind::new(spec, |layer| ops::angles(tables.of(spec, layer), rows, device))?,
        masks: ByKind::new(spec, |layer| {
            let mask = segments.mask(spec.window(layer));
            Ok(Tensor::from_vec(mask, (1, rows, rows), device)?)
        })?,
        branches,
    };
    let ids: Vec<u32> = packed.ids().collect();
    let hidden = model.walk(model.embed(&ids)?, &mut pass)?; // (rows, hidden)
    let prefix = hidden.get(packed.prefix.len() - 1)?.detach(); // (hidden)
    let hidden = hidden.index_select(&Tensor::new(packed.predicting_rows(), device)?, 0)?; // (targets, hidden)
    let logits = ops::frozen_product(&hidden, model.head())?; // (targets, vocab)
    let targets: Vec<u32> = packed.texts.iter().copied().flatten().copied().collect();
    let targets = Tensor::new(targets, device)?;
    Ok((ops::recomputed(&logits, move |logits| ops::picked_log_softmax(logits, &targets, scale))?, prefix))
}

struct ScorePass<'a> {
    spec: &'a ModelSpec,
    angles: ByKind<(Tensor, Tensor)>,
    /// Added to the scores, `(1, rows, rows)`.
    masks: ByKind<Tensor>,
    branches: Option<&'a Branches>,
}

impl Pass for ScorePass<'_> {
    type Form = Dense;
    type Rows = Tensor;

    fn linear(&mut self, layer: usize, linear: Linear, weight: &Tensor, x: Tensor) -> Result<Tensor> {
        let base = ops::frozen_product(&x, weight)?; // (rows, outputs)
        let added = self.branches.map(|branches| branches.added(layer, linear, self.spec, &x)).transpose()?;
        Ok(if let Some(added) = added.flatten() { (base + added)? } else { base })
    }

    fn bias(&mut self, x: Tensor, bias: &Tensor) -> Result<Tensor> {
        Ok(x.broadcast_add(bias)?)
    }

    fn add(&mut self, x: Tensor, h: Tensor) -> Result<Tensor> {
        Ok((x + h)?)
    }

    fn norm(&mut self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (weight, epsilon) = (weight.clone(), self.spec.norm_epsilon);
        Ok(ops::recomputed(x, move |x| ops::norm(x, &weight, epsilon))?)
    }

    fn attend(&mut self, layer: usize, norms: Option<&QkNorms<Dense>>, qkv: Tensor) -> Result<Tensor> {
        let turn = Turn::new(self.spec, norms, self.angles.of(self.spec, layer));
        let mask = self.masks.of(self.spec, layer).clone();
        Ok(ops::recomputed(&qkv, move |qkv| {
            let turned = turn.apply(qkv)?;
            let [q, k, v] = [turned.q.unsqueeze(0)?, turned.k.unsqueeze(0)?, turned.v.unsqueeze(0)?];
            ops::attention(&q, &k, &v, &mask, turn.heads.scale)?.squeeze(0) // (rows, heads * head_dim)
        })?)
    }

    fn gated(&mut self, gate_up: Tensor) -> Result<Tensor> {
        let activation = self.spec.block.activation;
        Ok(ops::recomputed(&gate_up, move |gate_up| ops::gated(gate_up, activation))?)
    }
}
