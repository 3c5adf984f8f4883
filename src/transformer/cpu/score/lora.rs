//! An adapter in panels, by the linears that it changes.
//!
//! Projections that share their input share a branch: one `A` for all of them, and one block-diagonal `B`, in which the
//! columns of a projection read only its own `rank` inner columns.

use crate::formats::adapter::Factors;
use crate::formats::spec::{ModelSpec, Projection};
use crate::kernels::gemm_lora::LoraBranch;
use crate::kernels::thread_pool;
use crate::kernels::{ColumnSlice, OuterProduct, PackedMatrix, Weight};
use crate::transformer::cpu::ends::EndBranches;
use crate::transformer::score::{AdapterGradients, ScoreAdapter};
use crate::transformer::stack::Linear;
use std::collections::BTreeMap;
use std::ops::Range;

/// The branches of an adapter by layer and linear.
#[derive(Debug)]
pub(in crate::transformer) struct ScoreLora {
    branches: BTreeMap<(usize, usize), LinearLora>,
    ends: Option<EndBranches>,
    /// The head with the factors on it added, if there are some.
    head: Option<Weight>,
}

/// The branch of one linear: `y += (x A^T) B^T`.
#[derive(Debug)]
pub(super) struct LinearLora {
    /// `(projections * rank, inputs)`.
    a: PackedMatrix,
    /// `(outputs, projections * rank)`, scaled.
    b: PackedMatrix,
    /// The projections that have factors, with their first output column of the linear and their number of columns.
    projections: Vec<(Projection, usize, usize)>,
    /// Output columns and inner columns of each projection.
    blocks: Vec<(Range<usize>, Range<usize>)>,
    rank: usize,
    scale: f32,
}

impl ScoreLora {
    /// The branches of `factors` over a model of `spec`, scaled by `scale`.
    pub(in crate::transformer) fn new(
        spec: &ModelSpec,
        rank: usize,
        scale: f32,
        factors: &BTreeMap<(usize, Projection), Factors>,
    ) -> Self {
        let mut branches = BTreeMap::new();
        for layer in 0..spec.layers {
            for linear in Linear::ALL {
                if let Some(branch) = LinearLora::new(spec, layer, linear, (rank, scale), factors) {
                    branches.insert((layer, linear as usize), branch);
                }
            }
        }
        Self { branches, ends: None, head: None }
    }

    /// The same with factors on embedding and head; `head` is the model's with these added.
    pub(in crate::transformer) fn with_ends(self, ends: EndBranches, head: Option<Weight>) -> Self {
        Self { ends: Some(ends), head, ..self }
    }

    /// The factors on embedding and head.
    pub(super) fn ends(&self) -> Option<&EndBranches> {
        self.ends.as_ref()
    }

    /// The head that replaces the model's.
    pub(super) fn head(&self) -> Option<&Weight> {
        self.head.as_ref()
    }

    /// Overwrites `A` and `B` with other factors of the same projections and sizes.
    ///
    /// # Panics
    /// Where sizes differ, or `factors` panics.
    fn refill<'f>(&mut self, scale: f32, factors: impl Fn(usize, Projection) -> (&'f [f32], &'f [f32]) + Sync) {
        let mut branches: Vec<_> = self.branches.iter_mut().collect();
        thread_pool::each_mut(&mut branches, |_, ((layer, _), branch)| branch.refill(*layer, scale, &factors));
    }

    /// The branch on `linear` of `layer`, if there is one.
    pub(super) fn of(&self, layer: usize, linear: Linear) -> Option<&LinearLora> {
        self.branches.get(&(layer, linear as usize))
    }
}

/// Looks up `A` and `B` in `factors`.
fn lookup<'f>(
    factors: &'f BTreeMap<(usize, Projection), Factors>,
) -> impl Fn(usize, Projection) -> (&'f [f32], &'f [f32]) {
    |layer, projection| {
        let Factors { a, b } = &factors[&(layer, projection)];
        (a, b)
    }
}

/// A buffer of `len` floats of any value in the memory of `from`, which becomes empty.
fn buffer(from: &mut Vec<f32>, len: usize) -> Vec<f32> {
    let mut buffer = std::mem::take(from);
    buffer.resize(len, 0.0);
    buffer
}

impl LinearLora {
    fn new(
        spec: &ModelSpec,
        layer: usize,
        linear: Linear,
        (rank, scale): (usize, f32),
        factors: &BTreeMap<(usize, Projection), Factors>,
    ) -> Option<Self> {
        let (mut projections, mut columns, mut inputs) = (vec![], 0, 0);
        for &projection in linear.projections() {
            let (from, outputs) = projection.sizes(spec);
            inputs = from;
            if factors.contains_key(&(layer, projection)) {
                projections.push((projection, columns, outputs));
            }
            columns += outputs;
        }
        if projections.is_empty() {
            return None;
        }
        let ranges = |(index, (_, first, outputs)): (usize, &(Projection, usize, usize))| {
            (*first..first + outputs, index * rank..(index + 1) * rank)
        };
        let (width, blocks) = (projections.len() * rank, projections.iter().enumerate().map(ranges).collect());
        let [a, b] = [(width, inputs), (columns, width)].map(|(outputs, inputs)| PackedMatrix::zeros(outputs, inputs));
        let mut branch = Self { a, b, projections, blocks, rank, scale };
        branch.refill(layer, scale, lookup(factors));
        Some(branch)
    }

