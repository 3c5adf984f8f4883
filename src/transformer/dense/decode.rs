//! The `decode` pass over plain tensors: a paged cache on the device, rows with and without adapters in one batch.
//!
//! With the feature `flash-attn`, a GPU computes the attention of a step in one call of flash attention's kernel. Without
//! it, and on any other device, attention gathers each sequence's blocks and is computed by its definition.

use super::adapter::AdapterTensors;
use super::layout::Dense;
use super::ops;
use super::qkv::{ByLayerKind, QkvRotation};
use crate::formats::spec::ModelSpec;
use crate::kernels::attention::{BLOCK_TOKENS, Heads};
use crate::transformer::decode::{Batch, Forward};
use crate::transformer::error::Result;
use crate::transformer::paging::{Group, Paging, copies_at_once};
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
}

impl DenseDecoder {
    /// A decoder with a cache of `blocks` blocks, allocated at once.
    pub(crate) fn new(model: Arc<Stack<Dense>>, blocks: usize) -> Result<Self> {
        let cache = DenseCache::new(model.spec(), blocks, model.layout())?;
        Ok(Self { model, cache })
    }

    /// Most floats that a step's attention allocates beside the cache: none with flash attention; else the gathered keys and
    /// values of each sequence, a transposed copy of them, and the scores.
    pub(crate) fn attention_floats(spec: &ModelSpec, sequences: usize, context: usize) -> usize {
        let Heads { heads, .. } = Heads::of(spec);
        let of_token = 2 * 2 * Heads::of(spec).kv_width() + 3 * heads;
        if cfg!(feature = "flash-attn") { 0 } else { sequences * context * of_token }
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

    fn step(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
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
            attention: Attention::new(spec, &paging, model.layout())?,
            adapted: adapted(batch, device)?,
            cache: &mut self.cache,
        };
        let hidden = model.forward(model.embed(&batch.tokens)?, &mut pass)?; // (rows, hidden)
        let last: Vec<u32> = batch.logit_rows().map(|row| row as u32).collect();
        for rows in last.chunks(LOGIT_ROWS_MAX) {
            let hidden = hidden.index_select(&Tensor::new(rows, device)?, 0)?; // (rows, hidden)
            let computed = ops::product(&hidden, model.head())?.flatten_all()?.to_vec1()?;
            if logits.is_empty() { *logits = computed } else { logits.extend(computed) }
        }
        Ok(())
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

    /// `slots` as the index for [`DenseCache::write`], `(rows, kv_width)`.
    fn slots(&self, slots: &[u32]) -> Result<Tensor> {
        spread(slots, self.heads.kv_width(), self.layers[0].0.device())
    }

    /// Writes the keys and values of the step's rows, `(rows, kv_heads, head_dim)`, to their slots, in place.
    fn write(&mut self, layer: usize, slots: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
        let (keys, values) = &self.layers[layer];
        let width = self.heads.kv_width();
        for (cached, rows) in [(keys, k), (values, v)] {
            let rows = rows.reshape(((), width))?.to_dtype(cached.dtype())?;
            cached.reshape((self.blocks * BLOCK_TOKENS, width))?.scatter_set(slots, &rows, 0)?;
        }
        Ok(())
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

/// Adapters and the rows they apply to; `None` for all rows.
type Adapted<'a> = Vec<(&'a AdapterTensors, Option<Tensor>)>;

/// The rows of `batch` that each of its adapters applies to.
fn adapted<'a>(batch: &'a Batch, device: &Device) -> Result<Adapted<'a>> {
    let mut adapted = vec![];
    for (index, adapter) in batch.adapters.iter().enumerate() {
        let spans = batch.spans.iter().filter(|span| span.adapter == Some(index));
        let rows: Vec<u32> = spans.flat_map(|span| span.start..span.start + span.len).map(|row| row as u32).collect();
        if !rows.is_empty() {
            let all = rows.len() == batch.tokens.len();
            let rows = if all { None } else { Some(Tensor::new(rows, device)?) };
            adapted.push((adapter.layout()?, rows));
        }
    }
    Ok(adapted)
}

struct DecodePass<'a> {
    spec: &'a ModelSpec,
    angles: ByLayerKind<(Tensor, Tensor)>,
    slots: Tensor,
    attention: Attention,
    adapted: Adapted<'a>,
    cache: &'a mut DenseCache,
}

impl Pass for DecodePass<'_> {
    type Layout = Dense;
    type Rows = Tensor;

    fn linear(&mut self, layer: usize, linear: Linear, weight: &Tensor, x: Tensor) -> Result<Tensor> {
        let mut y = ops::product(&x, weight)?; // (rows, outputs)
        for (adapter, rows) in &self.adapted {
            let chosen = rows.as_ref().map_or_else(|| Ok(x.clone()), |rows| x.index_select(rows, 0))?;
            let Some(added) = adapter.added(layer, linear, self.spec, &chosen)? else { continue };
            y = if let Some(rows) = rows { y.index_add(rows, &added, 0)? } else { (y + added)? };
        }
        Ok(y)
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
        Ok(ops::norm(x, weight, self.spec.norm_epsilon)?)
    }

    fn attend(&mut self, layer: usize, norms: Option<&QkNorms<Dense>>, qkv: Tensor) -> Result<Tensor> {
        let rotated = QkvRotation::new(self.spec, norms, self.angles.of(self.spec, layer)).apply(&qkv)?;
        self.cache.write(layer, &self.slots, &rotated.k, &rotated.v)?;
        let pages = self.cache.pages(layer)?;
        let out = self.attention.over(self.spec, layer, &rotated.q, &pages)?;
        Ok(out.reshape(((), self.cache.heads.q_width()))?) // (rows, heads * head_dim)
    }

    fn gated(&mut self, gate_up: Tensor) -> Result<Tensor> {
        Ok(ops::gated(&gate_up, self.spec.layer_spec.activation)?)
    }
}

