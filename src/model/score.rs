//! The `score` pass: log-probabilities of given ids, differentiable with respect to an adapter.
//!
//! One call scores one prefix and the texts that follow it, packed behind one another: the prefix is
//! computed once, and each text attends to the prefix and to itself, from the position after the prefix
//! on. The frozen weights are those of `decode`; their gradients are never formed.

mod branches;
mod packed;

pub use branches::Branches;
pub use packed::Packed;
pub(crate) use packed::Segments;

use super::attention::Heads;
use super::decode::tensor;
use super::dense::score::Scored;
use super::kernel::Weight;
use super::ops;
use super::rotary::{Angles, Tables};
use super::spec::{Activation, ModelSpec};
use super::transformer::{Linear, Panels, Pass, Placed, QkNorms, Transformer};
use super::{Error, Result};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Shape, Storage, Tensor};
use std::sync::Arc;

/// Floats that one packed pass over `tokens` tokens keeps for its gradient, adapters on every linear, the
/// logits of `targets` of them included: what a memory plan reckons with.
pub fn activation_floats(spec: &ModelSpec, rank: usize, tokens: usize, targets: usize) -> usize {
    let Heads { heads, kv_heads, head_dim, .. } = Heads::of(spec);
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    // Of each linear: the frozen result, the branches, their concatenation, its scaled copy and the sum.
    let linears = 5 * (q + 2 * kv) + 4 * spec.hidden + 5 * 2 * spec.intermediate + 4 * spec.hidden + 7 * rank;
    let attention = 2 * (q + 2 * kv) + 4 * q + 2 * heads * tokens;
    let family = usize::from(spec.block.qkv_bias) * (q + 2 * kv)
        + usize::from(spec.block.qk_norm) * (q + kv)
        + usize::from(spec.block.sandwich_norms) * 2 * spec.hidden;
    let rest = 4 * spec.hidden + spec.intermediate + family;
    // Logits, their gradient and a working copy of each.
    spec.layers * tokens * (linears + attention + rest) + 4 * targets * spec.vocab
}

/// Log-probabilities of the texts' ids under softmax(logits / temperature), `(ids of all texts)`, text
/// after text. Differentiable with respect to `branches`; without branches it is the base model.
///
/// # Errors
/// Where the model was loaded for decoding alone, the prefix or a text is empty, an id is unknown, or the device
/// fails.
pub fn log_probs(
    model: &Transformer,
    packed: &Packed<'_>,
    branches: Option<&Branches>,
    temperature: f32,
) -> Result<Tensor> {
    if !model.has_score() {
        return Err(Error::DecodeOnly);
    }
    if packed.prefix.is_empty() || packed.texts.iter().any(|text| text.is_empty()) {
        return Err(Error::EmptyText);
    }
    let ids: Vec<u32> = packed.prefix.iter().chain(packed.texts.iter().copied().flatten()).copied().collect();
    let targets: Vec<u32> = packed.texts.iter().copied().flatten().copied().collect();
    if let Some(&id) = targets.iter().find(|&&id| id as usize >= model.spec().vocab) {
        return Err(Error::TokenId { id, vocab: model.spec().vocab });
    }
    let segments = Segments::of(packed);
    let predicting = packed.predicting_rows();
    let scale = 1.0 / temperature;
    let model = match &model.0 {
        Placed::Panels(stack) => stack,
        Placed::Dense(stack) => {
            let scored = Scored { ids: &ids, segments: &segments, predicting: &predicting, targets: &targets, scale };
            return super::dense::score::log_probs(stack, &scored, branches);
        }
    };
    let positions: Vec<usize> = (0..ids.len()).map(|row| segments.position(row)).collect();
    let angles = Tables::new(model.spec(), &positions);
    let mut pass = ScorePass { spec: model.spec(), segments: Arc::new(segments), angles, branches };
    let mut x = vec![0.0; ids.len() * model.spec().hidden];
    model.embed(&ids, |weight, row, out| weight.score().row(row, out), &mut x)?;
    let hidden = model.walk(tensor(x, ids.len())?, &mut pass)?; // (rows, hidden)
    let hidden = hidden.index_select(&Tensor::new(predicting, hidden.device())?, 0)?; // (targets, hidden)
    let logits = hidden.apply_op1(Frozen(model.head().clone()))?; // (targets, vocab)
    Ok(logits.apply_op1(Picked { ids: targets, scale })?)
}

struct ScorePass<'a> {
    spec: &'a ModelSpec,
    segments: Arc<Segments>,
    angles: Tables,
    branches: Option<&'a Branches>,
}

