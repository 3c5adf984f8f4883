//! The `score` pass over plain tensors: plain attention in f32, differentiable with respect to an adapter.
//!
//! Each piece of a layer keeps only its input and is computed again for the gradient. Frozen weights get no gradient.

use super::adapter::{AdapterTensors, AdapterVars};
use super::layout::Dense;
use super::ops;
use super::qkv::{ByLayerKind, QkvRotation};
use crate::formats::spec::ModelSpec;
use crate::transformer::error::Error;
use crate::transformer::error::Result;
use crate::transformer::rope::Tables;
use crate::transformer::score::{
    AdapterGradients, Arena, FullGradients, Packed, RecordedPass, ScoreBatch, Scored, Segments,
};
use crate::transformer::stack::{Linear, Pass, QkNorms, Stack};
use candle_core::Tensor;

/// The graph of a recorded pass.
pub(super) struct DenseTape<'a> {
    /// Log-probabilities of each packed sequence's targets.
    log_probs: Vec<Tensor>,
    adapter: &'a AdapterVars,
}

/// Log-probabilities of a batch, without a graph.
pub(super) fn score(model: &Stack<Dense>, batch: ScoreBatch<'_>, adapter: Option<&AdapterVars>) -> Result<Scored> {
    Ok(score_all(model, batch, adapter.map(|adapter| adapter.tensors(false)).as_ref())?.0)
}

/// Log-probabilities of a batch and their graph.
pub(super) fn record<'a>(
    model: &Stack<Dense>,
    batch: ScoreBatch<'_>,
    adapter: &'a AdapterVars,
) -> Result<(Scored, DenseTape<'a>)> {
    let (scored, log_probs) = score_all(model, batch, Some(&adapter.tensors(true)))?;
    Ok((scored, DenseTape { log_probs, adapter }))
}

impl RecordedPass for DenseTape<'_> {
    fn backward(self: Box<Self>, weights: &[f32], gradients: &mut AdapterGradients, _: &mut Arena) -> Result<()> {
        let mut rest = weights;
        *gradients = AdapterGradients::default();
        for log_probs in self.log_probs {
            let (ours, others) = rest.split_at(log_probs.elem_count());
            rest = others;
            let weighted = (&log_probs * Tensor::new(ours, log_probs.device())?)?.sum_all()?;
            let of_sequence = self.adapter.gradients(&weighted.backward()?)?;
            of_sequence
                .factors
                .into_iter()
                .for_each(|((layer, projection), pair)| gradients.add(layer, projection, pair));
        }
        Ok(())
    }

    fn backward_full(self: Box<Self>, _: &[f32], _: &mut FullGradients, _: &mut Arena) -> Result<()> {
        Err(Error::OtherBackend)
    }
}

/// Scores each packed sequence by itself. Returns the results, and the log-probabilities as tensors too.
fn score_all(
    model: &Stack<Dense>,
    batch: ScoreBatch<'_>,
    adapter: Option<&AdapterTensors>,
) -> Result<(Scored, Vec<Tensor>)> {
    let (mut scored, mut tensors) = (Scored::default(), vec![]);
    for packed in batch.packed {
        let (log_probs, prefix) = score_one(model, packed, 1.0 / batch.temperature, adapter)?;
        scored.log_probs.extend(log_probs.to_vec1::<f32>()?);
        scored.prefixes.push(prefix.to_vec1()?);
        tensors.push(log_probs);
    }
    Ok((scored, tensors))
}

/// Log-probabilities of the texts' ids, `(targets)`, and the normalised state of the prefix's last token, `(hidden)`.
fn score_one(
    model: &Stack<Dense>,
    packed: &Packed<'_>,
    scale: f32,
    adapter: Option<&AdapterTensors>,
) -> Result<(Tensor, Tensor)> {
    let (spec, device) = (model.spec(), &model.layout().device);
    let segments = Segments::of(packed);
    let rows = packed.tokens();
    let positions: Vec<usize> = (0..rows).map(|row| segments.position(row)).collect();
    let tables = Tables::new(spec, &positions);
    let mut pass = ScorePass {
        spec,
        angles: ByLayerKind::new(spec, |layer| ops::angles(tables.of(spec, layer), rows, device))?,
        masks: ByLayerKind::new(spec, |layer| {
            let mask = segments.mask(spec.window(layer));
            Ok(Tensor::from_vec(mask, (1, rows, rows), device)?)
        })?,
        adapter,
    };
    let ids: Vec<u32> = packed.ids().collect();
    let hidden = model.forward(model.embed(&ids)?, &mut pass)?; // (rows, hidden)
    let prefix = hidden.get(packed.prefix.len() - 1)?.detach(); // (hidden)
    let hidden = hidden.index_select(&Tensor::new(packed.predicting_rows(), device)?, 0)?; // (targets, hidden)
    let logits = ops::frozen_product(&hidden, model.head())?; // (targets, vocab)
    let targets: Vec<u32> = packed.texts.iter().copied().flatten().copied().collect();
    let targets = Tensor::new(targets, device)?;
    Ok((ops::recomputed(&logits, move |logits| ops::picked_log_softmax(logits, &targets, scale))?, prefix))
}

struct ScorePass<'a> {
    spec: &'a ModelSpec,
    angles: ByLayerKind<(Tensor, Tensor)>,
    /// Added to the scores, `(1, rows, rows)`.
    masks: ByLayerKind<Tensor>,
    adapter: Option<&'a AdapterTensors>,
}

impl Pass for ScorePass<'_> {
    type Layout = Dense;
    type Rows = Tensor;

    fn linear(&mut self, layer: usize, linear: Linear, weight: &Tensor, x: Tensor) -> Result<Tensor> {
        let base = ops::frozen_product(&x, weight)?; // (rows, outputs)
        let added = self.adapter.map(|adapter| adapter.added(layer, linear, self.spec, &x)).transpose()?;
        Ok(if let Some(added) = added.flatten() { (base + added)? } else { base })
    }

    fn bias(&mut self, x: Tensor, bias: &Tensor) -> Result<Tensor> {
        Ok(x.broadcast_add(bias)?)
    }

    fn add(&mut self, x: Tensor, h: Tensor) -> Result<Tensor> {
        Ok((x + h)?)
    }

    fn copied(&mut self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn norm(&mut self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (weight, epsilon) = (weight.clone(), self.spec.norm_epsilon);
        Ok(ops::recomputed(x, move |x| ops::norm(x, &weight, epsilon))?)
    }

    fn attend(&mut self, layer: usize, norms: Option<&QkNorms<Dense>>, qkv: Tensor) -> Result<Tensor> {
        let rotation = QkvRotation::new(self.spec, norms, self.angles.of(self.spec, layer));
        let mask = self.masks.of(self.spec, layer).clone();
        Ok(ops::recomputed(&qkv, move |qkv| {
            let qkv = rotation.apply(qkv)?;
            let [q, k, v] = [qkv.q.unsqueeze(0)?, qkv.k.unsqueeze(0)?, qkv.v.unsqueeze(0)?];
            ops::attention(&q, &k, &v, &mask, rotation.heads.scale)?.squeeze(0) // (rows, heads * head_dim)
        })?)
    }

    fn gated(&mut self, gate_up: Tensor) -> Result<Tensor> {
        let activation = self.spec.layer_spec.activation;
        Ok(ops::recomputed(&gate_up, move |gate_up| ops::gated(gate_up, activation))?)
    }
}
