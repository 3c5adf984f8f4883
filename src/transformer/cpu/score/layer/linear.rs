//! The linears of a layer with their low-rank branches, and the gradients of what is trained there.

use super::context::LayerContext;
use crate::kernels::thread_pool::Overlap;
use crate::kernels::{MatmulPrecision, OuterProduct, Weight, padded_stride};
use crate::transformer::cpu::score::grad_target::GradTarget;
use crate::transformer::cpu::score::lora::LinearLora;
use crate::transformer::score::Arena;
use crate::transformer::stack::Linear;

/// The inputs of a weight gradient that is not computed yet: that of a branch's `A`, or of the linear itself. It can
/// overlap with the next linear's backward pass.
pub(super) struct DeferredGrad<'a> {
    pub(super) at: (usize, Linear),
    pub(super) weight: &'a Weight,
    /// The linear's input, and the gradient of its output.
    pub(super) x: &'a [f32],
    pub(super) dy: &'a [f32],
    /// The gradient of the branch's inner rows.
    pub(super) d_inner: &'a [f32],
}

/// Floats between the rows of a linear's output: those of the widest are padded.
fn output_stride(linear: Linear, weight: &Weight) -> usize {
    if linear == Linear::GateUp { padded_stride(weight.outputs()) } else { weight.outputs() }
}

impl LayerContext<'_> {
    fn branch(&self, layer: usize, linear: Linear) -> Option<&LinearLora> {
        self.lora.and_then(|lora| lora.of(layer, linear))
    }

    fn matmul(&self) -> MatmulPrecision {
        self.model.layout().precisions.matmul
    }

    /// `x W^T` plus the adapter's branch, and the branch's inner rows.
    pub(super) fn linear(
        &self,
        at: (usize, Linear),
        weight: &Weight,
        x: &[f32],
        arena: &mut Arena,
    ) -> (Vec<f32>, Vec<f32>) {
        let (branch, rows) = (self.branch(at.0, at.1), x.len() / weight.inputs());
        let mut y = arena.take(rows, output_stride(at.1, weight));
        let mut inner = branch.map(|branch| arena.take(rows, branch.width())).unwrap_or_default();
        let w = weight.score_in(&mut arena.widened);
        self.matmul().forward(w, branch.map(LinearLora::as_branch), x, &mut inner, &mut y);
        (y, inner)
    }

    /// The gradients of a linear's input and of its branch's inner rows, from that of its output. `deferred` is computed
    /// meanwhile, where a thread would wait for another.
    pub(super) fn linear_backward(
        &self,
        (layer, linear): (usize, Linear),
        weight: &Weight,
        [inner, dy]: [&[f32]; 2],
        deferred: Option<DeferredGrad<'_>>,
        target: &mut GradTarget<'_>,
        arena: &mut Arena,
    ) -> [Vec<f32>; 2] {
        let (branch, rows) = (self.branch(layer, linear), dy.len() / output_stride(linear, weight));
        let (mut dx, mut d_inner) = (arena.take(rows, weight.inputs()), arena.take(rows, inner.len() / rows));
        let w = weight.score_in(&mut arena.widened);
        let mut backward = |overlap| {
            let branch = branch.map(LinearLora::as_branch);
            self.matmul().backward(w, branch, dy, [&mut d_inner, &mut dx], overlap);
        };
        match target {
            GradTarget::Full(_) => {
                backward(Overlap::NONE);
                deferred.into_iter().for_each(|deferred| self.add_deferred(deferred, target));
            }
            GradTarget::Adapter(gradients) => {
                let deferred = deferred.and_then(|grad| Some((self.branch(grad.at.0, grad.at.1)?, grad)));
                let mut b = branch.map(|branch| branch.b_buffers(layer, gradients)).unwrap_or_default();
                let buffers = |(branch, grad): &(&LinearLora, DeferredGrad<'_>)| branch.a_buffers(grad.at.0, gradients);
                let mut a = deferred.as_ref().map(buffers).unwrap_or_default();
                let mut outers: Vec<OuterProduct> = vec![];
                if let Some(branch) = branch {
                    outers.extend(branch.b_gradients(inner, dy, &mut b));
                }
                if let Some((branch, grad)) = &deferred {
                    outers.push(branch.a_gradients(grad.x, grad.d_inner, &mut a));
                }
                let pieces = outers.iter().flat_map(|outer| (0..outer.pieces()).map(move |piece| (outer, piece)));
                let pieces: Vec<_> = pieces.collect();
                backward(Overlap { pieces: pieces.len(), piece: &|index| pieces[index].0.piece(pieces[index].1) });
                drop(outers);
                if let Some(branch) = branch {
                    branch.store_b(layer, b, gradients);
                }
                if let Some((branch, grad)) = deferred {
                    branch.store_a(grad.at.0, a, gradients);
                }
            }
        }
        [dx, d_inner]
    }

    /// Computes a deferred gradient and adds it to `target`.
    pub(super) fn add_deferred(&self, deferred: DeferredGrad<'_>, target: &mut GradTarget<'_>) {
        let DeferredGrad { at, weight, x, dy, d_inner } = deferred;
        match target {
            GradTarget::Full(gradients) => gradients.linear(at, [x, dy], [weight.inputs(), weight.outputs()]),
            GradTarget::Adapter(gradients) => {
                let Some(branch) = self.branch(at.0, at.1) else { return };
                let mut a = branch.a_buffers(at.0, gradients);
                branch.a_gradients(x, d_inner, &mut a).run();
                branch.store_a(at.0, a, gradients);
            }
        }
    }
}
