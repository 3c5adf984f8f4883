//! One layer of the score pass, forward and backward, side by side.
//!
//! The forward pass leaves what the backward pass needs: the inputs of what is not linear, and the adapter's inner
//! rows. What is cheap to make again (norms, the gate's product) is made again. Gradients of weights are formed where they
//! are sought, and only there.

mod linear;
mod tape;

use super::arena::Arena;
use super::attention::{Blocks, Found, Tree, TreeAttention};
use super::branches::PackedBranches;
use super::full_weights::GradTarget;
use crate::formats::spec::ModelSpec;
use crate::kernels::attention::Heads;
use crate::kernels::ops;
use crate::kernels::padded_stride;
use crate::transformer::full_weights::{ParamBlock, Vector};
use crate::transformer::rope::Tables;
use crate::transformer::{Linear, Panels, QkNorms, Stack};
use linear::DeferredGrad;
use std::collections::BTreeMap;
pub(super) use tape::{Tape, tape_floats, working_floats};

/// What all layers of a pass share.
pub(super) struct Walk<'a> {
    pub(super) model: &'a Stack<Panels>,
    pub(super) branches: Option<&'a PackedBranches>,
    pub(super) trees: &'a [Tree],
    /// Blocks of attention by window.
    pub(super) blocks: BTreeMap<usize, Blocks>,
    pub(super) angles: Tables,
    /// Tokens of the batch.
    pub(super) rows: usize,
    /// Those of them that are read after the last layer, in ascending order.
    pub(super) read: &'a [usize],
}

