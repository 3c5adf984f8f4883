//! What all layers of a pass share, and the small steps that both directions take.

use crate::formats::spec::ModelSpec;
use crate::kernels::attention::Heads;
use crate::kernels::ops;
use crate::kernels::padded_stride;
use crate::transformer::cpu::panels::Panels;
use crate::transformer::cpu::score::attention::{PackedAttention, QueryBlocks, SequenceRows};
use crate::transformer::cpu::score::lora::ScoreLora;
use crate::transformer::rope::Tables;
use crate::transformer::score::Arena;
use crate::transformer::stack::Stack;
use std::collections::BTreeMap;

/// What all layers of a pass share.
pub(in crate::transformer) struct LayerContext<'a> {
    pub(in crate::transformer) model: &'a Stack<Panels>,
    pub(in crate::transformer) lora: Option<&'a ScoreLora>,
    pub(in crate::transformer) sequences: &'a [SequenceRows],
    /// Query blocks of attention by window.
    pub(in crate::transformer) blocks: BTreeMap<usize, QueryBlocks>,
    pub(in crate::transformer) angles: Tables,
    /// Tokens of the batch.
    pub(in crate::transformer) rows: usize,
    /// The rows that the last layer computes behind its attention, in ascending order.
    pub(in crate::transformer) output_rows: &'a [usize],
}

impl LayerContext<'_> {
    pub(super) fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    pub(super) fn norm(&self, x: &[f32], weight: &[f32], arena: &mut Arena) -> Vec<f32> {
        let mut out = arena.take(x.len() / weight.len(), weight.len());
        ops::norm(x, &mut out, weight, self.spec().norm_epsilon);
        out
    }

    /// The input of a block: `x`, normalised where the family does that.
    pub(super) fn input(&self, x: &[f32], weight: Option<&Vec<f32>>, arena: &mut Arena) -> Vec<f32> {
        let Some(weight) = weight else {
            let mut copy = arena.take(x.len() / self.spec().hidden, self.spec().hidden);
            copy.copy_from_slice(x);
            return copy;
        };
        self.norm(x, weight, arena)
    }

    /// Scales what a block adds to the residual stream, or its gradient, as the family does.
    pub(super) fn scale_residual(&self, rows: &mut [f32]) {
        let scale = self.spec().residual_scale;
        if scale != 1.0 {
            ops::by_rows(rows, self.spec().hidden, |_, rows| ops::scale_part(rows, scale));
        }
    }

    /// Adds a bias, if there is one, to rows that are `stride` floats apart.
    pub(super) fn add_bias(&self, rows: &mut [f32], stride: usize, bias: Option<&Vec<f32>>) {
        let Some(bias) = bias else { return };
        ops::by_rows(rows, stride, |_, rows| {
            rows.chunks_exact_mut(stride).for_each(|row| ops::add_part(bias, &mut row[..bias.len()]));
        });
    }

    pub(super) fn gated(&self, gate_up: &[f32], arena: &mut Arena) -> Vec<f32> {
        let (width, activation) = (self.spec().intermediate, self.spec().layer_spec.activation);
        let mut out = arena.take(gate_up.len() / padded_stride(2 * width), width);
        ops::gated(gate_up, &mut out, width, activation);
        out
    }

    pub(super) fn attention<'b>(&'b self, layer: usize, rotated: &'b [f32]) -> PackedAttention<'b> {
        let spec = self.spec();
        let blocks = &self.blocks[&spec.window(layer)];
        PackedAttention { heads: Heads::of(spec), sequences: self.sequences, blocks, qkv: rotated }
    }

    /// The rows that layer `index` computes behind its attention, where those are not all: only the last layer has fewer.
    pub(super) fn output_rows(&self, index: usize) -> Option<&[usize]> {
        (index + 1 == self.spec().layers).then_some(self.output_rows)
    }

    /// The rows `chosen` of `values`, which has a row for each token of the batch.
    pub(super) fn gather(&self, values: &[f32], chosen: &[usize], arena: &mut Arena) -> Vec<f32> {
        let width = values.len() / self.rows;
        let mut out = arena.take(chosen.len(), width);
        for (out, &row) in out.chunks_exact_mut(width).zip(chosen) {
            out.copy_from_slice(&values[row * width..][..width]);
        }
        out
    }

    /// The inverse of [`LayerContext::gather`], with 0 in the other rows.
    pub(super) fn scatter(&self, values: &[f32], chosen: &[usize], arena: &mut Arena) -> Vec<f32> {
        let width = values.len() / chosen.len();
        let mut out = arena.take(self.rows, width);
        out.fill(0.0);
        for (values, &row) in values.chunks_exact(width).zip(chosen) {
            out[row * width..][..width].copy_from_slice(values);
        }
        out
    }
}