/// How one step's attention over the paged cache is computed.
enum Attention {
    /// Gather and multiply, group by group.
    Plain(Plain),
    /// Flash attention's kernel, all sequences in one call.
    #[cfg(feature = "flash-attn")]
    Flash(Flash),
}

impl Attention {
    fn new(spec: &ModelSpec, paging: &Paging, layout: &Dense) -> Result<Self> {
        // The kernel takes no f32.
        #[cfg(feature = "flash-attn")]
        if layout.device.is_cuda() && layout.dtype == DType::BF16 {
            return Ok(Self::Flash(Flash::new(paging, &layout.device)?));
        }
        Ok(Self::Plain(Plain::new(spec, paging, &layout.device)?))
    }

    /// Attention of `q`, `(rows, heads, head_dim)`, over the pages of `layer`, `(blocks, 32, kv_heads, head_dim)` each.
    fn over(&self, spec: &ModelSpec, layer: usize, q: &Tensor, pages: &(Tensor, Tensor)) -> Result<Tensor> {
        match self {
            Self::Plain(plain) => plain.over(spec, layer, q, pages),
            #[cfg(feature = "flash-attn")]
            Self::Flash(flash) => flash.over(spec, layer, q, pages),
        }
    }
}

struct Plain {
    groups: Vec<PlainGroup>,
    /// Index of each row in the concatenated groups; `None` where they are in the step's order.
    indices: Option<Tensor>,
}

struct PlainGroup {
    shape: Group,
    /// Rows of the step, `(sequences * rows)`.
    rows: Tensor,
    /// Blocks, `(sequences * blocks)`.
    tables: Tensor,
    /// Added to the scores, `(sequences, rows, blocks * 32)`.
    masks: ByLayerKind<Tensor>,
}

impl Plain {
    fn new(spec: &ModelSpec, paging: &Paging, device: &Device) -> Result<Self> {
        let mut order = vec![];
        let mut groups = vec![];
        for shape in paging.groups() {
            let rows = shape.row_indices(paging);
            order.extend_from_slice(&rows);
            let of_mask = (shape.sequences.len(), shape.rows, shape.blocks * BLOCK_TOKENS);
            let masks = ByLayerKind::new(spec, |layer| {
                Ok(Tensor::from_vec(shape.mask(paging, spec.window(layer)), of_mask, device)?)
            })?;
            let tables = Tensor::new(shape.tables(paging), device)?;
            groups.push(PlainGroup { rows: Tensor::new(rows, device)?, tables, masks, shape });
        }
        let indices = if order.is_sorted() {
            None
        } else {
            let mut indices = vec![0u32; order.len()];
            order.iter().zip(0..).for_each(|(&row, index)| indices[row as usize] = index);
            Some(Tensor::new(indices, device)?)
        };
        Ok(Self { groups, indices })
    }

    fn over(&self, spec: &ModelSpec, layer: usize, q: &Tensor, (keys, values): &(Tensor, Tensor)) -> Result<Tensor> {
        let Heads { heads, kv_heads, head_dim, scale } = Heads::of(spec);
        let of_group = |group: &PlainGroup| -> Result<Tensor> {
            let Group { sequences, rows, blocks } = &group.shape;
            let q = q.index_select(&group.rows, 0)?.reshape((sequences.len(), *rows, heads, head_dim))?;
            let gathered = |pages: &Tensor| {
                let pages = pages.index_select(&group.tables, 0)?.to_dtype(DType::F32)?;
                pages.reshape((sequences.len(), blocks * BLOCK_TOKENS, kv_heads, head_dim))
            };
            let mask = group.masks.of(spec, layer);
            let out = ops::attention(&q, &gathered(keys)?, &gathered(values)?, mask, scale)?;
            Ok(out.reshape((sequences.len() * rows, heads * head_dim))?)
        };
        let out = Tensor::cat(&self.groups.iter().map(of_group).collect::<Result<Vec<_>>>()?, 0)?;
        Ok(if let Some(indices) = &self.indices { out.index_select(indices, 0)? } else { out })
    }
}

#[cfg(feature = "flash-attn")]
struct Flash {
    row_starts: Tensor,
    key_starts: Tensor,
    tables: Tensor,
    rows_max: usize,
    keys_max: usize,
}

#[cfg(feature = "flash-attn")]
impl Flash {
    fn new(paging: &Paging, device: &Device) -> Result<Self> {
        let sequences = paging.row_starts.len() - 1;
        Ok(Self {
            row_starts: Tensor::new(paging.row_starts.as_slice(), device)?,
            key_starts: Tensor::new(paging.key_starts.as_slice(), device)?,
            tables: Tensor::from_slice(&paging.tables, (sequences, paging.blocks_max), device)?,
            rows_max: paging.rows_max,
            keys_max: paging.keys_max,
        })
    }

    fn over(&self, spec: &ModelSpec, layer: usize, q: &Tensor, (keys, values): &(Tensor, Tensor)) -> Result<Tensor> {
        let window = spec.window(layer);
        // The kernel counts the tokens before a row's own; `None` is causal attention without a window.
        let before = (window < usize::MAX).then(|| window - 1);
        let out = candle_flash_attn::flash_attn_varlen_paged_windowed(
            &q.to_dtype(keys.dtype())?,
            keys,
            values,
            &self.row_starts,
            &self.key_starts,
            &self.tables,
            None,
            self.rows_max,
            self.keys_max,
            spec.score_scale,
            before,
            Some(0),
            BLOCK_TOKENS,
            None,
        )?;
        Ok(out.to_dtype(DType::F32)?) // (rows, heads, head_dim)
    }
}