impl Walk<'_> {
    fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    fn norm(&self, x: &[f32], weight: &[f32], space: &mut Arena) -> Vec<f32> {
        let mut out = space.take(x.len() / weight.len(), weight.len());
        ops::norm(x, &mut out, weight, self.spec().norm_epsilon);
        out
    }

    /// The gradient of `x` from that of its norm, `dy`, added to `dx`; `dy` becomes the norm again.
    fn norm_again(
        &self,
        block: ParamBlock,
        x: &[f32],
        mut dy: Vec<f32>,
        weight: &[f32],
        dx: &mut [f32],
        sought: &mut GradTarget<'_>,
    ) -> Vec<f32> {
        sought.norm(block, x, &dy);
        ops::norm_backward_with_output(x, &mut dy, dx, weight, self.spec().norm_epsilon);
        dy
    }

    /// What a block gave, after its norm where the family has one, and before it where that differs.
    fn sandwiched(&self, h: Vec<f32>, norm: Option<&Vec<f32>>, space: &mut Arena) -> (Vec<f32>, Vec<f32>) {
        match norm {
            Some(weight) => (self.norm(&h, weight, space), h),
            None => (h, vec![]),
        }
    }

    /// The gradient of what a block gave before its norm, where the family has one, from that of the residual stream.
    fn sandwiched_backward(
        &self,
        block: ParamBlock,
        [h, d]: [&[f32]; 2],
        norm: Option<&Vec<f32>>,
        sought: &mut GradTarget<'_>,
        space: &mut Arena,
    ) -> Vec<f32> {
        let Some(weight) = norm else { return vec![] };
        let mut dh = space.take(d.len() / weight.len(), weight.len());
        dh.fill(0.0);
        sought.norm(block, h, d);
        ops::norm_backward(h, d, &mut dh, weight, self.spec().norm_epsilon);
        dh
    }

    fn attention<'b>(&'b self, layer: usize, turned: &'b [f32]) -> TreeAttention<'b> {
        let spec = self.spec();
        let blocks = &self.blocks[&spec.window(layer)];
        TreeAttention { heads: Heads::of(spec), trees: self.trees, blocks, qkv: turned }
    }

    /// The rows of layer `index` that are read after its attention, where not all are: of the last layer those that predict.
    fn narrowed(&self, index: usize) -> Option<&[usize]> {
        (index + 1 == self.model.spec().layers).then_some(self.read)
    }

    /// The residual stream after layer `index`, `(rows, hidden)`, from the one before it; after the last layer `(read, hidden)`.
    pub(super) fn forward(&self, index: usize, x: Vec<f32>, space: &mut Arena) -> (Vec<f32>, Tape) {
        let (layer, spec) = (self.model.layer(index), self.spec());
        let mut tape = Tape::default();

        let h = self.norm(&x, &layer.attention_norm, space);
        let (mut qkv, inner) = self.linear((index, Linear::Qkv), &layer.qkv, &h, space);
        space.give(h);
        tape.inner[Linear::Qkv as usize] = inner;
        if let Some(bias) = &layer.qkv_bias {
            ops::by_rows(&mut qkv, bias.len(), |_, rows| {
                rows.chunks_exact_mut(bias.len()).for_each(|row| ops::add_part(bias, row));
            });
        }
        if layer.qk_norms.is_some() {
            tape.qkv = space.take(self.rows, qkv.len() / self.rows);
            tape.qkv.copy_from_slice(&qkv);
        }
        self.turn(index, layer.qk_norms.as_ref(), &mut qkv);
        tape.attended = space.take(self.rows, Heads::of(spec).q_width());
        tape.lse = space.take(self.rows, spec.heads);
        let mut room = space.take(self.rows, TreeAttention::forward_room(Heads::of(spec)));
        self.attention(index, &qkv).forward(&mut tape.attended, &mut tape.lse, &mut room);
        space.give(room);
        tape.turned = qkv;
        tape.x = x;

        let narrowed = self.narrowed(index);
        let of_read = narrowed.map(|read| [&tape.attended, &tape.x].map(|values| self.gathered(values, read, space)));
        let [attended, x] = of_read.as_ref().map_or([&tape.attended, &tape.x], |[attended, x]| [attended, x]);
        let (h, inner) = self.linear((index, Linear::Output), &layer.output, attended, space);
        tape.inner[Linear::Output as usize] = inner;
        let (mut middle, output) = self.sandwiched(h, layer.attention_output_norm.as_ref(), space);
        tape.output = output;
        let mut h = space.take(middle.len() / spec.hidden, spec.hidden);
        ops::add_norm(x, &mut middle, &mut h, &layer.mlp_norm, spec.norm_epsilon);
        if let Some(values) = of_read {
            space.give_all(values);
        }

        let (gate_up, inner) = self.linear((index, Linear::GateUp), &layer.gate_up, &h, space);
        space.give(h);
        tape.inner[Linear::GateUp as usize] = inner;
        let gated = self.gated(&gate_up, space);
        tape.gate_up = gate_up;
        let (h, inner) = self.linear((index, Linear::Down), &layer.down, &gated, space);
        space.give(gated);
        tape.inner[Linear::Down as usize] = inner;
        let (mut x, down) = self.sandwiched(h, layer.mlp_output_norm.as_ref(), space);
        tape.down = down;
        ops::add(&middle, &mut x);
        tape.middle = middle;
        (x, tape)
    }

    /// The gradient of the residual stream before layer `index` from that after it, `d`; notes what is `sought` on the way.
    pub(super) fn backward(
        &self,
        index: usize,
        tape: &Tape,
        mut d: Vec<f32>,
        sought: &mut GradTarget<'_>,
        space: &mut Arena,
    ) -> Vec<f32> {
        let layer = self.model.layer(index);
        let inner = |linear: Linear| tape.inner[linear as usize].as_slice();
        let block = |vector| ParamBlock::Vector(index, vector);

        let spec = self.spec();
        let norm = layer.mlp_output_norm.as_ref();
        let dh = self.sandwiched_backward(block(Vector::MlpOutputNorm), [&tape.down, &d], norm, sought, space);
        let dy = if dh.is_empty() { &d } else { &dh };
        let at = (index, Linear::Down);
        let [mut h, d_inner] = self.linear_backward(at, &layer.down, [inner(at.1), dy], None, sought, space);
        let rows = h.len() / spec.intermediate;
        let mut d_gate_up = space.take(rows, tape.gate_up.len() / rows);
        ops::gated_backward(&tape.gate_up, &mut h, &mut d_gate_up, spec.intermediate, spec.block.activation);
        let owed = DeferredGrad { at, weight: &layer.down, x: &h, dy, d_inner: &d_inner };

        let at = (index, Linear::GateUp);
        let reads = [inner(at.1), &d_gate_up];
        let [d_normed, d_inner_up] = self.linear_backward(at, &layer.gate_up, reads, Some(owed), sought, space);
        space.give_all([h, dh, d_inner]);
        let h = self.norm_again(block(Vector::MlpNorm), &tape.middle, d_normed, &layer.mlp_norm, &mut d, sought);
        let owed = DeferredGrad { at, weight: &layer.gate_up, x: &h, dy: &d_gate_up, d_inner: &d_inner_up };

        let norm = layer.attention_output_norm.as_ref();
        let dh = self.sandwiched_backward(block(Vector::AttentionOutputNorm), [&tape.output, &d], norm, sought, space);
        let narrowed = self.narrowed(index);
        let of_read = narrowed.map(|read| self.gathered(&tape.attended, read, space));
        let attended = of_read.as_ref().unwrap_or(&tape.attended);
        let dy = if dh.is_empty() { &d } else { &dh };
        let at = (index, Linear::Output);
        let reads = [inner(at.1), dy];
        let [mut d_attended, d_inner] = self.linear_backward(at, &layer.output, reads, Some(owed), sought, space);
        space.give_all([h, d_inner_up, d_gate_up]);
        let wide = narrowed.map(|read| {
            let [wide, wide_attended] = [&d, &d_attended].map(|values| self.spread(values, read, space));
            space.give(std::mem::replace(&mut d_attended, wide_attended));
            wide
        });
        let mut d_qkv = space.take(self.rows, tape.turned.len() / self.rows);
        let mut room = space.take(self.rows, TreeAttention::backward_room(Heads::of(spec)));
        let found = Found { out: &tape.attended, lse: &tape.lse };
        self.attention(index, &tape.turned).backward(found, &d_attended, &mut d_qkv, &mut room);
        sought.heads(self, index, &tape.qkv, &d_qkv);
        self.turn_backward(index, layer.qk_norms.as_ref(), &tape.qkv, &mut d_qkv);
        sought.bias(self, index, &d_qkv);
        space.give_all([d_attended, room]);
        let owed = DeferredGrad { at, weight: &layer.output, x: attended, dy, d_inner: &d_inner };

        let at = (index, Linear::Qkv);
        let reads = [inner(at.1), &d_qkv];
        let [d_normed, d_inner_qkv] = self.linear_backward(at, &layer.qkv, reads, Some(owed), sought, space);
        space.give_all([dh, d_inner, of_read.unwrap_or_default()]);
        if let Some(wide) = wide {
            space.give(std::mem::replace(&mut d, wide));
        }
        let h = self.norm_again(block(Vector::AttentionNorm), &tape.x, d_normed, &layer.attention_norm, &mut d, sought);
        self.settle(DeferredGrad { at, weight: &layer.qkv, x: &h, dy: &d_qkv, d_inner: &d_inner_qkv }, sought);
        space.give_all([h, d_qkv, d_inner_qkv]);
        d
    }

    /// The rows `read` of `values`, which has one for each token of the batch.
    fn gathered(&self, values: &[f32], read: &[usize], space: &mut Arena) -> Vec<f32> {
        let width = values.len() / self.rows;
        let mut out = space.take(read.len(), width);
        for (out, &row) in out.chunks_exact_mut(width).zip(read) {
            out.copy_from_slice(&values[row * width..][..width]);
        }
        out
    }

    /// A row for each token of the batch: those that are `read` from `values`, 0 elsewhere.
    fn spread(&self, values: &[f32], read: &[usize], space: &mut Arena) -> Vec<f32> {
        let width = values.len() / read.len();
        let mut out = space.take(self.rows, width);
        out.fill(0.0);
        for (values, &row) in values.chunks_exact(width).zip(read) {
            out[row * width..][..width].copy_from_slice(values);
        }
        out
    }

    fn gated(&self, gate_up: &[f32], space: &mut Arena) -> Vec<f32> {
        let (width, activation) = (self.spec().intermediate, self.spec().block.activation);
        let mut out = space.take(gate_up.len() / padded_stride(2 * width), width);
        ops::gated(gate_up, &mut out, width, activation);
        out
    }

    /// Normalises the heads of queries and keys where the family does, and turns them by position.
    fn turn(&self, index: usize, norms: Option<&QkNorms<Panels>>, qkv: &mut [f32]) {
        let (spec, angles) = (self.spec(), self.angles.of(self.spec(), index));
        let dim = spec.head_dim;
        self.by_head(qkv, |row, head, values| {
            if let Some(norms) = norms {
                let normed = values.to_vec();
                let weight = if head < spec.heads { &norms.q } else { &norms.k };
                ops::norm_part(&normed, values, weight, spec.norm_epsilon);
            }
            let (cos, sin) = angles.row(row);
            ops::rotate_head(values, cos, sin, dim / 2, 1.0);
        });
    }

    /// The gradient of what [`Walk::turn`] read, `qkv`, from that of what it made.
    fn turn_backward(&self, index: usize, norms: Option<&QkNorms<Panels>>, qkv: &[f32], d: &mut [f32]) {
        let (spec, angles) = (self.spec(), self.angles.of(self.spec(), index));
        let (dim, width) = (spec.head_dim, d.len() / self.rows);
        self.by_head(d, |row, head, values| {
            let (cos, sin) = angles.row(row);
            // A rotation's transpose turns the other way.
            ops::rotate_head(values, cos, sin, dim / 2, -1.0);
            if let Some(norms) = norms {
                let dy = values.to_vec();
                let weight = if head < spec.heads { &norms.q } else { &norms.k };
                values.fill(0.0);
                ops::norm_backward_part(
                    &qkv[row * width + head * dim..][..dim],
                    &dy,
                    values,
                    weight,
                    spec.norm_epsilon,
                );
            }
        });
    }

    /// Calls `change(row, head, values)` for each head of queries and keys.
    fn by_head(&self, qkv: &mut [f32], change: impl Fn(usize, usize, &mut [f32]) + Sync) {
        let spec = self.spec();
        let width = qkv.len() / self.rows;
        ops::by_rows(qkv, width, |first, rows| {
            for (row, values) in rows.chunks_exact_mut(width).enumerate() {
                let heads = values.chunks_exact_mut(spec.head_dim).take(spec.heads + spec.kv_heads);
                heads.enumerate().for_each(|(head, values)| change(first + row, head, values));
            }
        });
    }
}
