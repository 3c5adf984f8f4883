//! The `score` pass over plain tensors: attention in f32 and in tiles, differentiable with respect to an adapter.
//!
//! A recorded pass is a chain of pieces, each layer one and the head the last. The gradient goes through them backwards, one
//! at a time: of a piece its input is kept, and its graph too or computed again ([`ActivationPolicy`]). Within a piece, what is
//! wide keeps only its input as well. Frozen weights get no gradient.

use super::adapter::{AdapterVars, LinearFactors};
use super::decode::LOGIT_ROWS_MAX;
use super::layout::Dense;
use super::qkv::{ByLayerKind, QkvRotation};
use super::{attention, graph, ops};
use crate::formats::spec::ModelSpec;
use crate::transformer::error::Error;
use crate::transformer::error::Result;
use crate::transformer::rope::Tables;
use crate::transformer::score::{
    ActivationPolicy, AdapterGradients, Arena, FullGradients, Packed, RecordedPass, ScoreBatch, Scored, Segments,
};
use crate::transformer::stack::{Linear, Pass, QkNorms, Stack};
use candle_core::{Tensor, Var};
use std::sync::Arc;

/// Log-probabilities of a batch, without a graph.
pub(super) fn score(model: &Stack<Dense>, batch: ScoreBatch<'_>, adapter: Option<&AdapterVars>) -> Result<Scored> {
    let adapter = adapter.map(|adapter| Arc::new(adapter.tensors(false)));
    let mut scored = Scored::default();
    for packed in batch.packed {
        let mut sequence = Sequence::new(model, packed, batch.temperature, adapter.clone())?;
        let x = (0..model.spec().layers).try_fold(sequence.embedded(packed)?, |x, index| sequence.piece(index, &x))?;
        let log_probs = sequence.piece(model.spec().layers, &x)?;
        sequence.finish(&x, &log_probs, &mut scored)?;
    }
    Ok(scored)
}

/// Log-probabilities of a batch, and what their gradient with respect to `adapter` needs.
pub(super) fn record<'a>(
    model: &'a Stack<Dense>,
    batch: ScoreBatch<'_>,
    adapter: &'a AdapterVars,
    policy: ActivationPolicy,
) -> Result<(Scored, DenseTape<'a>)> {
    let tensors = Arc::new(adapter.tensors(true));
    let (mut scored, mut sequences) = (Scored::default(), vec![]);
    for packed in batch.packed {
        let mut recorded = RecordedSequence {
            sequence: Sequence::new(model, packed, batch.temperature, Some(tensors.clone()))?,
            first: adapter.first_layer().unwrap_or(model.spec().layers),
            pieces: vec![],
        };
        recorded.run(packed, policy, &mut scored)?;
        sequences.push(recorded);
    }
    Ok((scored, DenseTape { sequences, adapter }))
}

/// A recorded pass over a batch.
pub(super) struct DenseTape<'a> {
    sequences: Vec<RecordedSequence<'a>>,
    adapter: &'a AdapterVars,
}

impl RecordedPass for DenseTape<'_> {
    fn backward(self: Box<Self>, weights: &[f32], gradients: &mut AdapterGradients, _: &mut Arena) -> Result<()> {
        let mut rest = weights;
        *gradients = AdapterGradients::default();
        for sequence in self.sequences {
            let (ours, others) = rest.split_at(sequence.sequence.targets.elem_count());
            rest = others;
            sequence.backward(ours, self.adapter, gradients)?;
        }
        Ok(())
    }

    fn backward_full(self: Box<Self>, _: &[f32], _: &mut FullGradients, _: &mut Arena) -> Result<()> {
        Err(Error::OtherBackend)
    }
}

/// A packed sequence that was scored, as far as its gradient needs it.
struct RecordedSequence<'a> {
    sequence: Sequence<'a>,
    /// The first piece that the gradient reaches: no layer before it has factors.
    first: usize,
    /// From that one to the head.
    pieces: Vec<Piece>,
}

/// A piece of the pass: what went in, and its graph if that is kept.
struct Piece {
    input: Tensor,
    output: Option<Tensor>,
}

