//! The `decode` pass over plain tensors: a paged cache on the device, rows with and without adapters in one batch.

#[cfg(feature = "cuda")]
use super::cuda;
use super::fused::{self, HeadsOfRows};
use super::layout::Dense;
use super::ops;
use super::paged_attention::PagedAttention;
use super::product::product;
use super::qkv::{ByLayerKind, RotatedQkv};
use super::step_adapters::{JoinedAdapters, StepAdapters};
use crate::formats::spec::ModelSpec;
use crate::kernels::attention::{BLOCK_TOKENS, Heads};
#[cfg(feature = "cuda")]
use crate::transformer::decode::RowSampling;
use crate::transformer::decode::{Batch, Drawn, Forward};
use crate::transformer::error::Result;
use crate::transformer::paging::{Paging, copies_at_once};
use crate::transformer::rope::Tables;
use crate::transformer::stack::{Linear, Pass, QkNorms, Stack};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// Rows of logits that are on the device at once.
pub(crate) const LOGIT_ROWS_MAX: usize = 256;

/// Weights and KV cache on a device, ready to compute steps. One thread owns it.
pub(crate) struct DenseDecoder {
    model: Arc<Stack<Dense>>,
    cache: DenseCache,
    adapters: JoinedAdapters,
}

impl DenseDecoder {
    /// A decoder with a cache of `blocks` blocks, allocated at once.
    pub(crate) fn new(model: Arc<Stack<Dense>>, blocks: usize) -> Result<Self> {
        PagedAttention::check(model.spec(), model.layout())?;
        let cache = DenseCache::new(model.spec(), blocks, model.layout())?;
        Ok(Self { model, cache, adapters: JoinedAdapters::default() })
    }

    /// Bytes of one KV block over all layers, keys and values.
    pub(crate) fn block_bytes(spec: &ModelSpec, dtype: DType) -> usize {
        spec.layers * 2 * BLOCK_TOKENS * Heads::of(spec).kv_width() * dtype.size_in_bytes()
    }
}

impl Forward for DenseDecoder {
    fn blocks(&self) -> usize {
        self.cache.blocks
    }

    fn vocab(&self) -> usize {
        self.model.spec().vocab
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        self.cache.copy_blocks(pairs)
    }

    fn draws(&self) -> bool {
        cfg!(feature = "cuda") && self.model.layout().device.is_cuda()
    }

    fn step(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<Vec<Option<Drawn>>> {
        logits.clear();
        let model = self.model.clone();
        let (spec, device) = (model.spec(), &model.layout().device);
        let paging = Paging::of(batch);
        let rows = paging.positions.len();
        let positions: Vec<usize> = paging.positions.iter().map(|&position| position as usize).collect();
        let tables = Tables::new(spec, &positions);
        let mut pass = DecodePass {
            spec,
            angles: ByLayerKind::new(spec, |layer| ops::angles(tables.of(spec, layer), rows, device))?,
            slots: self.cache.slots(&paging.slots)?,
            attention: PagedAttention::new(spec, &paging, model.layout())?,
            adapters: self.adapters.of_step(batch, device)?,
            cache: &mut self.cache,
        };
        let hidden = model.forward(model.embed(&batch.tokens)?, &mut pass)?; // (rows, hidden)
        let last: Vec<u32> = batch.logit_rows().map(|row| row as u32).collect();
        for rows in last.chunks(LOGIT_ROWS_MAX) {
            let hidden = hidden.index_select(&Tensor::new(rows, device)?, 0)?; // (rows, hidden)
            let computed = product(&hidden, model.head())?.flatten_all()?.to_vec1()?;
            if logits.is_empty() { *logits = computed } else { logits.extend(computed) }
        }
        self.draw(batch, &hidden)
    }
}

impl DenseDecoder {
    /// Draws the tokens that `batch` asks for, from the states of its rows, `(rows, hidden)`.
    fn draw(&self, batch: &Batch, hidden: &Tensor) -> Result<Vec<Option<Drawn>>> {
        let mut drawn = Vec::with_capacity(batch.draws.len());
        #[cfg(feature = "cuda")]
        if !batch.draws.is_empty() {
            let rows: Vec<u32> = batch.drawn_rows().map(|row| row as u32).collect();
            // The draws are in the order of their rows.
            let mut rest = batch.draws.as_slice();
            for (chunk, rows) in rows.chunks(LOGIT_ROWS_MAX).enumerate() {
                let (first, end) = (chunk * LOGIT_ROWS_MAX, chunk * LOGIT_ROWS_MAX + rows.len());
                let (ours, others) = rest.split_at(rest.partition_point(|sampling| sampling.row < end));
                rest = others;
                let hidden = hidden.index_select(&Tensor::new(rows, hidden.device())?, 0)?; // (rows, hidden)
                let ours = ours.iter().map(|sampling| RowSampling { row: sampling.row - first, ..*sampling });
                drawn.extend(cuda::draw(&product(&hidden, self.model.head())?, &ours.collect::<Vec<_>>())?);
            }
        }
        #[cfg(not(feature = "cuda"))]
        let _ = (batch, hidden, &mut drawn);
        Ok(drawn)
    }
}

/// Keys and values of every layer.
struct DenseCache {
    /// `(blocks, 32 * kv_heads * head_dim)` each.
    layers: Vec<(Tensor, Tensor)>,
    heads: Heads,
    blocks: usize,
}

impl DenseCache {
    fn new(spec: &ModelSpec, blocks: usize, layout: &Dense) -> Result<Self> {
        let heads = Heads::of(spec);
        // Zeroed, because masked values are still multiplied by 0.
        let zeros = || Tensor::zeros((blocks, BLOCK_TOKENS * heads.kv_width()), layout.dtype, &layout.device);
        let layers = (0..spec.layers).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_>>()?;
        Ok(Self { layers, heads, blocks })
    }

