//! The `score` pass over plain tensors: plain attention in f32, differentiable with respect to an adapter.
//!
//! Each piece of a layer keeps its input alone and is computed again for the gradient; frozen weights get none.

use super::{ByKind, Dense, Turn, ops};
use crate::model::Result;
use crate::model::rotary::Tables;
use crate::model::score::{Branches, Segments};
use crate::model::spec::ModelSpec;
use crate::model::transformer::{Linear, Pass, QkNorms, Stack};
use candle_core::Tensor;

/// What one packed pass computes.
pub(crate) struct Scored<'a> {
    /// Ids of the prefix and the texts, `(rows)`.
    pub(crate) ids: &'a [u32],
    /// Who sees whom.
    pub(crate) segments: &'a Segments,
    /// Rows whose logits are wanted.
    pub(crate) predicting: &'a [u32],
    /// The id that each of them predicts.
    pub(crate) targets: &'a [u32],
    /// Logits are multiplied by it.
    pub(crate) scale: f32,
}

/// Log-probabilities of the targets, `(targets)`.
pub(crate) fn log_probs(model: &Stack<Dense>, wanted: &Scored<'_>, branches: Option<&Branches>) -> Result<Tensor> {
    let (spec, device) = (model.spec(), &model.form().device);
    let rows = wanted.ids.len();
    let positions: Vec<usize> = (0..rows).map(|row| wanted.segments.position(row)).collect();
    let tables = Tables::new(spec, &positions);
    let mut pass = ScorePass {
        spec,
        angles: ByKind::new(spec, |layer| ops::angles(tables.of(spec, layer), rows, device))?,
        masks: ByKind::new(spec, |layer| {
            let mask = wanted.segments.mask(spec.window(layer));
            Ok(Tensor::from_vec(mask, (1, rows, rows), device)?)
        })?,
        branches: branches.map(|branches| branches.to_device(device)).transpose()?,
    };
    let hidden = model.walk(model.embed(wanted.ids)?, &mut pass)?; // (rows, hidden)
    let hidden = hidden.index_select(&Tensor::new(wanted.predicting, device)?, 0)?; // (targets, hidden)
    let logits = ops::frozen_product(&hidden, model.head())?; // (targets, vocab)
    let (targets, scale) = (Tensor::new(wanted.targets, device)?, wanted.scale);
    Ok(ops::recomputed(&logits, move |logits| ops::picked_log_softmax(logits, &targets, scale))?)
}

struct ScorePass<'a> {
    spec: &'a ModelSpec,
    angles: ByKind<(Tensor, Tensor)>,
    /// Added to the scores, `(1, rows, rows)`.
    masks: ByKind<Tensor>,
    branches: Option<Branches>,
}

impl Pass for ScorePass<'_> {
    type Form = Dense;
    type Rows = Tensor;

    fn linear(&mut self, layer: usize, linear: Linear, weight: &Tensor, x: Tensor) -> Result<Tensor> {
        let base = ops::frozen_product(&x, weight)?; // (rows, outputs)
        let added = self.branches.as_ref().map(|branches| branches.added(layer, linear, self.spec, &x)).transpose()?;
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