impl RecordedSequence<'_> {
    /// Scores `packed` and keeps what `policy` says.
    fn run(&mut self, packed: &Packed<'_>, policy: ActivationPolicy, scored: &mut Scored) -> Result<()> {
        let head = self.sequence.model.spec().layers;
        let mut x = self.sequence.embedded(packed)?;
        for index in 0..head {
            x = self.record_piece(index, &x, policy)?;
        }
        let log_probs = self.record_piece(head, &x, policy)?;
        self.sequence.finish(&x, &log_probs, scored)
    }

    /// The output of piece `index` for `x`, without a graph; keeps what its gradient needs.
    fn record_piece(&mut self, index: usize, x: &Tensor, policy: ActivationPolicy) -> Result<Tensor> {
        if index < self.first {
            return self.sequence.piece(index, x);
        }
        // Nothing before the first piece gets a gradient.
        let input = if index == self.first { x.clone() } else { Var::from_tensor(x)?.into_inner() };
        let output = self.sequence.piece(index, &input)?;
        // The head's graph holds no logits, only the states that they are computed from.
        let keeps = policy == ActivationPolicy::KeepAll || index == self.sequence.pass.spec.layers;
        let kept = keeps.then(|| output.clone());
        self.pieces.push(Piece { input, output: kept });
        Ok(output.detach())
    }

    /// Adds the gradient of the sum of the log-probabilities, each with a weight.
    fn backward(mut self, weights: &[f32], adapter: &AdapterVars, gradients: &mut AdapterGradients) -> Result<()> {
        let mut dy = Tensor::new(weights, self.sequence.targets.device())?;
        for (index, piece) in self.pieces.into_iter().enumerate().rev() {
            let output = match piece.output {
                Some(output) => output,
                None => self.sequence.piece(self.first + index, &piece.input)?,
            };
            let store = graph::gradients(&[(output, dy.clone())])?;
            adapter.add_gradients(&store, gradients)?;
            if index > 0 {
                let dx = store.get(&piece.input).map(Tensor::detach);
                dy = dx.ok_or_else(|| candle_core::Error::Msg("a layer that its input does not reach".into()))?;
            }
        }
        Ok(())
    }
}

/// One packed sequence to be scored: the model, and what its pieces share.
struct Sequence<'a> {
    model: &'a Stack<Dense>,
    pass: ScorePass<'a>,
    /// Tokens of the prefix.
    prefix: usize,
    /// Rows whose logits predict the targets, `(targets)`.
    predicting: Tensor,
    /// Ids of the texts, `(targets)`.
    targets: Tensor,
    /// What logits are multiplied by.
    scale: f32,
}

impl<'a> Sequence<'a> {
    fn new(
        model: &'a Stack<Dense>,
        packed: &Packed<'_>,
        temperature: f32,
        adapter: Option<Arc<LinearFactors>>,
    ) -> Result<Self> {
        let (spec, device) = (model.spec(), &model.layout().device);
        let segments = Segments::of(packed);
        let rows = packed.tokens();
        let positions: Vec<usize> = (0..rows).map(|row| segments.position(row)).collect();
        let tables = Tables::new(spec, &positions);
        let pass = ScorePass {
            spec,
            angles: ByLayerKind::new(spec, |layer| ops::angles(tables.of(spec, layer), rows, device))?,
            masks: ByLayerKind::new(spec, |layer| {
                let mask = segments.mask(spec.window(layer));
                Ok(Tensor::from_vec(mask, (1, rows, rows), device)?)
            })?,
            adapter,
        };
        let targets: Vec<u32> = packed.texts.iter().copied().flatten().copied().collect();
        Ok(Self {
            model,
            pass,
            prefix: packed.prefix.len(),
            predicting: Tensor::new(packed.predicting_rows(), device)?,
            targets: Tensor::new(targets, device)?,
            scale: 1.0 / temperature,
        })
    }

    /// The embeddings of `packed`, `(rows, hidden)`.
    fn embedded(&self, packed: &Packed<'_>) -> Result<Tensor> {
        self.model.embed(&packed.ids().collect::<Vec<_>>())
    }

