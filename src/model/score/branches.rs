//! The low-rank branches of an adapter as tensors of a graph, wherever a pass computes.

use crate::model::Result;
use crate::model::lora::{Adapter, Factors, Site};
use crate::model::spec::ModelSpec;
use crate::model::transformer::Linear;
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;

/// An adapter's factors as tensors of a graph: `A (rank, inputs)` and `B (outputs, rank)` by place.
#[derive(Clone, Debug)]
pub struct Branches {
    /// The factors.
    pub factors: BTreeMap<(usize, Site), (Tensor, Tensor)>,
    /// `alpha / rank`.
    pub scale: f64,
}

impl Branches {
    /// The factors of a finished adapter, without gradients.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn frozen(adapter: &Adapter, spec: &ModelSpec) -> Result<Self> {
        let rank = adapter.config.rank;
        let tensors = |(&(layer, site), pair): (&(usize, Site), &Factors)| -> Result<_> {
            let (inputs, outputs) = site.sizes(spec);
            let a = Tensor::from_slice(&pair.a, (rank, inputs), &Device::Cpu)?;
            Ok(((layer, site), (a, Tensor::from_slice(&pair.b, (outputs, rank), &Device::Cpu)?)))
        };
        let factors = adapter.factors.iter().map(tensors).collect::<Result<_>>()?;
        Ok(Self { factors, scale: f64::from(adapter.config.scale()) })
    }

    /// The same factors on `device`, their gradients still reaching these.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let moved = |(place, (a, b)): (&(usize, Site), &(Tensor, Tensor))| -> Result<_> {
            Ok((*place, (a.to_device(device)?, b.to_device(device)?)))
        };
        Ok(Self { factors: self.factors.iter().map(moved).collect::<Result<_>>()?, scale: self.scale })
    }

    /// What the factors on `linear` add to its result for `x`, `(rows, inputs)` to `(rows, outputs)`; none where there
    /// are none.
    pub(crate) fn added(&self, layer: usize, linear: Linear, spec: &ModelSpec, x: &Tensor) -> Result<Option<Tensor>> {
        let sites = linear.sites();
        if !sites.iter().any(|&site| self.factors.contains_key(&(layer, site))) {
            return Ok(None);
        }
        let branch = |&site: &Site| -> Result<Tensor> {
            match self.factors.get(&(layer, site)) {
                Some((a, b)) => Ok(x.matmul(&a.t()?)?.matmul(&b.t()?)?), // (rows, outputs of the site)
                None => Ok(Tensor::zeros((x.dim(0)?, site.sizes(spec).1), x.dtype(), x.device())?),
            }
        };
        let added = sites.iter().map(branch).collect::<Result<Vec<_>>>()?;
        let added = if let [only] = added.as_slice() { only.clone() } else { Tensor::cat(&added, 1)? };
        Ok(Some((added * self.scale)?))
    }
}
