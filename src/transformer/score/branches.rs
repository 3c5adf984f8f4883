//! The low-rank branches of an adapter, laid out beside the linears that they change.
//!
//! Sites that share their input share a branch: one `A` for all of them, and one `B` in which each site's columns see
//! its own rank alone.

use super::AdapterGradients;
use crate::formats::adapter::Factors;
use crate::formats::spec::{ModelSpec, Projection};
use crate::kernels::gemm_lora::LoraBranch;
use crate::kernels::thread_pool;
use crate::kernels::{ColumnSlice, OuterProduct, PackedMatrix};
use crate::transformer::Linear;
use std::collections::BTreeMap;
use std::ops::Range;

/// The branches of an adapter by layer and linear.
#[derive(Debug)]
pub(crate) struct PackedBranches {
    branches: BTreeMap<(usize, usize), Branch>,
}

/// What the sites of one linear add to it: `y += (x A^T) B^T`.
#[derive(Debug)]
pub(super) struct Branch {
    /// `(projections * rank, inputs)`.
    a: PackedMatrix,
    /// `(outputs, projections * rank)`, scaled.
    b: PackedMatrix,
    /// The sites that have factors, with their first column of the linear's result and their number of columns.
    projections: Vec<(Projection, usize, usize)>,
    /// Each site's columns, and its own rank of the inner rows.
    blocks: Vec<(Range<usize>, Range<usize>)>,
    rank: usize,
    scale: f32,
}

impl PackedBranches {
    /// The branches of `factors` over a model of `spec`, scaled by `scale`.
    pub(super) fn new(
        spec: &ModelSpec,
        rank: usize,
        scale: f32,
        factors: &BTreeMap<(usize, Projection), Factors>,
    ) -> Self {
        let mut branches = BTreeMap::new();
        for layer in 0..spec.layers {
            for linear in Linear::ALL {
                if let Some(branch) = Branch::new(spec, layer, linear, (rank, scale), factors) {
                    branches.insert((layer, linear as usize), branch);
                }
            }
        }
        Self { branches }
    }

    /// Takes the values `A` and `B` of other factors at the same places, in the memory that is there.
    ///
    /// # Panics
    /// Where their sizes are others, or `factors` does.
    pub(super) fn refill<'f>(
        &mut self,
        scale: f32,
        factors: impl Fn(usize, Projection) -> (&'f [f32], &'f [f32]) + Sync,
    ) {
        let mut branches: Vec<_> = self.branches.iter_mut().collect();
        thread_pool::each_mut(&mut branches, |_, (place, branch)| branch.refill(place.0, scale, &factors));
    }

    /// The branch on `linear` of `layer`, if there is one.
    pub(super) fn of(&self, layer: usize, linear: Linear) -> Option<&Branch> {
        self.branches.get(&(layer, linear as usize))
    }
}

/// `A` and `B` of a place among `factors`.
fn of<'f>(factors: &'f BTreeMap<(usize, Projection), Factors>) -> impl Fn(usize, Projection) -> (&'f [f32], &'f [f32]) {
    |layer, projection| {
        let Factors { a, b } = &factors[&(layer, projection)];
        (a, b)
    }
}

/// `len` floats, whatever they are, in the memory of `from`, which is then empty.
fn room(from: &mut Vec<f32>, len: usize) -> Vec<f32> {
    let mut room = std::mem::take(from);
    room.resize(len, 0.0);
    room
}

