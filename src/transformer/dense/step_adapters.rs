//! The adapters of a step: one low-rank product a linear, however many adapters its rows have.
//!
//! The factors of all adapters stand one after another along the rank; a mask keeps each row to its own adapter's ranks
//! (S-LoRA and Punica group rows by adapter instead, arXiv 2311.03285 and 2310.18547; here versions in service at once are
//! few and their rows many).

use super::adapter::{LinearFactors, LowRank};
use crate::transformer::decode::{Batch, PackedAdapter};
use crate::transformer::error::Result;
use crate::transformer::stack::Linear;
use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The factors of several adapters at a linear, as one pair.
#[derive(Clone, Debug)]
struct Product {
    /// All of them along the rank.
    factors: LowRank,
    /// Ranks of each adapter.
    ranks: Vec<usize>,
}

impl Product {
    /// The factors of several adapters as one pair; `None` where none of them has any.
    fn joined(adapters: &[Option<&LowRank>]) -> Result<Option<Self>> {
        let present: Vec<&LowRank> = adapters.iter().copied().flatten().collect();
        let ranks = |factors: &Option<&LowRank>| Ok(factors.map(|factors| factors.a.dim(0)).transpose()?.unwrap_or(0));
        let ranks = adapters.iter().map(ranks).collect::<Result<_>>()?;
        let factors = match present.as_slice() {
            [] => return Ok(None),
            [only] => (*only).clone(),
            several => LowRank {
                a: Tensor::cat(&several.iter().map(|factors| &factors.a).collect::<Vec<_>>(), 0)?, // (all ranks, inputs)
                b: Tensor::cat(&several.iter().map(|factors| &factors.b).collect::<Vec<_>>(), 1)?, // (outputs, all ranks)
            },
        };
        Ok(Some(Self { factors, ranks }))
    }
}

/// The adapters that steps use, joined. They are joined again when others are used.
#[derive(Debug, Default)]
pub(super) struct JoinedAdapters {
    adapters: Vec<Arc<PackedAdapter>>,
    products: BTreeMap<(usize, Linear), Product>,
}

impl JoinedAdapters {
    /// The adapters of `batch` and its rows that have one.
    ///
    /// # Errors
    /// Where an adapter was packed for another backend, or the device fails.
    pub(super) fn of_step(&mut self, batch: &Batch, device: &Device) -> Result<StepAdapters<'_>> {
        let mut used: Vec<&Arc<PackedAdapter>> = batch.adapters.iter().collect();
        // In an order of their own, so that the order within a batch makes no other set.
        used.sort_by_key(|adapter| Arc::as_ptr(adapter));
        let is_same = used.len() == self.adapters.len()
            && used.iter().zip(&self.adapters).all(|(used, joined)| Arc::ptr_eq(used, joined));
        if !is_same {
            self.join(&used)?;
        }
        let mut owners = vec![];
        let mut rows: Vec<u32> = vec![];
        for span in &batch.spans {
            let Some(index) = span.adapter else { continue };
            let owner = used.iter().position(|adapter| Arc::ptr_eq(adapter, &batch.adapters[index]));
            owners.extend(std::iter::repeat_n(owner.expect("a span's adapter is the batch's"), span.len));
            rows.extend((span.start..span.start + span.len).map(|row| row as u32));
        }
        let is_all = rows.len() == batch.tokens.len();
        let rows = if is_all || rows.is_empty() { None } else { Some(Tensor::new(rows, device)?) };
        Ok(StepAdapters { products: &self.products, owners, rows, masks: BTreeMap::new() })
    }

    fn join(&mut self, adapters: &[&Arc<PackedAdapter>]) -> Result<()> {
        // Nothing of the former set is kept meanwhile.
        *self = Self::default();
        let factors = adapters.iter().map(|adapter| adapter.layout::<LinearFactors>()).collect::<Result<Vec<_>>>()?;
        let places = factors.iter().flat_map(|factors| factors.0.keys().copied());
        for place in places.collect::<BTreeSet<_>>() {
            let adapters: Vec<_> = factors.iter().map(|factors| factors.0.get(&place)).collect();
            self.products.extend(Product::joined(&adapters)?.map(|product| (place, product)));
        }
        self.adapters = adapters.iter().map(|&adapter| adapter.clone()).collect();
        Ok(())
    }
}

/// The adapters of one step.
pub(super) struct StepAdapters<'a> {
    products: &'a BTreeMap<(usize, Linear), Product>,
    /// The adapter of each adapted row.
    owners: Vec<usize>,
    /// The adapted rows; `None` where all are.
    rows: Option<Tensor>,
    /// 1 where a rank is the row's own adapter's, else 0, `(adapted rows, ranks)`, by the ranks of each adapter.
    masks: BTreeMap<Vec<usize>, Tensor>,
}

impl StepAdapters<'_> {
    /// `y` plus what the adapters add for `x`: `(rows, outputs)` and `(rows, inputs)`.
    pub(super) fn add(&mut self, layer: usize, linear: Linear, x: &Tensor, y: Tensor) -> Result<Tensor> {
        let Some(Product { factors: LowRank { a, b }, ranks }) =
            self.products.get(&(layer, linear)).filter(|_| !self.owners.is_empty())
        else {
            return Ok(y);
        };
        let chosen = self.rows.as_ref().map_or_else(|| Ok(x.clone()), |rows| x.index_select(rows, 0))?;
        let mut low = chosen.to_dtype(DType::F32)?.matmul(&a.t()?)?; // (adapted rows, ranks)
        if ranks.len() > 1 {
            low = (low * self.mask(ranks, x.device())?)?;
        }
        let added = low.matmul(&b.t()?)?; // (adapted rows, outputs)
        Ok(if let Some(rows) = &self.rows { y.index_add(rows, &added, 0)? } else { (y + added)? })
    }

    fn mask(&mut self, ranks: &[usize], device: &Device) -> Result<&Tensor> {
        if !self.masks.contains_key(ranks) {
            let all: usize = ranks.iter().sum();
            let mut mask = vec![0.0f32; self.owners.len() * all];
            for (&owner, row) in self.owners.iter().zip(mask.chunks_exact_mut(all)) {
                let first: usize = ranks[..owner].iter().sum();
                row[first..first + ranks[owner]].fill(1.0);
            }
            self.masks.insert(ranks.to_vec(), Tensor::from_vec(mask, (self.owners.len(), all), device)?);
        }
        Ok(&self.masks[ranks])
    }
}
