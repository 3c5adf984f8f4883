//! The low-rank branches of an adapter as tensors of a graph, wherever a pass computes.

use super::Dense;
use crate::formats::Result;
use crate::formats::adapter::{Adapter, Factors};
use crate::formats::spec::{ModelSpec, Projection};
use crate::transformer::score::AdapterGradients;
use crate::transformer::{Linear, Stack};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use std::collections::BTreeMap;

/// An adapter's factors as tensors of a graph: `A (rank, inputs)` and `B (outputs, rank)` by place.
#[derive(Clone, Debug)]
pub(crate) struct Branches {
    /// The factors.
    pub(crate) factors: BTreeMap<(usize, Projection), (Tensor, Tensor)>,
    /// `alpha / rank`.
    pub(crate) scale: f64,
}

impl Branches {
    /// The factors of a finished adapter, without gradients.
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

    /// What the factors on `linear` add to its result for `x`, `(rows, inputs)` to `(rows, outputs)`; none where there
    /// are none.
    pub(crate) fn added(&self, layer: usize, linear: Linear, spec: &ModelSpec, x: &Tensor) -> Result<Option<Tensor>> {
        let projections = linear.projections();
        if !projections.iter().any(|&projection| self.factors.contains_key(&(layer, projection))) {
            return Ok(None);
        }
        let branch = |&projection: &Projection| -> Result<Tensor> {
            match self.factors.get(&(layer, projection)) {
                Some((a, b)) => Ok(x.matmul(&a.t()?)?.matmul(&b.t()?)?), // (rows, outputs of the site)
                None => Ok(Tensor::zeros((x.dim(0)?, projection.sizes(spec).1), x.dtype(), x.device())?),
            }
        };
        let added = projections.iter().map(branch).collect::<Result<Vec<_>>>()?;
        let added = if let [only] = added.as_slice() { only.clone() } else { Tensor::cat(&added, 1)? };
        Ok(Some((added * self.scale)?))
    }
}

/// An adapter's factors as variables on the weights' device.
#[derive(Debug)]
pub(crate) struct Trainable {
    variables: BTreeMap<(usize, Projection), (Var, Var)>,
    scale: f64,
}

impl Trainable {
    /// The factors of `adapter` beside the weights of `model`.
    pub(crate) fn new(adapter: &Adapter, model: &Stack<Dense>) -> Result<Self> {
        let Branches { factors, scale } = Branches::frozen(adapter, model.spec())?.to_device(&model.form().device)?;
        let variable = |(place, (a, b))| -> Result<_> { Ok((place, (Var::from_tensor(&a)?, Var::from_tensor(&b)?))) };
        Ok(Self { variables: factors.into_iter().map(variable).collect::<Result<_>>()?, scale })
    }

    /// The factors as tensors: of a graph that leads to the variables, or detached.
    pub(super) fn branches(&self, graph: bool) -> Branches {
        let tensor = |var: &Var| if graph { var.as_tensor().clone() } else { var.as_detached_tensor() };
        let factors = self.variables.iter().map(|(place, (a, b))| (*place, (tensor(a), tensor(b)))).collect();
        Branches { factors, scale: self.scale }
    }

    /// What `store` holds for the variables; one that it does not hold is left out.
    pub(super) fn gradients(&self, store: &GradStore) -> Result<AdapterGradients> {
        let mut gradients = AdapterGradients::default();
        for (&(layer, projection), (a, b)) in &self.variables {
            if let (Some(a), Some(b)) = (store.get(a), store.get(b)) {
                let host = |t: &Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
                gradients.add(layer, projection, Factors { a: host(a)?, b: host(b)? });
            }
        }
        Ok(gradients)
    }
}