impl Pass for ScorePass<'_> {
    type Form = Panels;
    type Rows = Tensor;

    fn linear(&mut self, layer: usize, linear: Linear, weight: &Arc<Weight>, x: Tensor) -> Result<Tensor> {
        let base = x.apply_op1(Frozen(weight.clone()))?; // (rows, outputs)
        let added = self.branches.map(|branches| branches.added(layer, linear, self.spec, &x)).transpose()?;
        Ok(if let Some(added) = added.flatten() { (base + added)? } else { base })
    }

    fn bias(&mut self, x: Tensor, bias: &Vec<f32>) -> Result<Tensor> {
        Ok(x.broadcast_add(&Tensor::new(bias.as_slice(), x.device())?)?)
    }

    fn norm(&mut self, x: &Tensor, weight: &Vec<f32>) -> Result<Tensor> {
        Ok(x.apply_op1(Norm { weight: weight.as_slice().into(), epsilon: self.spec.norm_epsilon })?)
    }

    fn attend(&mut self, layer: usize, norms: Option<&QkNorms<Panels>>, qkv: Tensor) -> Result<Tensor> {
        let Heads { heads, kv_heads, head_dim, scale } = Heads::of(self.spec);
        let (rows, group) = (qkv.dim(0)?, heads / kv_heads);
        let part = |from: usize, heads: usize| -> Result<Tensor> {
            Ok(qkv.narrow(1, from * head_dim, heads * head_dim)?.contiguous()?)
        };
        let angles = self.angles.of(self.spec, layer).clone();
        let mut turned = |x: Tensor, norm: Option<&Vec<f32>>| -> Result<Tensor> {
            // A head is a row to the norm: its weight is as long.
            let x = if let Some(weight) = norm { self.norm(&x, weight)? } else { x };
            Ok(x.apply_op1(Rotate { angles: angles.clone(), half: head_dim / 2 })?)
        };
        let q = turned(part(0, heads)?, norms.map(|norms| &norms.q))?; // (rows, heads * head_dim)
        let k = turned(part(heads, kv_heads)?, norms.map(|norms| &norms.k))?; // (rows, kv_heads * head_dim)
        // Queries of one KV head lie together: (kv_heads, group * rows, head_dim).
        let q = q.reshape((rows, kv_heads, group, head_dim))?.permute((1, 2, 0, 3))?;
        let q = q.contiguous()?.reshape((kv_heads, group * rows, head_dim))?;
        let k = k.reshape((rows, kv_heads, head_dim))?.permute((1, 2, 0))?.contiguous()?; // (kv_heads, head_dim, rows)
        let v = part(heads + kv_heads, kv_heads)?.reshape((rows, kv_heads, head_dim))?.transpose(0, 1)?.contiguous()?;
        let softmax = TreeSoftmax { segments: self.segments.clone(), window: self.spec.window(layer), scale };
        let weights = q.matmul(&k)?.apply_op1(softmax)?; // (kv_heads, group * rows, rows)
        let out = weights.matmul(&v)?.reshape((kv_heads, group, rows, head_dim))?; // (kv_heads, group, rows, head_dim)
        Ok(out.permute((2, 0, 1, 3))?.contiguous()?.reshape((rows, heads * head_dim))?)
    }

    fn gated(&mut self, gate_up: Tensor) -> Result<Tensor> {
        Ok(gate_up.apply_op1(Gated { width: self.spec.intermediate, activation: self.spec.block.activation })?)
    }

    fn add(&mut self, x: Tensor, h: Tensor) -> Result<Tensor> {
        Ok((x + h)?)
    }
}

/// A frozen linear: forward `x W^T`, backward `dy W`; no gradient of `W` is ever formed.
struct Frozen(Arc<Weight>);

/// RMSNorm with a frozen weight.
struct Norm {
    weight: Arc<[f32]>,
    epsilon: f32,
}

/// `activation(gate) * up`.
struct Gated {
    width: usize,
    activation: Activation,
}

/// Rotary positions by row.
struct Rotate {
    angles: Arc<Angles>,
    half: usize,
}

/// Softmax of `scale * scores` over the visible keys; the others get exactly 0.
struct TreeSoftmax {
    segments: Arc<Segments>,
    window: usize,
    scale: f32,
}

/// Log-probability of one id a row under softmax(scale * logits).
struct Picked {
    ids: Vec<u32>,
    scale: f32,
}

/// The values an op reads: contiguous f32.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => candle_core::bail!("expected contiguous f32 values"),
    }
}

/// A gradient of the shape of `like`, written by `write` from the values of `inputs`.
fn gradient<const K: usize>(
    like: &Tensor,
    inputs: [&Tensor; K],
    write: impl FnOnce([&[f32]; K], &mut [f32]),
) -> candle_core::Result<Option<Tensor>> {
    let inputs: Vec<Tensor> = inputs.into_iter().map(Tensor::contiguous).collect::<candle_core::Result<_>>()?;
    let guards: Vec<_> = inputs.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[f32]; K] = [&[]; K];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else { candle_core::bail!("expected a tensor on the cpu") };
        *slice = values(storage, layout)?;
    }
    let mut out = vec![0.0; like.elem_count()];
    write(slices, &mut out);
    Ok(Some(Tensor::from_vec(out, like.shape(), like.device())?))
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, _) = layout.shape().dims2()?;
        let mut y = vec![0.0; rows * self.0.outputs()];
        self.0.score().forward(values(storage, layout)?, &mut y);
        Ok((CpuStorage::F32(y), (rows, self.0.outputs()).into()))
    }
    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        gradient(x, [dy], |[dy], dx| self.0.score().backward(dy, dx))
    }
}

