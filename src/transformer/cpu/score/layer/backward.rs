//! A layer's backward pass, from its tape.

use super::context::LayerContext;
use super::linear::DeferredGrad;
use super::tape::LayerTape;
use crate::kernels::attention::Heads;
use crate::kernels::ops;
use crate::transformer::cpu::score::attention::{AttentionOutput, PackedAttention};
use crate::transformer::cpu::score::grad_target::GradTarget;
use crate::transformer::full_weights::{ParamBlock, Vector};
use crate::transformer::score::Arena;
use crate::transformer::stack::Linear;

/// What the deferred gradient of `gate_up` still reads.
struct GateUpBackward {
    /// The linear's input.
    h: Vec<f32>,
    /// The gradient of its output.
    d_gate_up: Vec<f32>,
    /// The gradient of its branch's inner rows.
    d_inner: Vec<f32>,
}

impl LayerContext<'_> {
    /// The gradient of the residual stream before layer `index` from the gradient after it, `d`. Adds the gradients of the
    /// layer's weights to `target`.
    pub(in crate::transformer) fn backward(
        &self,
        index: usize,
        tape: &LayerTape,
        mut d: Vec<f32>,
        target: &mut GradTarget<'_>,
        arena: &mut Arena,
    ) -> Vec<f32> {
        let gate_up = self.mlp_backward(index, tape, &mut d, target, arena);
        self.attention_backward(index, tape, d, gate_up, target, arena)
    }

    /// The feed-forward block: `d` becomes the gradient of the residual stream before it.
    fn mlp_backward(
        &self,
        index: usize,
        tape: &LayerTape,
        d: &mut Vec<f32>,
        target: &mut GradTarget<'_>,
        arena: &mut Arena,
    ) -> GateUpBackward {
        let (layer, spec) = (self.model.layer(index), self.spec());
        let block = |vector| ParamBlock::Vector(index, vector);
        let norm = layer.mlp_output_norm.as_ref();
        let dh = self.output_norm_backward(block(Vector::MlpOutputNorm), [&tape.down, d], norm, target, arena);
        let dy = if dh.is_empty() { &*d } else { &dh };
        let at = (index, Linear::Down);
        let [mut h, d_inner] = self.linear_backward(at, &layer.down, [tape.inner(at.1), dy], None, target, arena);
        let rows = h.len() / spec.intermediate;
        let mut d_gate_up = arena.take(rows, tape.gate_up.len() / rows);
        ops::gated_backward(&tape.gate_up, &mut h, &mut d_gate_up, spec.intermediate, spec.layer_spec.activation);
        let down = DeferredGrad { at, weight: &layer.down, x: &h, dy, d_inner: &d_inner };

        let at = (index, Linear::GateUp);
        let reads = [tape.inner(at.1), &d_gate_up];
        let [d_normed, d_inner_up] = self.linear_backward(at, &layer.gate_up, reads, Some(down), target, arena);
        arena.give_all([h, dh, d_inner]);
        let norm = layer.mlp_norm.as_ref();
        let h = self.norm_backward(block(Vector::MlpNorm), &tape.middle, d_normed, norm, d, target);
        GateUpBackward { h, d_gate_up, d_inner: d_inner_up }
    }

    /// The attention block: returns the gradient of the residual stream before it.
    fn attention_backward(
        &self,
        index: usize,
        tape: &LayerTape,
        mut d: Vec<f32>,
        gate_up: GateUpBackward,
        target: &mut GradTarget<'_>,
        arena: &mut Arena,
    ) -> Vec<f32> {
        let layer = self.model.layer(index);
        let block = |vector| ParamBlock::Vector(index, vector);
        let GateUpBackward { h, d_gate_up, d_inner: d_inner_up } = gate_up;
        let at = (index, Linear::GateUp);
        let gate_up = DeferredGrad { at, weight: &layer.gate_up, x: &h, dy: &d_gate_up, d_inner: &d_inner_up };

        let norm = layer.attention_output_norm.as_ref();
        let dh = self.output_norm_backward(block(Vector::AttentionOutputNorm), [&tape.output, &d], norm, target, arena);
        let output_rows = self.output_rows(index);
        let gathered = output_rows.map(|rows| self.gather(&tape.attended, rows, arena));
        let attended = gathered.as_ref().unwrap_or(&tape.attended);
        let dy = if dh.is_empty() { &d } else { &dh };
        let at = (index, Linear::Output);
        let reads = [tape.inner(at.1), dy];
        let [mut d_attended, d_inner] = self.linear_backward(at, &layer.output, reads, Some(gate_up), target, arena);
        arena.give_all([h, d_inner_up, d_gate_up]);
        let d_all_rows = output_rows.map(|rows| {
            let [d_all_rows, d_attended_all] = [&d, &d_attended].map(|values| self.scatter(values, rows, arena));
            arena.give(std::mem::replace(&mut d_attended, d_attended_all));
            d_all_rows
        });
        let d_qkv = self.heads_backward(index, tape, d_attended, target, arena);
        let output = DeferredGrad { at, weight: &layer.output, x: attended, dy, d_inner: &d_inner };

        let at = (index, Linear::Qkv);
        let reads = [tape.inner(at.1), &d_qkv];
        let [d_normed, d_inner_qkv] = self.linear_backward(at, &layer.qkv, reads, Some(output), target, arena);
        arena.give_all([dh, d_inner, gathered.unwrap_or_default()]);
        if let Some(d_all_rows) = d_all_rows {
            arena.give(std::mem::replace(&mut d, d_all_rows));
        }
        let norm = layer.attention_norm.as_ref();
        let h = self.norm_backward(block(Vector::AttentionNorm), &tape.x, d_normed, norm, &mut d, target);
        self.add_deferred(DeferredGrad { at, weight: &layer.qkv, x: &h, dy: &d_qkv, d_inner: &d_inner_qkv }, target);
        arena.give_all([h, d_qkv, d_inner_qkv]);
        d
    }

    /// The gradient of queries, keys and values as the linear computes them, from that of attention's output.
    fn heads_backward(
        &self,
        index: usize,
        tape: &LayerTape,
        d_attended: Vec<f32>,
        target: &mut GradTarget<'_>,
        arena: &mut Arena,
    ) -> Vec<f32> {
        let (norms, spec) = (self.model.layer(index).qk_norms.as_ref(), self.spec());
        let mut d_qkv = arena.take(self.rows, tape.rotated.len() / self.rows);
        let mut scratch = arena.take(self.rows, PackedAttention::backward_floats(Heads::of(spec)));
        let forward = AttentionOutput { out: &tape.attended, lse: &tape.lse };
        self.attention(index, &tape.rotated).backward(forward, &d_attended, &mut d_qkv, &mut scratch);
        if let Some(gradients) = target.full() {
            self.qk_norms_backward(index, &tape.qkv, &d_qkv, gradients);
        }
        self.rotate_backward(index, norms, &tape.qkv, &mut d_qkv);
        if let Some(gradients) = target.full()
            && spec.layer_spec.qkv_bias
        {
            let sum = gradients.block_mut(ParamBlock::Vector(index, Vector::QkvBias));
            d_qkv.chunks_exact(sum.len()).for_each(|row| ops::add_part(row, sum));
        }
        arena.give_all([d_attended, scratch]);
        d_qkv
    }

    /// Adds the gradient of `x`, a norm's input, to `dx`, from the gradient `dy` of its output. Overwrites `dy` with the
    /// norm's output and returns it. Without a norm, the output is the input.
    fn norm_backward(
        &self,
        block: ParamBlock,
        x: &[f32],
        mut dy: Vec<f32>,
        weight: Option<&Vec<f32>>,
        dx: &mut [f32],
        target: &mut GradTarget<'_>,
    ) -> Vec<f32> {
        let Some(weight) = weight else {
            ops::add(&dy, dx);
            dy.copy_from_slice(x);
            return dy;
        };
        target.norm(block, x, &dy);
        ops::norm_backward_with_output(x, &mut dy, dx, weight, self.spec().norm_epsilon);
        dy
    }

    /// The gradient of a block's output `h` before its norm and its scale, from the gradient `d` after them; empty where the
    /// family has neither.
    fn output_norm_backward(
        &self,
        block: ParamBlock,
        [h, d]: [&[f32]; 2],
        norm: Option<&Vec<f32>>,
        target: &mut GradTarget<'_>,
        arena: &mut Arena,
    ) -> Vec<f32> {
        let spec = self.spec();
        if norm.is_none() && spec.residual_scale == 1.0 {
            return vec![];
        }
        let mut scaled = arena.take(d.len() / spec.hidden, spec.hidden);
        scaled.copy_from_slice(d);
        self.scale_residual(&mut scaled);
        let Some(weight) = norm else { return scaled };
        let mut dh = arena.take(d.len() / weight.len(), weight.len());
        dh.fill(0.0);
        target.norm(block, h, &scaled);
        ops::norm_backward(h, &scaled, &mut dh, weight, spec.norm_epsilon);
        arena.give(scaled);
        dh
    }
}
