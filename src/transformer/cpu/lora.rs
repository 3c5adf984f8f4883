//! An adapter as the CPU's decode pass reads it: its factors in panels, added for the rows that use it.

use super::ends::EndBranches;
use crate::formats::adapter::{Adapter, Factors};
use crate::formats::spec::{ModelSpec, Projection};
use crate::kernels::{PackedMatrix, thread_pool};
use crate::transformer::stack::Linear;
use std::collections::BTreeMap;

/// Rows of an adapter's branch for which a thread is worth waking.
const BRANCH_ROWS_MIN: usize = 4;

/// An adapter laid out for the CPU's kernels.
#[derive(Debug)]
pub(super) struct DecodeLora {
    factors: BTreeMap<(usize, Projection), (PackedMatrix, PackedMatrix)>,
    scale: f32,
    /// Its factors on embedding and head.
    pub(super) ends: Option<EndBranches>,
}

impl DecodeLora {
    /// Packs `adapter`, whose shapes were checked against `spec`.
    pub(super) fn new(adapter: &Adapter, spec: &ModelSpec) -> Self {
        let pack = |(&(layer, projection), factors): (&(usize, Projection), &Factors)| {
            let (inputs, _) = projection.sizes(spec);
            let rank = adapter.config.rank;
            let packed = (PackedMatrix::new(&[&factors.a], inputs), PackedMatrix::new(&[&factors.b], rank));
            ((layer, projection), packed)
        };
        Self {
            factors: adapter.factors.iter().map(pack).collect(),
            scale: adapter.config.scale(),
            ends: EndBranches::new(adapter, spec.hidden),
        }
    }

    /// Adds this adapter's branches of `linear` for some rows: `y += scale * (x A^T) B^T`.
    pub(super) fn add(&self, layer: usize, linear: Linear, spec: &ModelSpec, x: &[f32], y: &mut [f32], y_width: usize) {
        let x_width = x.len() * y_width / y.len().max(1);
        // A branch is too narrow to split by outputs: each thread computes some rows of all of it.
        let share = (y.len() / y_width).div_ceil(thread_pool::threads()).max(BRANCH_ROWS_MIN);
        let mut pieces: Vec<_> = x.chunks(share * x_width).zip(y.chunks_mut(share * y_width)).collect();
        thread_pool::each_mut(&mut pieces, |_, (x, y)| self.add_rows((layer, linear), spec, x, y, y_width));
    }

    fn add_rows(&self, (layer, linear): (usize, Linear), spec: &ModelSpec, x: &[f32], y: &mut [f32], y_width: usize) {
        let mut column = 0;
        for &projection in linear.projections() {
            let (inputs, outputs) = projection.sizes(spec);
            if let Some((a, b)) = self.factors.get(&(layer, projection)) {
                let rows = x.len() / inputs;
                let mut inner = vec![0.0; rows * a.outputs()];
                a.forward(x, &mut inner);
                let mut branch = vec![0.0; rows * outputs];
                b.forward(&inner, &mut branch);
                for (y, branch) in y.chunks_exact_mut(y_width).zip(branch.chunks_exact(outputs)) {
                    for (y, branch) in y[column..][..outputs].iter_mut().zip(branch) {
                        *y += self.scale * branch;
                    }
                }
            }
            column += outputs;
        }
    }
}
