//! The low-rank branches of an adapter, laid out beside the linears that they change.
//!
//! Sites that share their input share a branch: one `A` for all of them, and one `B` in which each site's columns see
//! its own rank alone.

use super::Gradients;
use crate::model::kernel::sweep::Beside;
use crate::model::kernel::team;
use crate::model::kernel::{Outer, PackedMatrix, Slice};
use crate::model::lora::{Factors, Site};
use crate::model::spec::ModelSpec;
use crate::model::transformer::Linear;
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
    /// `(sites * rank, inputs)`.
    a: PackedMatrix,
    /// `(outputs, sites * rank)`, scaled.
    b: PackedMatrix,
    /// The sites that have factors, with their first column of the linear's result and their number of columns.
    sites: Vec<(Site, usize, usize)>,
    /// Each site's columns, and its own rank of the inner rows.
    blocks: Vec<(Range<usize>, Range<usize>)>,
    rank: usize,
    scale: f32,
}

impl PackedBranches {
    /// The branches of `factors` over a model of `spec`, scaled by `scale`.
    pub(super) fn new(spec: &ModelSpec, rank: usize, scale: f32, factors: &BTreeMap<(usize, Site), Factors>) -> Self {
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

    /// Takes the values of other `factors` at the same places, in the memory that is there.
    ///
    /// # Panics
    /// Where their places or sizes are others.
    pub(super) fn refill(&mut self, scale: f32, factors: &BTreeMap<(usize, Site), Factors>) {
        let mut branches: Vec<_> = self.branches.iter_mut().collect();
        team::each_mut(&mut branches, |_, (place, branch)| branch.refill(place.0, scale, factors));
    }

    /// The branch on `linear` of `layer`, if there is one.
    pub(super) fn of(&self, layer: usize, linear: Linear) -> Option<&Branch> {
        self.branches.get(&(layer, linear as usize))
    }
}

impl Branch {
    fn new(
        spec: &ModelSpec,
        layer: usize,
        linear: Linear,
        (rank, scale): (usize, f32),
        factors: &BTreeMap<(usize, Site), Factors>,
    ) -> Option<Self> {
        let (mut sites, mut columns, mut inputs) = (vec![], 0, 0);
        for &site in linear.sites() {
            let (from, outputs) = site.sizes(spec);
            inputs = from;
            if factors.contains_key(&(layer, site)) {
                sites.push((site, columns, outputs));
            }
            columns += outputs;
        }
        if sites.is_empty() {
            return None;
        }
        let of_site = |(index, (_, first, outputs)): (usize, &(Site, usize, usize))| {
            (*first..first + outputs, index * rank..(index + 1) * rank)
        };
        let (width, blocks) = (sites.len() * rank, sites.iter().enumerate().map(of_site).collect());
        let [a, b] = [(width, inputs), (columns, width)].map(|(outputs, inputs)| PackedMatrix::zeros(outputs, inputs));
        let mut branch = Self { a, b, sites, blocks, rank, scale };
        branch.refill(layer, scale, factors);
        Some(branch)
    }

    /// Takes the values of `factors`, which has all of its sites in `layer`.
    fn refill(&mut self, layer: usize, scale: f32, factors: &BTreeMap<(usize, Site), Factors>) {
        let (width, rank) = (self.width(), self.rank);
        let mut b = vec![0.0; self.b.outputs() * width];
        for (index, (site, first, outputs)) in self.sites.iter().enumerate() {
            let rows = b[first * width..][..outputs * width].chunks_exact_mut(width);
            for (row, values) in rows.zip(factors[&(layer, *site)].b.chunks_exact(rank)) {
                for (to, value) in row[index * rank..][..rank].iter_mut().zip(values) {
                    *to = scale * value;
                }
            }
        }
        let a: Vec<&[f32]> = self.sites.iter().map(|(site, ..)| factors[&(layer, *site)].a.as_slice()).collect();
        self.a.refill(&a);
        self.b.refill(&[&b]);
        self.scale = scale;
    }

    /// Floats of one row between the factors.
    pub(super) fn width(&self) -> usize {
        self.a.outputs()
    }

    /// As a product takes it along.
    pub(super) fn beside(&self) -> Beside<'_> {
        Beside { a: &self.a, b: &self.b, blocks: &self.blocks }
    }

    /// Zeros for the gradients of `B`, `(columns, rank)` of each site.
    pub(super) fn b_zeros(&self) -> Vec<Vec<f32>> {
        self.sites.iter().map(|(_, _, columns)| vec![0.0; columns * self.rank]).collect()
    }

    /// What computes the gradients of `B` over its scale, from the inner rows `u` and the gradient of the linear's result.
    pub(super) fn b_gradients<'a>(
        &self,
        u: &[f32],
        dy: &'a [f32],
        to: &'a mut [Vec<f32>],
    ) -> impl Iterator<Item = Outer<'a>> {
        let (width, rank) = (self.width(), self.rank);
        let apart = dy.len() / (u.len() / width).max(1);
        self.sites.iter().zip(to).enumerate().map(move |(index, ((_, first, columns), to))| {
            let u = Slice { values: u, width, columns: index * rank..(index + 1) * rank };
            Outer::new(&Slice { values: dy, width: apart, columns: *first..first + columns }, &u, to)
        })
    }

    /// Adds what [`Branch::b_gradients`] found to `gradients`.
    pub(super) fn note_b(&self, layer: usize, found: Vec<Vec<f32>>, gradients: &mut Gradients) {
        for ((site, ..), mut b) in self.sites.iter().zip(found) {
            b.iter_mut().for_each(|gradient| *gradient *= self.scale);
            gradients.add(layer, *site, Factors { a: vec![], b });
        }
    }

    /// Zeros for the gradient of `A`, `(sites * rank, inputs)`.
    pub(super) fn a_zeros(&self) -> Vec<f32> {
        vec![0.0; self.width() * self.a.inputs()]
    }

    /// What computes the gradient of `A`, from the linear's input `x` and the gradient of the inner rows.
    pub(super) fn a_gradient<'a>(&self, x: &'a [f32], du: &[f32], to: &'a mut [f32]) -> Outer<'a> {
        let (width, inputs) = (self.width(), self.a.inputs());
        let du = Slice { values: du, width, columns: 0..width };
        Outer::turned(&Slice { values: x, width: inputs, columns: 0..inputs }, &du, to)
    }

    /// Adds what [`Branch::a_gradient`] found to `gradients`.
    pub(super) fn note_a(&self, layer: usize, found: &[f32], gradients: &mut Gradients) {
        for ((site, ..), a) in self.sites.iter().zip(found.chunks_exact(self.rank * self.a.inputs())) {
            gradients.add(layer, *site, Factors { a: a.to_vec(), b: vec![] });
        }
    }
}
