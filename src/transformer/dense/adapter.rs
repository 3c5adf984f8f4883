//! An adapter's factors on a device, one pair a linear: to be served, and as variables to train.

use super::layout::Dense;
use crate::formats::adapter::{Adapter, Factors};
use crate::formats::spec::{ModelSpec, Projection};
use crate::transformer::error::Result;
use crate::transformer::score::AdapterGradients;
use crate::transformer::stack::{Linear, Stack};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use std::collections::BTreeMap;

/// The factors of a linear: `x A^T B^T` is what they add.
#[derive(Clone, Debug)]
pub(super) struct LowRank {
    /// `(ranks, inputs)`: the ranks of its projections, one after another.
    pub(super) a: Tensor,
    /// `(outputs, ranks)`, scaled by `alpha / rank`; 0 where a projection's outputs meet another's ranks.
    pub(super) b: Tensor,
}

/// An adapter's factors by layer and linear, on the device.
#[derive(Debug)]
pub(crate) struct LinearFactors(pub(super) BTreeMap<(usize, Linear), LowRank>);

impl LinearFactors {
    /// The factors of `adapter` on `device`.
    ///
    /// # Errors
    /// Where the device fails.
    pub(super) fn new(adapter: &Adapter, spec: &ModelSpec, device: &Device) -> Result<Self> {
        let mut factors = BTreeMap::new();
        for place in places(spec) {
            let blocks = Block::of(adapter, place, spec);
            if !blocks.is_empty() {
                factors.insert(place, LowRank::new(adapter, place, &blocks, spec, device)?);
            }
        }
        Ok(Self(factors))
    }

    /// Bytes on the device.
    pub(super) fn bytes(&self) -> usize {
        let floats: usize = self.0.values().map(|LowRank { a, b }| a.elem_count() + b.elem_count()).sum();
        floats * size_of::<f32>()
    }
}

/// Every linear of every layer.
fn places(spec: &ModelSpec) -> impl Iterator<Item = (usize, Linear)> {
    (0..spec.layers).flat_map(|layer| Linear::ALL.map(|linear| (layer, linear)))
}

/// Where a projection's factors stand in those of its linear.
#[derive(Clone, Copy, Debug)]
struct Block {
    projection: Projection,
    first_output: usize,
    outputs: usize,
    first_rank: usize,
}

impl Block {
    /// The blocks of the projections that `adapter` has factors for.
    fn of(adapter: &Adapter, (layer, linear): (usize, Linear), spec: &ModelSpec) -> Vec<Self> {
        let (mut blocks, mut first_output) = (vec![], 0);
        for &projection in linear.projections() {
            let outputs = projection.sizes(spec).1;
            if adapter.factors.contains_key(&(layer, projection)) {
                let first_rank = blocks.len() * adapter.config.rank;
                blocks.push(Self { projection, first_output, outputs, first_rank });
            }
            first_output += outputs;
        }
        blocks
    }
}

impl LowRank {
    fn new(
        adapter: &Adapter,
        (layer, linear): (usize, Linear),
        blocks: &[Block],
        spec: &ModelSpec,
        device: &Device,
    ) -> Result<Self> {
        let (inputs, outputs) = linear.sizes(spec);
        let (rank, scale) = (adapter.config.rank, adapter.config.scale());
        let ranks = blocks.len() * rank;
        let (mut a, mut b) = (Vec::with_capacity(ranks * inputs), vec![0.0; outputs * ranks]);
        for block in blocks {
            let pair = &adapter.factors[&(layer, block.projection)];
            a.extend_from_slice(&pair.a);
            let rows = b[block.first_output * ranks..].chunks_exact_mut(ranks);
            for (row, own) in rows.zip(pair.b.chunks_exact(rank)) {
                row[block.first_rank..][..rank].iter_mut().zip(own).for_each(|(place, value)| *place = value * scale);
            }
        }
        let (a, b) = (Tensor::from_vec(a, (ranks, inputs), device)?, Tensor::from_vec(b, (outputs, ranks), device)?);
        Ok(Self { a, b })
    }
}

