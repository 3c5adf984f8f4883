//! The linears of a layer with the branches beside them, and the gradients of what is trained there.

use super::Walk;
use crate::kernels::thread_pool::Overlap;
use crate::kernels::{OuterProduct, Weight, gemm_lora, padded_stride};
use crate::transformer::Linear;
use crate::transformer::score::arena::Arena;
use crate::transformer::score::branches::Branch;
use crate::transformer::score::full_weights::GradTarget;

/// A linear whose gradient by its input is still to be formed: that of its branch's `A`, or of the linear itself. It can
/// wait for the next linear's backward pass.
pub(super) struct DeferredGrad<'a> {
    pub(super) at: (usize, Linear),
    pub(super) weight: &'a Weight,
    /// The linear's input, and the gradient of its result.
    pub(super) x: &'a [f32],
    pub(super) dy: &'a [f32],
    /// The gradient of the branch's inner rows.
    pub(super) d_inner: &'a [f32],
}

/// Floats from one row of a linear's result to the next: those of the widest are further apart than they are wide.
fn result_width(linear: Linear, weight: &Weight) -> usize {
    if linear == Linear::GateUp { padded_stride(weight.outputs()) } else { weight.outputs() }
}

impl Walk<'_> {
    fn branch(&self, layer: usize, linear: Linear) -> Option<&Branch> {
        self.branches.and_then(|branches| branches.of(layer, linear))
    }

    /// `x W^T` and what the adapter adds, whose inner rows come second.
    pub(super) fn linear(
        &self,
        at: (usize, Linear),
        weight: &Weight,
        x: &[f32],
        space: &mut Arena,
    ) -> (Vec<f32>, Vec<f32>) {
        let (branch, rows) = (self.branch(at.0, at.1), x.len() / weight.inputs());
        let mut y = space.take(rows, result_width(at.1, weight));
        let mut inner = branch.map(|branch| space.take(rows, branch.width())).unwrap_or_default();
        gemm_lora::forward(weight.score(), branch.map(Branch::beside), x, &mut inner, &mut y);
        (y, inner)
    }

    /// The gradients of a linear's input and of its branch's inner rows, from that of its result. `before` is settled where
    /// a thread would wait for another.
    pub(super) fn linear_backward(
        &self,
        (layer, linear): (usize, Linear),
        weight: &Weight,
        [inner, dy]: [&[f32]; 2],
        before: Option<DeferredGrad<'_>>,
        sought: &mut GradTarget<'_>,
        space: &mut Arena,
    ) -> [Vec<f32>; 2] {
        let (branch, rows) = (self.branch(layer, linear), dy.len() / result_width(linear, weight));
        let (mut dx, mut d_inner) = (space.take(rows, weight.inputs()), space.take(rows, inner.len() / rows));
        let mut backward = |filler| {
            gemm_lora::backward(weight.score(), branch.map(Branch::beside), dy, [&mut d_inner, &mut dx], filler);
        };
        match sought {
            GradTarget::All(_) => {
                backward(Overlap::NONE);
                before.into_iter().for_each(|owed| self.settle(owed, sought));
            }
            GradTarget::Factors(gradients) => {
                let owed = before.and_then(|owed| Some((self.branch(owed.at.0, owed.at.1)?, owed)));
                let mut b = branch.map(|branch| branch.b_room(layer, gradients)).unwrap_or_default();
                let of_owed = |(branch, owed): &(&Branch, DeferredGrad<'_>)| branch.a_room(owed.at.0, gradients);
                let mut a = owed.as_ref().map(of_owed).unwrap_or_default();
                let mut outers: Vec<OuterProduct> = vec![];
                if let Some(branch) = branch {
                    outers.extend(branch.b_gradients(inner, dy, &mut b));
                }
                if let Some((branch, owed)) = &owed {
                    outers.push(branch.a_gradients(owed.x, owed.d_inner, &mut a));
                }
                let pieces = outers.iter().flat_map(|outer| (0..outer.pieces()).map(move |piece| (outer, piece)));
                let pieces: Vec<_> = pieces.collect();
                backward(Overlap { pieces: pieces.len(), piece: &|index| pieces[index].0.piece(pieces[index].1) });
                drop(outers);
                if let Some(branch) = branch {
                    branch.note_b(layer, b, gradients);
                }
                if let Some((branch, owed)) = owed {
                    branch.note_a(owed.at.0, a, gradients);
                }
            }
        }
        [dx, d_inner]
    }

    /// Notes the gradient that a linear is owed.
    pub(super) fn settle(&self, owed: DeferredGrad<'_>, sought: &mut GradTarget<'_>) {
        let (layer, linear) = owed.at;
        match sought {
            GradTarget::All(all) => {
                all.linear(owed.at, [owed.x, owed.dy], [owed.weight.inputs(), owed.weight.outputs()]);
            }
            GradTarget::Factors(gradients) => {
                let Some(branch) = self.branch(layer, linear) else { return };
                let mut a = branch.a_room(layer, gradients);
                branch.a_gradients(owed.x, owed.d_inner, &mut a).run();
                branch.note_a(layer, a, gradients);
            }
        }
    }
}