    /// The output of a piece: of layer `index`, `(rows, hidden)` to `(rows, hidden)`; of the head, which follows the layers, the
    /// log-probabilities of the targets, `(rows, hidden)` to `(targets)`.
    fn piece(&mut self, index: usize, x: &Tensor) -> Result<Tensor> {
        if index < self.pass.spec.layers {
            return self.model.layer_forward(index, x.clone(), &mut self.pass);
        }
        let hidden = self.pass.norm(x, self.model.norm())?.index_select(&self.predicting, 0)?; // (targets, hidden)
        Ok(graph::log_probs(&hidden, self.model.head(), &self.targets, self.scale, LOGIT_ROWS_MAX)?)
    }

    /// Adds the results: `x` is what went into the head, `log_probs` what came out.
    fn finish(&mut self, x: &Tensor, log_probs: &Tensor, scored: &mut Scored) -> Result<()> {
        let prefix = self.pass.norm(&x.narrow(0, self.prefix - 1, 1)?, self.model.norm())?; // (1, hidden)
        scored.log_probs.extend(log_probs.to_vec1::<f32>()?);
        scored.prefixes.push(prefix.squeeze(0)?.to_vec1()?);
        Ok(())
    }
}

struct ScorePass<'a> {
    spec: &'a ModelSpec,
    angles: ByLayerKind<(Tensor, Tensor)>,
    /// Added to the scores, `(1, rows, rows)`.
    masks: ByLayerKind<Tensor>,
    adapter: Option<Arc<LinearFactors>>,
}

impl Pass for ScorePass<'_> {
    type Layout = Dense;
    type Rows = Tensor;

    fn linear(&mut self, layer: usize, linear: Linear, weight: &Tensor, x: Tensor) -> Result<Tensor> {
        let factors = self.adapter.as_ref().and_then(|adapter| adapter.0.get(&(layer, linear)));
        Ok(match factors {
            Some(factors) => graph::adapted_product(&x, weight, factors)?,
            None => graph::frozen_product(&x, weight)?,
        })
    }

    fn bias(&mut self, x: Tensor, bias: &Tensor) -> Result<Tensor> {
        let value = x.detach().broadcast_add(bias)?;
        Ok(graph::node("bias", &x, value, |_, dy| Ok(dy.clone()))?)
    }

    fn add(&mut self, x: Tensor, h: Tensor) -> Result<Tensor> {
        Ok((x + h)?)
    }

    fn copied(&mut self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn norm(&mut self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (weight, epsilon) = (weight.clone(), self.spec.norm_epsilon);
        let value = ops::norm(&x.detach(), &weight, epsilon)?;
        Ok(graph::node("norm", x, value, move |x, dy| ops::norm_gradient(x, &weight, epsilon, dy))?)
    }

    fn attend(&mut self, layer: usize, norms: Option<&QkNorms<Dense>>, qkv: Tensor) -> Result<Tensor> {
        let rotation = QkvRotation::new(self.spec, norms, self.angles.of(self.spec, layer));
        let (mask, scale) = (self.masks.of(self.spec, layer).clone(), rotation.heads.scale);
        let tile = attention::tile_rows(qkv.dim(0)?, rotation.heads.heads);
        let out = attention::attend_in_tiles(&rotation.apply(&qkv.detach())?, &mask, scale, tile)?;
        Ok(graph::node("attention", &qkv, out, move |qkv, dy| {
            graph::gradient_of(qkv, |qkv| {
                let rotated = rotation.apply(qkv)?;
                let gradient = attention::gradient(&rotated.detached(), &mask, scale, tile, dy)?;
                Ok(vec![(rotated.q, gradient.q), (rotated.k, gradient.k), (rotated.v, gradient.v)])
            })
        })?)
    }

    fn gated(&mut self, gate_up: Tensor) -> Result<Tensor> {
        let activation = self.spec.layer_spec.activation;
        let value = ops::gated(&gate_up.detach(), activation)?;
        Ok(graph::node("gate", &gate_up, value, move |x, dy| ops::gated_gradient(x, activation, dy))?)
    }
}