    /// Copies whole blocks in every layer, in the order of `pairs`.
    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        for run in copies_at_once(pairs) {
            let of = |pick: fn(&(u32, u32)) -> u32| run.iter().map(pick).collect::<Vec<u32>>();
            for (keys, values) in &self.layers {
                for cached in [keys, values] {
                    let from = Tensor::new(of(|pair| pair.0), cached.device())?;
                    let to = spread(&of(|pair| pair.1), cached.dim(1)?, cached.device())?;
                    cached.scatter_set(&to, &cached.index_select(&from, 0)?, 0)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the GPU's own kernel writes to it.
    fn has_kernel(&self) -> bool {
        let pages = &self.layers[0].0;
        cfg!(feature = "cuda") && pages.device().is_cuda() && pages.dtype() == DType::BF16
    }

    /// `slots` as [`DenseCache::write`] wants them: `(rows)` for the GPU's own kernel, else an index of `(rows, kv_width)`.
    fn slots(&self, slots: &[u32]) -> Result<Tensor> {
        let device = self.layers[0].0.device();
        if self.has_kernel() { Ok(Tensor::new(slots, device)?) } else { spread(slots, self.heads.kv_width(), device) }
    }

    /// Makes heads of the step's rows of queries, keys and values, `(rows, q + k + v widths)`, and writes keys and values to
    /// their slots, in place. Returns the queries, `(rows, heads, head_dim)`.
    fn write(&mut self, layer: usize, slots: &Tensor, heads: &HeadsOfRows<'_>, qkv: &Tensor) -> Result<Tensor> {
        let (keys, values) = &self.layers[layer];
        #[cfg(feature = "cuda")]
        if self.has_kernel() {
            return Ok(cuda::heads_to_cache(qkv, heads, slots, &self.layers[layer])?);
        }
        let RotatedQkv { q, k, v } = heads.rotated(qkv)?;
        let width = self.heads.kv_width();
        for (cached, rows) in [(keys, k), (values, v)] {
            let rows = rows.contiguous()?.reshape(((), width))?.to_dtype(cached.dtype())?;
            cached.reshape((self.blocks * BLOCK_TOKENS, width))?.scatter_set(slots, &rows, 0)?;
        }
        Ok(q)
    }

    /// Keys and values of `layer`, `(blocks, 32, kv_heads, head_dim)` each.
    fn pages(&self, layer: usize) -> Result<(Tensor, Tensor)> {
        let shape = (self.blocks, BLOCK_TOKENS, self.heads.kv_heads, self.heads.head_dim);
        let (keys, values) = &self.layers[layer];
        Ok((keys.reshape(shape)?, values.reshape(shape)?))
    }
}

/// Row numbers as an index over whole rows of `width`, `(rows, width)`.
fn spread(rows: &[u32], width: usize, device: &Device) -> Result<Tensor> {
    Ok(Tensor::new(rows, device)?.unsqueeze(1)?.broadcast_as((rows.len(), width))?.contiguous()?)
}

struct DecodePass<'a> {
    spec: &'a ModelSpec,
    angles: ByLayerKind<(Tensor, Tensor)>,
    slots: Tensor,
    attention: PagedAttention,
    adapters: StepAdapters<'a>,
    cache: &'a mut DenseCache,
}

impl Pass for DecodePass<'_> {
    type Layout = Dense;
    type Rows = Tensor;

    fn linear(&mut self, layer: usize, linear: Linear, weight: &Tensor, x: Tensor) -> Result<Tensor> {
        let y = product(&x, weight)?; // (rows, outputs)
        self.adapters.add(layer, linear, &x, y)
    }

    fn bias(&mut self, x: Tensor, bias: &Tensor) -> Result<Tensor> {
        Ok(x.broadcast_add(bias)?)
    }

    fn add(&mut self, x: Tensor, h: Tensor) -> Result<Tensor> {
        Ok((x + h)?)
    }

    fn copied(&mut self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn norm(&mut self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        Ok(fused::norm(x, weight, self.spec.norm_epsilon)?)
    }

    fn attend(&mut self, layer: usize, norms: Option<&QkNorms<Dense>>, qkv: Tensor) -> Result<Tensor> {
        let heads = HeadsOfRows::new(self.spec, norms, self.angles.of(self.spec, layer));
        let q = self.cache.write(layer, &self.slots, &heads, &qkv)?;
        let pages = self.cache.pages(layer)?;
        let out = self.attention.over(self.spec, layer, &q, &pages)?;
        Ok(out.reshape(((), self.cache.heads.q_width()))?) // (rows, heads * head_dim)
    }

    fn gated(&mut self, gate_up: Tensor) -> Result<Tensor> {
        let activation = self.spec.layer_spec.activation;
        #[cfg(feature = "cuda")]
        if gate_up.device().is_cuda() {
            return Ok(cuda::gated(&gate_up, activation)?);
        }
        Ok(fused::gated(&gate_up, activation)?)
    }
}