/// An adapter's factors as variables on the weights' device.
#[derive(Debug)]
pub(crate) struct AdapterVars {
    variables: BTreeMap<(usize, Linear), Variables>,
    rank: usize,
    /// `alpha / rank`.
    scale: f32,
}

/// The variables of a linear.
#[derive(Debug)]
struct Variables {
    a: Var,
    b: Var,
    blocks: Vec<Block>,
}

impl AdapterVars {
    /// The factors of `adapter` on the device of `model`.
    pub(crate) fn new(adapter: &Adapter, model: &Stack<Dense>) -> Result<Self> {
        let factors = LinearFactors::new(adapter, model.spec(), &model.layout().device)?;
        let variable = |(place, LowRank { a, b }): (_, LowRank)| -> Result<_> {
            let blocks = Block::of(adapter, place, model.spec());
            Ok((place, Variables { a: Var::from_tensor(&a)?, b: Var::from_tensor(&b)?, blocks }))
        };
        let variables = factors.0.into_iter().map(variable).collect::<Result<_>>()?;
        Ok(Self { variables, rank: adapter.config.rank, scale: adapter.config.scale() })
    }

    /// The factors as tensors, attached to the graph if `graph` is set, else detached.
    pub(super) fn tensors(&self, graph: bool) -> LinearFactors {
        let tensor = |var: &Var| if graph { var.as_tensor().clone() } else { var.as_detached_tensor() };
        let low_rank = |own: &Variables| LowRank { a: tensor(&own.a), b: tensor(&own.b) };
        LinearFactors(self.variables.iter().map(|(place, own)| (*place, low_rank(own))).collect())
    }

    /// The first layer that has factors.
    pub(super) fn first_layer(&self) -> Option<usize> {
        self.variables.keys().next().map(|&(layer, _)| layer)
    }

    /// Adds the gradients in `store` to `gradients`, in one copy from the device.
    pub(super) fn add_gradients<'a>(&'a self, store: &'a GradStore, gradients: &mut AdapterGradients) -> Result<()> {
        let found = |(&(layer, _), own): (&(usize, Linear), &'a Variables)| {
            Some((layer, own, [store.get(&own.a)?, store.get(&own.b)?]))
        };
        let found: Vec<(usize, &Variables, [&Tensor; 2])> = self.variables.iter().filter_map(found).collect();
        if found.is_empty() {
            return Ok(());
        }
        let flat = found.iter().flat_map(|(_, _, pair)| pair).map(|factor| factor.flatten_all());
        let host = Tensor::cat(&flat.collect::<candle_core::Result<Vec<_>>>()?, 0)?.to_vec1::<f32>()?;
        let mut rest = host.as_slice();
        for (layer, own, pair) in found {
            let [a, b] = pair.map(|factor| {
                let (ours, others) = rest.split_at(factor.elem_count());
                rest = others;
                ours
            });
            for block in &own.blocks {
                gradients.add(layer, block.projection, self.of_block(block, own.blocks.len() * self.rank, a, b));
            }
        }
        Ok(())
    }

    /// A projection's gradients in those of its linear, `(ranks, inputs)` and `(outputs, ranks)`.
    fn of_block(&self, block: &Block, ranks: usize, a: &[f32], b: &[f32]) -> Factors {
        let inputs = a.len() / ranks;
        let own = |row: &[f32]| row[block.first_rank..][..self.rank].iter().map(|value| value * self.scale).collect();
        let rows = b[block.first_output * ranks..].chunks_exact(ranks).take(block.outputs);
        Factors {
            a: a[block.first_rank * inputs..][..self.rank * inputs].to_vec(),
            b: rows.flat_map::<Vec<f32>, _>(own).collect(),
        }
    }
}
