//! Per-head norms and rotary positions of queries and keys, in place, and their gradients.

use super::context::LayerContext;
use crate::kernels::ops;
use crate::transformer::cpu::panels::Panels;
use crate::transformer::full_weights::{ParamBlock, Vector};
use crate::transformer::score::FullGradients;
use crate::transformer::stack::QkNorms;

impl LayerContext<'_> {
    /// Normalises the heads of queries and keys where the family does, and rotates them by position.
    pub(super) fn rotate(&self, index: usize, norms: Option<&QkNorms<Panels>>, qkv: &mut [f32]) {
        let (spec, angles) = (self.spec(), self.angles.of(self.spec(), index));
        if let Some(norms) = norms.filter(|_| spec.layer_spec.post_norms) {
            self.by_part(qkv, norms, |_, part, weight| {
                let input = part.to_vec();
                ops::norm_part(&input, part, weight, spec.norm_epsilon);
            });
        }
        let norms = norms.filter(|_| !spec.layer_spec.post_norms);
        self.by_head(qkv, |row, head, values| {
            if let Some(norms) = norms {
                let normed = values.to_vec();
                let weight = if head < spec.heads { &norms.q } else { &norms.k };
                ops::norm_part(&normed, values, weight, spec.norm_epsilon);
            }
            let (cos, sin) = angles.row(row);
            ops::rotate_head(values, cos, sin, angles.half, 1.0);
        });
    }

    /// The gradient of the input `qkv` of [`LayerContext::rotate`] from that of its output, in place.
    pub(super) fn rotate_backward(&self, index: usize, norms: Option<&QkNorms<Panels>>, qkv: &[f32], d: &mut [f32]) {
        let (spec, angles) = (self.spec(), self.angles.of(self.spec(), index));
        let (dim, width) = (spec.head_dim, d.len() / self.rows);
        let (whole, norms) = match spec.layer_spec.post_norms {
            true => (norms, None),
            false => (None, norms),
        };
        self.by_head(d, |row, head, values| {
            let (cos, sin) = angles.row(row);
            // The transpose of a rotation is the opposite rotation.
            ops::rotate_head(values, cos, sin, angles.half, -1.0);
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
        let Some(norms) = whole else { return };
        self.by_part(d, norms, |place, part, weight| {
            let dy = part.to_vec();
            part.fill(0.0);
            ops::norm_backward_part(&qkv[place..][..dy.len()], &dy, part, weight, spec.norm_epsilon);
        });
    }

    /// Calls `change(place, values, weight)` for all queries and all keys of each row; `place` is where they begin.
    fn by_part(&self, qkv: &mut [f32], norms: &QkNorms<Panels>, change: impl Fn(usize, &mut [f32], &[f32]) + Sync) {
        let width = qkv.len() / self.rows;
        ops::by_rows(qkv, width, |first, rows| {
            for (row, values) in rows.chunks_exact_mut(width).enumerate() {
                let (q, rest) = values.split_at_mut(norms.q.len());
                let place = (first + row) * width;
                change(place, q, &norms.q);
                change(place + norms.q.len(), &mut rest[..norms.k.len()], &norms.k);
            }
        });
    }

    /// Adds the gradients of the norms of queries and keys. `qkv` is their input, `d` the gradient of the rotated output.
    pub(super) fn qk_norms_backward(&self, index: usize, qkv: &[f32], d: &[f32], gradients: &mut FullGradients) {
        let spec = self.spec();
        if !spec.layer_spec.qk_norm || spec.layer_spec.post_norms {
            return;
        }
        let (angles, dim, width) = (self.angles.of(spec, index), spec.head_dim, d.len() / self.rows);
        let mut dy = vec![0.0; dim];
        for (row, (qkv, d)) in qkv.chunks_exact(width).zip(d.chunks_exact(width)).enumerate() {
            let (cos, sin) = angles.row(row);
            let heads = qkv.chunks_exact(dim).zip(d.chunks_exact(dim)).take(spec.heads + spec.kv_heads);
            for (head, (x, d)) in heads.enumerate() {
                dy.copy_from_slice(d);
                ops::rotate_head(&mut dy, cos, sin, angles.half, -1.0);
                let vector = if head < spec.heads { Vector::QNorm } else { Vector::KNorm };
                let epsilon = gradients.norm_epsilon;
                ops::norm_weight_backward(x, &dy, gradients.block_mut(ParamBlock::Vector(index, vector)), epsilon);
            }
        }
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
