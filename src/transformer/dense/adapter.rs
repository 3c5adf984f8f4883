//! An adapter's factors as tensors of the score pass: variables to train, or detached from the graph.

use super::layout::Dense;
use crate::formats::adapter::{Adapter, Factors};
use crate::formats::spec::{ModelSpec, Projection};
use crate::transformer::error::Result;
use crate::transformer::score::AdapterGradients;
use crate::transformer::stack::{Linear, Stack};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use std::collections::BTreeMap;

/// An adapter's factors as tensors: `A (rank, inputs)` and `B (outputs, rank)` by layer and projection.
#[derive(Clone, Debug)]
pub(crate) struct AdapterTensors {
    /// The factors.
    pub(crate) factors: BTreeMap<(usize, Projection), (Tensor, Tensor)>,
    /// `alpha / rank`.
    pub(crate) scale: f64,
}

impl AdapterTensors {
    /// The factors of a trained adapter, without gradients.
    ///
    /// # Errors
    /// Where the device fails.
    pub(crate) fn frozen(adapter: &Adapter, spec: &ModelSpec) -> Result<Self> {
        let rank = adapter.config.rank;
        let tensors = |(&(layer, projection), pair): (&(usize, Projection), &Factors)| -> Result<_> {
            let (inputs, outputs) = projection.sizes(spec);
            let a = Tensor::from_slice(&pair.a, (rank, inputs), &Device::Cpu)?;
            Ok(((layer, projection), (a, Tensor::from_slice(&pair.b, (outputs, rank), &Device::Cpu)?)))
        };
        let factors = adapter.factors.iter().map(tensors).collect::<Result<_>>()?;
        Ok(Self { factors, scale: f64::from(adapter.config.scale()) })
    }

    /// The same factors on `device`.
    ///
    /// # Errors
    /// Where the device fails.
    pub(crate) fn to_device(&self, device: &Device) -> Result<Self> {
        let moved = |(place, (a, b)): (&(usize, Projection), &(Tensor, Tensor))| -> Result<_> {
            Ok((*place, (a.to_device(device)?, b.to_device(device)?)))
        };
        Ok(Self { factors: self.factors.iter().map(moved).collect::<Result<_>>()?, scale: self.scale })
    }

    /// What the adapter adds to the output of `linear` for `x`, `(rows, inputs)` to `(rows, outputs)`; `None` where it has
    /// no factors there.
    pub(crate) fn added(&self, layer: usize, linear: Linear, spec: &ModelSpec, x: &Tensor) -> Result<Option<Tensor>> {
        let projections = linear.projections();
        if !projections.iter().any(|&projection| self.factors.contains_key(&(layer, projection))) {
            return Ok(None);
        }
        let branch = |&projection: &Projection| -> Result<Tensor> {
            match self.factors.get(&(layer, projection)) {
                // Scaled while it is narrow.
                Some((a, b)) => Ok((x.matmul(&a.t()?)? * self.scale)?.matmul(&b.t()?)?), // (rows, outputs)
                None => Ok(Tensor::zeros((x.dim(0)?, projection.sizes(spec).1), x.dtype(), x.device())?),
            }
        };
        let added = projections.iter().map(branch).collect::<Result<Vec<_>>>()?;
        Ok(Some(if let [only] = added.as_slice() { only.clone() } else { Tensor::cat(&added, 1)? }))
    }
}

/// An adapter's factors as variables on the weights' device.
#[derive(Debug)]
pub(crate) struct AdapterVars {
    variables: BTreeMap<(usize, Projection), (Var, Var)>,
    scale: f64,
}

impl AdapterVars {
    /// The factors of `adapter` on the device of `model`.
    pub(crate) fn new(adapter: &Adapter, model: &Stack<Dense>) -> Result<Self> {
        let frozen = AdapterTensors::frozen(adapter, model.spec())?.to_device(&model.layout().device)?;
        let AdapterTensors { factors, scale } = frozen;
        let variable = |(place, (a, b))| -> Result<_> { Ok((place, (Var::from_tensor(&a)?, Var::from_tensor(&b)?))) };
        Ok(Self { variables: factors.into_iter().map(variable).collect::<Result<_>>()?, scale })
    }

    /// The factors as tensors, attached to the graph if `graph` is set, else detached.
    pub(super) fn tensors(&self, graph: bool) -> AdapterTensors {
        let tensor = |var: &Var| if graph { var.as_tensor().clone() } else { var.as_detached_tensor() };
        let factors = self.variables.iter().map(|(place, (a, b))| (*place, (tensor(a), tensor(b)))).collect();
        AdapterTensors { factors, scale: self.scale }
    }

    /// The first layer that has factors.
    pub(super) fn first_layer(&self) -> Option<usize> {
        self.variables.keys().next().map(|&(layer, _)| layer)
    }

    /// Adds the gradients in `store` to `gradients`, in one copy from the device.
    pub(super) fn add_gradients(&self, store: &GradStore, gradients: &mut AdapterGradients) -> Result<()> {
        let found = |(place, (a, b)): (&(usize, Projection), &(Var, Var))| {
            Some((*place, [store.get(a)?.clone(), store.get(b)?.clone()]))
        };
        let found: Vec<_> = self.variables.iter().filter_map(found).collect();
        let flat = found
            .iter()
            .flat_map(|(_, pair)| pair)
            .map(Tensor::flatten_all)
            .collect::<candle_core::Result<Vec<_>>>()?;
        if flat.is_empty() {
            return Ok(());
        }
        let host = Tensor::cat(&flat, 0)?.to_vec1::<f32>()?;
        let mut rest = host.as_slice();
        for ((layer, projection), pair) in found {
            let [a, b] = pair.map(|factor| {
                let (ours, others) = rest.split_at(factor.elem_count());
                rest = others;
                ours.to_vec()
            });
            gradients.add(layer, projection, Factors { a, b });
        }
        Ok(())
    }
}
