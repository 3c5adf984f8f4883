//! A layer's forward pass, which fills its tape.

use super::context::LayerContext;
use super::tape::LayerTape;
use crate::kernels::attention::Heads;
use crate::kernels::{ops, padded_stride};
use crate::transformer::cpu::score::attention::PackedAttention;
use crate::transformer::score::Arena;
use crate::transformer::stack::Linear;

impl LayerContext<'_> {
    /// The residual stream after layer `index` from the one before it, `(rows, hidden)`; after the last layer
    /// `(output rows, hidden)`.
    pub(in crate::transformer) fn forward(
        &self,
        index: usize,
        x: Vec<f32>,
        arena: &mut Arena,
    ) -> (Vec<f32>, LayerTape) {
        let mut tape = LayerTape::default();
        self.attention_forward(index, &x, &mut tape, arena);
        tape.x = x;
        let h = self.attention_output(index, &mut tape, arena);
        let x = self.mlp_forward(index, h, &mut tape, arena);
        (x, tape)
    }

    /// Norm, queries, keys and values, and attention: fills `attended` and what leads there.
    fn attention_forward(&self, index: usize, x: &[f32], tape: &mut LayerTape, arena: &mut Arena) {
        let (layer, spec) = (self.model.layer(index), self.spec());
        let h = self.input(x, layer.attention_norm.as_ref(), arena);
        let (mut qkv, inner) = self.linear((index, Linear::Qkv), &layer.qkv, &h, arena);
        arena.give(h);
        tape.inner[Linear::Qkv as usize] = inner;
        let width = qkv.len() / self.rows;
        self.add_bias(&mut qkv, width, layer.qkv_bias.as_ref());
        if layer.qk_norms.is_some() {
            tape.qkv = arena.take(self.rows, qkv.len() / self.rows);
            tape.qkv.copy_from_slice(&qkv);
        }
        self.rotate(index, layer.qk_norms.as_ref(), &mut qkv);
        tape.attended = arena.take(self.rows, Heads::of(spec).q_width());
        tape.lse = arena.take(self.rows, spec.heads);
        let mut scratch = arena.take(self.rows, PackedAttention::forward_floats(Heads::of(spec)));
        self.attention(index, &qkv).forward(&mut tape.attended, &mut tape.lse, &mut scratch);
        arena.give(scratch);
        tape.rotated = qkv;
    }

    /// Attention's output projection, added to the residual stream: fills `middle`, and returns its norm.
    fn attention_output(&self, index: usize, tape: &mut LayerTape, arena: &mut Arena) -> Vec<f32> {
        let (layer, spec) = (self.model.layer(index), self.spec());
        let output_rows = self.output_rows(index);
        let gathered = output_rows.map(|rows| [&tape.attended, &tape.x].map(|values| self.gather(values, rows, arena)));
        let [attended, x] = gathered.as_ref().map_or([&tape.attended, &tape.x], |[attended, x]| [attended, x]);
        let (mut h, inner) = self.linear((index, Linear::Output), &layer.output, attended, arena);
        tape.inner[Linear::Output as usize] = inner;
        self.add_bias(&mut h, spec.hidden, layer.output_bias.as_ref());
        let (mut middle, output) = self.output_norm(h, layer.attention_output_norm.as_ref(), arena);
        tape.output = output;
        let mut h = arena.take(middle.len() / spec.hidden, spec.hidden);
        match &layer.mlp_norm {
            Some(norm) => ops::add_norm(x, &mut middle, &mut h, norm, spec.norm_epsilon),
            None => {
                ops::add(x, &mut middle);
                h.copy_from_slice(&middle);
            }
        }
        tape.middle = middle;
        if let Some(values) = gathered {
            arena.give_all(values);
        }
        h
    }

    /// The feed-forward block over the normalised `h`: returns the residual stream behind it.
    fn mlp_forward(&self, index: usize, h: Vec<f32>, tape: &mut LayerTape, arena: &mut Arena) -> Vec<f32> {
        let layer = self.model.layer(index);
        let (mut gate_up, inner) = self.linear((index, Linear::GateUp), &layer.gate_up, &h, arena);
        self.add_bias(&mut gate_up, padded_stride(2 * self.spec().intermediate), layer.gate_up_bias.as_ref());
        arena.give(h);
        tape.inner[Linear::GateUp as usize] = inner;
        let gated = self.gated(&gate_up, arena);
        tape.gate_up = gate_up;
        let (mut h, inner) = self.linear((index, Linear::Down), &layer.down, &gated, arena);
        arena.give(gated);
        tape.inner[Linear::Down as usize] = inner;
        self.add_bias(&mut h, self.spec().hidden, layer.down_bias.as_ref());
        let (mut x, down) = self.output_norm(h, layer.mlp_output_norm.as_ref(), arena);
        tape.down = down;
        ops::add(&tape.middle, &mut x);
        x
    }

    /// A block's output `h` after its norm and its scale, and before them where the family has such a norm.
    fn output_norm(&self, h: Vec<f32>, norm: Option<&Vec<f32>>, arena: &mut Arena) -> (Vec<f32>, Vec<f32>) {
        let (mut h, before) = match norm {
            Some(weight) => (self.norm(&h, weight, arena), h),
            None => (h, vec![]),
        };
        self.scale_residual(&mut h);
        (h, before)
    }
}