impl Branch {
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
        let of_site = |(index, (_, first, outputs)): (usize, &(Projection, usize, usize))| {
            (*first..first + outputs, index * rank..(index + 1) * rank)
        };
        let (width, blocks) = (projections.len() * rank, projections.iter().enumerate().map(of_site).collect());
        let [a, b] = [(width, inputs), (columns, width)].map(|(outputs, inputs)| PackedMatrix::zeros(outputs, inputs));
        let mut branch = Self { a, b, projections, blocks, rank, scale };
        branch.refill(layer, scale, of(factors));
        Some(branch)
    }

    /// Takes the values of `factors`, which has all of its sites in `layer`.
    fn refill<'f>(&mut self, layer: usize, scale: f32, factors: impl Fn(usize, Projection) -> (&'f [f32], &'f [f32])) {
        let a: Vec<&[f32]> = self.projections.iter().map(|(projection, ..)| factors(layer, *projection).0).collect();
        self.a.refill(&a);
        for (index, (projection, first, _)) in self.projections.iter().enumerate() {
            let (_, b) = factors(layer, *projection);
            self.b.refill_block((*first, index * self.rank), b, self.rank, scale);
        }
        self.scale = scale;
    }

    /// Floats of one row between the factors.
    pub(super) fn width(&self) -> usize {
        self.a.outputs()
    }

    /// As a product takes it along.
    pub(super) fn beside(&self) -> LoraBranch<'_> {
        LoraBranch { a: &self.a, b: &self.b, blocks: &self.blocks }
    }

    /// Room for the gradients of `B`, `(columns, rank)` of each site, in the memory that `gradients` has for them.
    pub(super) fn b_room(&self, layer: usize, gradients: &mut AdapterGradients) -> Vec<Vec<f32>> {
        let room = |&(projection, _, columns): &(Projection, usize, usize)| {
            room(&mut gradients.of(layer, projection).b, columns * self.rank)
        };
        self.projections.iter().map(room).collect()
    }

    /// What computes the gradients of `B` over its scale, from the inner rows `u` and the gradient of the linear's result.
    pub(super) fn b_gradients<'a>(
        &self,
        u: &[f32],
        dy: &'a [f32],
        to: &'a mut [Vec<f32>],
    ) -> impl Iterator<Item = OuterProduct<'a>> {
        let (width, rank) = (self.width(), self.rank);
        let apart = dy.len() / (u.len() / width).max(1);
        self.projections.iter().zip(to).enumerate().map(move |(index, ((_, first, columns), to))| {
            let u = ColumnSlice { values: u, width, columns: index * rank..(index + 1) * rank };
            OuterProduct::new(&ColumnSlice { values: dy, width: apart, columns: *first..first + columns }, &u, to)
        })
    }

    /// Puts what [`Branch::b_gradients`] found into `gradients`.
    pub(super) fn note_b(&self, layer: usize, found: Vec<Vec<f32>>, gradients: &mut AdapterGradients) {
        for ((projection, ..), mut b) in self.projections.iter().zip(found) {
            b.iter_mut().for_each(|gradient| *gradient *= self.scale);
            gradients.of(layer, *projection).b = b;
        }
    }

    /// Room for the gradients of `A`, `(rank, inputs)` of each site, in the memory that `gradients` has for them.
    pub(super) fn a_room(&self, layer: usize, gradients: &mut AdapterGradients) -> Vec<Vec<f32>> {
        let room = |&(projection, ..): &(Projection, usize, usize)| {
            room(&mut gradients.of(layer, projection).a, self.rank * self.a.inputs())
        };
        self.projections.iter().map(room).collect()
    }

    /// What computes the gradients of `A`, from the linear's input `x` and the gradient of the inner rows.
    pub(super) fn a_gradients<'a>(&self, x: &'a [f32], du: &[f32], to: &'a mut [Vec<f32>]) -> OuterProduct<'a> {
        let (width, inputs) = (self.width(), self.a.inputs());
        let du = ColumnSlice { values: du, width, columns: 0..width };
        OuterProduct::transposed(&ColumnSlice { values: x, width: inputs, columns: 0..inputs }, &du, to)
    }

    /// Puts what [`Branch::a_gradients`] found into `gradients`.
    pub(super) fn note_a(&self, layer: usize, found: Vec<Vec<f32>>, gradients: &mut AdapterGradients) {
        for ((projection, ..), a) in self.projections.iter().zip(found) {
            gradients.of(layer, *projection).a = a;
        }
    }
}