    /// Overwrites the values with `factors`, which has all of its projections in `layer`.
    fn refill<'f>(&mut self, layer: usize, scale: f32, factors: impl Fn(usize, Projection) -> (&'f [f32], &'f [f32])) {
        let a: Vec<&[f32]> = self.projections.iter().map(|(projection, ..)| factors(layer, *projection).0).collect();
        self.a.refill(&a);
        for (index, (projection, first, _)) in self.projections.iter().enumerate() {
            let (_, b) = factors(layer, *projection);
            self.b.refill_block((*first, index * self.rank), b, self.rank, scale);
        }
        self.scale = scale;
    }

    /// Inner columns: the width between the factors.
    pub(super) fn width(&self) -> usize {
        self.a.outputs()
    }

    /// The branch as an argument of a product.
    pub(super) fn as_branch(&self) -> LoraBranch<'_> {
        LoraBranch { a: &self.a, b: &self.b, blocks: &self.blocks }
    }

    /// Buffers for the gradients of `B`, `(columns, rank)` of each projection, in the memory of `gradients`.
    pub(super) fn b_buffers(&self, layer: usize, gradients: &mut AdapterGradients) -> Vec<Vec<f32>> {
        let of = |&(projection, _, columns): &(Projection, usize, usize)| {
            buffer(&mut gradients.of(layer, projection).b, columns * self.rank)
        };
        self.projections.iter().map(of).collect()
    }

    /// The products that compute the gradients of `B`, not yet scaled, from the inner rows `u` and the gradient `dy` of the
    /// linear's output.
    pub(super) fn b_gradients<'a>(
        &self,
        u: &[f32],
        dy: &'a [f32],
        to: &'a mut [Vec<f32>],
    ) -> impl Iterator<Item = OuterProduct<'a>> {
        let (width, rank) = (self.width(), self.rank);
        let stride = dy.len() / (u.len() / width).max(1);
        self.projections.iter().zip(to).enumerate().map(move |(index, ((_, first, columns), to))| {
            let u = ColumnSlice { values: u, width, columns: index * rank..(index + 1) * rank };
            OuterProduct::new(&ColumnSlice { values: dy, width: stride, columns: *first..first + columns }, &u, to)
        })
    }

    /// Scales the results of [`LinearLora::b_gradients`] and moves them into `gradients`.
    pub(super) fn store_b(&self, layer: usize, results: Vec<Vec<f32>>, gradients: &mut AdapterGradients) {
        for ((projection, ..), mut b) in self.projections.iter().zip(results) {
            b.iter_mut().for_each(|gradient| *gradient *= self.scale);
            gradients.of(layer, *projection).b = b;
        }
    }

    /// Buffers for the gradients of `A`, `(rank, inputs)` of each projection, in the memory of `gradients`.
    pub(super) fn a_buffers(&self, layer: usize, gradients: &mut AdapterGradients) -> Vec<Vec<f32>> {
        let of = |&(projection, ..): &(Projection, usize, usize)| {
            buffer(&mut gradients.of(layer, projection).a, self.rank * self.a.inputs())
        };
        self.projections.iter().map(of).collect()
    }

    /// The product that computes the gradients of `A`, from the linear's input `x` and the gradient `du` of the inner rows.
    pub(super) fn a_gradients<'a>(&self, x: &'a [f32], du: &[f32], to: &'a mut [Vec<f32>]) -> OuterProduct<'a> {
        let (width, inputs) = (self.width(), self.a.inputs());
        let du = ColumnSlice { values: du, width, columns: 0..width };
        OuterProduct::transposed(&ColumnSlice { values: x, width: inputs, columns: 0..inputs }, &du, to)
    }

    /// Moves the results of [`LinearLora::a_gradients`] into `gradients`.
    pub(super) fn store_a(&self, layer: usize, results: Vec<Vec<f32>>, gradients: &mut AdapterGradients) {
        for ((projection, ..), a) in self.projections.iter().zip(results) {
            gradients.of(layer, *projection).a = a;
        }
    }
}

impl ScoreAdapter {
    /// Overwrites the factors with others of the same projections and sizes; returns whether the backend can.
    pub(crate) fn refill<'f>(
        &mut self,
        scale: f32,
        factors: impl Fn(usize, Projection) -> (&'f [f32], &'f [f32]) + Sync,
    ) -> bool {
        let Some(lora) = self.layout_mut::<ScoreLora>() else { return false };
        lora.refill(scale, factors);
        true
    }
}