impl CustomOp1 for Norm {
    fn name(&self) -> &'static str {
        "frozen-rms-norm"
    }
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut out = vec![0.0; layout.shape().elem_count()];
        ops::norm(values(storage, layout)?, &mut out, &self.weight, self.epsilon);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        gradient(x, [x, dy], |[x, dy], dx| ops::norm_backward(x, dy, dx, &self.weight, self.epsilon))
    }
}

impl CustomOp1 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, _) = layout.shape().dims2()?;
        let mut out = vec![0.0; rows * self.width];
        ops::gated(values(storage, layout)?, &mut out, self.width, self.activation);
        Ok((CpuStorage::F32(out), (rows, self.width).into()))
    }
    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        gradient(x, [x, dy], |[x, dy], dx| ops::gated_backward(x, dy, dx, self.width, self.activation))
    }
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotary"
    }
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut out = vec![0.0; layout.shape().elem_count()];
        ops::rotate(values(storage, layout)?, &mut out, &self.angles.cos, &self.angles.sin, self.half, 1.0);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        // A rotation's transpose turns the other way.
        gradient(x, [dy], |[dy], dx| ops::rotate(dy, dx, &self.angles.cos, &self.angles.sin, self.half, -1.0))
    }
}

impl CustomOp1 for TreeSoftmax {
    fn name(&self) -> &'static str {
        "tree-softmax"
    }
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let scores = values(storage, layout)?;
        let rows = layout.shape().dims()[layout.shape().rank() - 1];
        let mut out = vec![0.0; scores.len()];
        ops::by_rows(&mut out, rows, |first, out| {
            for (offset, out) in out.chunks_exact_mut(rows).enumerate() {
                let row = first + offset;
                let visible = self.segments.visible(row % rows, self.window);
                let scores = &scores[row * rows..][..rows];
                // Two ranges, one softmax: the larger maximum serves both.
                let parts = visible.clone().map(|keys| ops::softmax_parts(&scores[keys], self.scale));
                let top = parts[0].0.max(parts[1].0);
                let share = |(part_top, sum): (f32, f64)| {
                    if sum == 0.0 { 0.0 } else { sum * f64::from(ops::exp(self.scale * (part_top - top))) }
                };
                let factor = (1.0 / (share(parts[0]) + share(parts[1]))) as f32;
                for keys in visible {
                    ops::softmax_write(&scores[keys.clone()], &mut out[keys], self.scale, top, factor);
                }
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
    fn bwd(&self, x: &Tensor, weights: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let rows = x.dim(D::Minus1)?;
        gradient(x, [weights, dy], |[weights, dy], dx| {
            ops::by_rows(dx, rows, |first, dx| {
                let range = first * rows..first * rows + dx.len();
                let parts = weights[range.clone()].chunks_exact(rows).zip(dy[range].chunks_exact(rows));
                for ((weights, dy), dx) in parts.zip(dx.chunks_exact_mut(rows)) {
                    ops::softmax_backward(weights, dy, dx, self.scale);
                }
            });
        })
    }
}

impl CustomOp1 for Picked {
    fn name(&self) -> &'static str {
        "picked-log-softmax"
    }
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, vocab) = layout.shape().dims2()?;
        let logits = values(storage, layout)?;
        let mut out = vec![0.0; rows];
        for ((out, logits), &id) in out.iter_mut().zip(logits.chunks_exact(vocab)).zip(&self.ids) {
            *out = ops::log_prob(logits, id, self.scale);
        }
        Ok((CpuStorage::F32(out), rows.into()))
    }
    fn bwd(&self, logits: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (_, vocab) = logits.dims2()?;
        gradient(logits, [logits, dy], |[logits, dy], dx| {
            ops::by_rows(dx, vocab, |first, dx| {
                for (offset, dx) in dx.chunks_exact_mut(vocab).enumerate() {
                    let row = first + offset;
                    let logits = &logits[row * vocab..][..vocab];
                    let (top, sum) = ops::softmax_parts(logits, self.scale);
                    let factor = (-f64::from(dy[row] * self.scale) / sum) as f32;
                    ops::softmax_write(logits, dx, self.scale, top, factor);
                    dx[self.ids[row] as usize] += dy[row] * self.scale;
                }
            });
        })
    }
}
