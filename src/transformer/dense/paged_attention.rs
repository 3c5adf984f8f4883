//! The decode pass's attention over the paged cache.
//!
//! With the feature `flash-attn`, a GPU computes the attention of a step in one call of flash attention's kernel. Without
//! it, and on any other device, attention gathers each sequence's blocks and is computed by its definition.

use super::attention;
use super::layout::Dense;
use super::qkv::ByLayerKind;
use crate::formats::spec::ModelSpec;
use crate::kernels::attention::{BLOCK_TOKENS, Heads};
#[cfg(feature = "flash-attn")]
use crate::transformer::decode::Batch;
use crate::transformer::error::Result;
use crate::transformer::paging::{Group, Paging};
use candle_core::{DType, Device, Tensor};

/// How one step's attention over the paged cache is computed.
pub(super) enum PagedAttention {
    /// Gather and multiply, group by group.
    Plain(Plain),
    /// Flash attention's kernel, all sequences in one call.
    #[cfg(feature = "flash-attn")]
    Flash(Flash),
}

impl PagedAttention {
    pub(super) fn new(spec: &ModelSpec, paging: &Paging, layout: &Dense) -> Result<Self> {
        #[cfg(feature = "flash-attn")]
        if Flash::serves(spec, layout) {
            return Ok(Self::Flash(Flash::new(paging, &layout.device)?));
        }
        Ok(Self::Plain(Plain::new(spec, paging, &layout.device)?))
    }

    /// Checks that the kernel of this build runs on the device of `layout`, where there is one for `spec`.
    ///
    /// # Errors
    /// Where it does not.
    pub(super) fn check(spec: &ModelSpec, layout: &Dense) -> Result<()> {
        #[cfg(feature = "flash-attn")]
        if Flash::serves(spec, layout) {
            return Flash::check(spec, layout);
        }
        let _ = (spec, layout);
        Ok(())
    }

    /// Attention of `q`, `(rows, heads, head_dim)`, over the pages of `layer`, `(blocks, 32, kv_heads, head_dim)` each.
    pub(super) fn over(&self, spec: &ModelSpec, layer: usize, q: &Tensor, pages: &(Tensor, Tensor)) -> Result<Tensor> {
        match self {
            Self::Plain(plain) => plain.over(spec, layer, q, pages),
            #[cfg(feature = "flash-attn")]
            Self::Flash(flash) => flash.over(spec, layer, q, pages),
        }
    }
}

pub(super) struct Plain {
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
            let q = q.index_select(&group.rows, 0)?.to_dtype(DType::F32)?;
            let q = q.reshape((sequences.len(), *rows, heads, head_dim))?;
            let gathered = |pages: &Tensor| {
                let pages = pages.index_select(&group.tables, 0)?.to_dtype(DType::F32)?;
                pages.reshape((sequences.len(), blocks * BLOCK_TOKENS, kv_heads, head_dim))
            };
            let mask = group.masks.of(spec, layer);
            let (k, v) = (gathered(keys)?, gathered(values)?);
            let out = attention::attend(&q, &k, &v, mask, scale, attention::SCORES_MAX)?;
            Ok(out.reshape((sequences.len() * rows, heads * head_dim))?)
        };
        let out = Tensor::cat(&self.groups.iter().map(of_group).collect::<Result<Vec<_>>>()?, 0)?;
        Ok(if let Some(indices) = &self.indices { out.index_select(indices, 0)? } else { out })
    }
}

#[cfg(feature = "flash-attn")]
pub(super) struct Flash {
    row_starts: Tensor,
    key_starts: Tensor,
    tables: Tensor,
    rows_max: usize,
    keys_max: usize,
}

#[cfg(feature = "flash-attn")]
impl Flash {
    /// Whether the kernel takes these heads: no f32, and a multiple of 8 values; those of more than 256 are not built.
    fn serves(spec: &ModelSpec, layout: &Dense) -> bool {
        let fits = spec.head_dim.is_multiple_of(8) && spec.head_dim <= 256;
        layout.device.is_cuda() && layout.dtype == DType::BF16 && fits
    }

    /// Checks that the kernel runs: it tells nobody where it cannot be launched. Over a single key, attention is its value.
    fn check(spec: &ModelSpec, layout: &Dense) -> Result<()> {
        const VALUE: f32 = 0.75;
        let mut batch = Batch::default();
        batch.push(&[0], 0, &[0], None, 0);
        let full = |value: f32, shape: &[usize]| Tensor::full(value, shape, &layout.device)?.to_dtype(layout.dtype);
        let pages = |value| full(value, &[1, BLOCK_TOKENS, spec.kv_heads, spec.head_dim]);
        let flash = Self::new(&Paging::of(&batch), &layout.device)?;
        let out = flash.over(spec, 0, &full(1.0, &[1, spec.heads, spec.head_dim])?, &(pages(0.0)?, pages(VALUE)?))?;
        let out = out.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        match out.iter().find(|&&found| found != VALUE) {
            Some(found) => Err(candle_core::Error::Msg(format!(
                "flash attention's kernel does not run on this gpu: expected {VALUE} over a single key, got {found}"
            ))
            .into()),
            None => Ok(()),
        }
    }

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
        Ok(out) // (rows, heads, head_dim), in bf16 as the next product wants it
    }
}
