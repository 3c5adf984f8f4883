//! Attention over plain tensors, and its gradient written out.
//!
//! The score pass attends in tiles of queries, so that no more than one tile's scores are there at once, in the pass and in
//! its gradient, which computes them again (as FlashAttention does, arXiv 2205.14135, but with products of the tensor library).

#![allow(clippy::disallowed_methods, reason = "the softmax is differentiated here")]

use super::qkv::RotatedQkv;
use candle_core::{Result, Tensor};
use std::ops::Range;

/// Scores of one tile of the score pass, over all heads: 32 MiB.
pub(crate) const TILE_SCORES: usize = 8 << 20;
/// Most scores of the decode pass at once, where sequences have several rows: 256 MiB. The tensor library's softmax counts them in 32 bits.
pub(crate) const SCORES_MAX: usize = 64 << 20;

/// Attention by its definition, heads grouped (arXiv 2305.13245). `q` is `(batch, rows, heads, head_dim)`, `k` and `v` are
/// `(batch, keys, kv_heads, head_dim)`, `mask` is added to the scores, `(batch, rows, keys)`; gives `(batch, rows, heads * head_dim)`.
/// More scores than `scores_max` are computed one half of the rows after the other.
pub(super) fn attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: &Tensor,
    scale: f32,
    scores_max: usize,
) -> Result<Tensor> {
    let (batch, rows, heads, head_dim) = q.dims4()?;
    let (_, keys, kv_heads, _) = k.dims4()?;
    if rows > 1 && batch * heads * rows * keys > scores_max {
        let half = |first, count| {
            let q = q.narrow(1, first, count)?.contiguous()?;
            attend(&q, k, v, &mask.narrow(1, first, count)?, scale, scores_max)
        };
        return Tensor::cat(&[half(0, rows / 2)?, half(rows / 2, rows - rows / 2)?], 1);
    }
    let group = heads / kv_heads;
    // Queries of one KV head are contiguous.
    let q = q.reshape((batch, rows, kv_heads, group, head_dim))?.permute((0, 2, 3, 1, 4))?.contiguous()?;
    let q = q.reshape((batch, kv_heads, group * rows, head_dim))?;
    let k = k.permute((0, 2, 3, 1))?.contiguous()?; // (batch, kv_heads, head_dim, keys)
    let v = v.transpose(1, 2)?.contiguous()?; // (batch, kv_heads, keys, head_dim)
    let scores = (q.matmul(&k)? * f64::from(scale))?.reshape((batch, heads, rows, keys))?;
    let weights = candle_nn::ops::softmax_last_dim(&scores.broadcast_add(&mask.unsqueeze(1)?)?)?;
    let out = weights.reshape((batch, kv_heads, group * rows, keys))?.matmul(&v)?;
    let out = out.reshape((batch, kv_heads, group, rows, head_dim))?.permute((0, 3, 1, 2, 4))?.contiguous()?;
    out.reshape((batch, rows, heads * head_dim))
}

/// Attention of one sequence to itself in tiles of `tile` queries; `mask` is `(1, rows, rows)` and hides what comes after a row. Gives
/// `(rows, heads * head_dim)`.
pub(super) fn attend_in_tiles(qkv: &RotatedQkv, mask: &Tensor, scale: f32, tile: usize) -> Result<Tensor> {
    let of_tile = |tile| {
        let Tile { q, k, v, mask } = Tile::of(qkv, mask, &tile)?;
        attend(&q.unsqueeze(0)?, &k.unsqueeze(0)?, &v.unsqueeze(0)?, &mask, scale, usize::MAX)?.squeeze(0)
    };
    Tensor::cat(&tiles(qkv.q.dim(0)?, tile).map(of_tile).collect::<Result<Vec<_>>>()?, 0)
}

/// The gradients of queries, keys and values from that of [`attend_in_tiles`]'s output, `(rows, heads * head_dim)`.
pub(super) fn gradient(qkv: &RotatedQkv, mask: &Tensor, scale: f32, tile: usize, dy: &Tensor) -> Result<RotatedQkv> {
    let (rows, heads, head_dim) = qkv.q.dims3()?;
    let dy = dy.reshape((rows, heads, head_dim))?;
    let mut of_queries = vec![];
    let mut sums: Option<(Tensor, Tensor)> = None;
    for tile in tiles(rows, tile) {
        let dy = dy.narrow(0, tile.start, tile.len())?;
        let (q, k, v) = Tile::of(qkv, mask, &tile)?.gradient(scale, &dy)?;
        of_queries.push(q);
        // Keys behind the tile's last row are no part of it.
        let whole = |x: Tensor| if tile.end < rows { x.pad_with_zeros(1, 0, rows - tile.end) } else { Ok(x) };
        let (k, v) = (whole(k)?, whole(v)?);
        sums = Some(match sums {
            Some((keys, values)) => ((keys + k)?, (values + v)?),
            None => (k, v),
        });
    }
    let Some((k, v)) = sums else { candle_core::bail!("attention: expected at least one row") };
    let rows_first = |x: Tensor| x.transpose(0, 1)?.contiguous();
    Ok(RotatedQkv { q: Tensor::cat(&of_queries, 0)?, k: rows_first(k)?, v: rows_first(v)? })
}

/// The rows of one tile after another, `tile` rows each but the last.
pub(crate) fn tiles(rows: usize, tile: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(tile).map(move |first| first..rows.min(first + tile))
}

/// Queries of a tile where a sequence of `rows` attends to itself.
pub(crate) fn tile_rows(rows: usize, heads: usize) -> usize {
    (TILE_SCORES / (heads * rows).max(1)).clamp(1, rows.max(1))
}

/// Some rows of queries, `(tile, heads, head_dim)`, and all keys and values that they may attend to, `(keys, kv_heads, head_dim)`,
/// with their mask, `(1, tile, keys)`.
struct Tile {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
}

impl Tile {
    fn of(qkv: &RotatedQkv, mask: &Tensor, rows: &Range<usize>) -> Result<Self> {
        Ok(Self {
            q: qkv.q.narrow(0, rows.start, rows.len())?,
            k: qkv.k.narrow(0, 0, rows.end)?,
            v: qkv.v.narrow(0, 0, rows.end)?,
            mask: mask.narrow(1, rows.start, rows.len())?.narrow(2, 0, rows.end)?,
        })
    }

    /// The gradients of its queries, `(tile, heads, head_dim)`, and of its keys and values, `(kv_heads, keys, head_dim)`, from
    /// that of its output, `(tile, heads, head_dim)`.
    fn gradient(&self, scale: f32, dy: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let (rows, heads, _) = self.q.dims3()?;
        let (keys, kv_heads, _) = self.k.dims3()?;
        let grouped = |x: &Tensor| by_kv_head(x, kv_heads); // (kv_heads, group * tile, head_dim)
        let (q, dy) = (grouped(&self.q)?, grouped(dy)?);
        let (k, v) = (self.k.transpose(0, 1)?.contiguous()?, self.v.transpose(0, 1)?.contiguous()?);
        let scores = (q.matmul(&k.t()?)? * f64::from(scale))?.reshape((heads, rows, keys))?;
        let weights = candle_nn::ops::softmax_last_dim(&scores.broadcast_add(&self.mask)?)?;
        drop(scores);
        let weights = weights.reshape((kv_heads, heads / kv_heads * rows, keys))?;
        let of_values = weights.t()?.matmul(&dy)?;
        let of_weights = (dy.matmul(&v.t()?)? * &weights)?;
        let of_scores = (&of_weights - weights.broadcast_mul(&of_weights.sum_keepdim(2)?)?)?;
        drop((weights, of_weights));
        let of_queries = (of_scores.matmul(&k)? * f64::from(scale))?;
        let of_keys = (of_scores.t()?.matmul(&q)? * f64::from(scale))?;
        Ok((by_row(&of_queries, rows)?, of_keys, of_values))
    }
}

/// `(rows, heads, head_dim)` as `(kv_heads, group * rows, head_dim)`: the rows of the heads that share keys, head after head.
fn by_kv_head(x: &Tensor, kv_heads: usize) -> Result<Tensor> {
    let (rows, heads, head_dim) = x.dims3()?;
    let group = heads / kv_heads;
    let x = x.reshape((rows, kv_heads, group, head_dim))?.permute((1, 2, 0, 3))?.contiguous()?;
    x.reshape((kv_heads, group * rows, head_dim))
}

/// What [`by_kv_head`] made as `(rows, heads, head_dim)` again.
fn by_row(x: &Tensor, rows: usize) -> Result<Tensor> {
    let (kv_heads, grouped, head_dim) = x.dims3()?;
    let group = grouped / rows;
    let x = x.reshape((kv_heads, group, rows, head_dim))?.permute((2, 0, 1, 3))?.contiguous()?;
    x.reshape((rows, kv_heads * group, head_dim))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transformer::dense::graph;
    use candle_core::{D, Device};

    const ROWS: usize = 13;

    fn values(shape: (usize, usize, usize), seed: usize) -> Tensor {
        let count = shape.0 * shape.1 * shape.2;
        let value = |i: usize| ((i * 37 + seed * 101 + i * i * 11) % 255) as f32 / 64.0 - 2.0;
        Tensor::from_vec((0..count).map(value).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
    }

    /// The definition in operations that the tensor library differentiates, with keys repeated for each head.
    fn defined(qkv: &RotatedQkv, mask: &Tensor, scale: f32) -> Result<Tensor> {
        let (rows, heads, head_dim) = qkv.q.dims3()?;
        let group = heads / qkv.k.dim(1)?;
        let repeated = |x: &Tensor| {
            let x = x.unsqueeze(2)?.broadcast_as((rows, heads / group, group, head_dim))?.contiguous()?;
            x.reshape((rows, heads, head_dim))?.transpose(0, 1)?.contiguous()
        };
        let scores = qkv.q.transpose(0, 1)?.contiguous()?.matmul(&repeated(&qkv.k)?.t()?.contiguous()?)?;
        let weights = (scores * f64::from(scale))?.broadcast_add(mask)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        weights.matmul(&repeated(&qkv.v)?)?.transpose(0, 1)?.contiguous()?.reshape((rows, heads * head_dim))
    }

    #[test]
    fn tiles_of_any_height_give_the_definitions_values_and_gradients() {
        let qkv = RotatedQkv { q: values((ROWS, 6, 8), 1), k: values((ROWS, 2, 8), 2), v: values((ROWS, 2, 8), 3) };
        // Causal, with a gap, as between texts behind one prefix.
        let hidden = |i: usize| i % ROWS > i / ROWS || (i / ROWS > 9 && (4..8).contains(&(i % ROWS)));
        let mask: Vec<f32> = (0..ROWS * ROWS).map(|i| if hidden(i) { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (1, ROWS, ROWS), &Device::Cpu).unwrap();
        let dy = values((1, ROWS, 48), 4).squeeze(0).unwrap();
        let of = |pick: fn(&RotatedQkv) -> &Tensor, place: fn(&Tensor, &RotatedQkv) -> RotatedQkv| {
            graph::gradient_of(pick(&qkv), |x| Ok(vec![(defined(&place(x, &qkv), &mask, 0.3)?, dy.clone())])).unwrap()
        };
        let expected = [
            of(|qkv| &qkv.q, |q, qkv| RotatedQkv { q: q.clone(), ..qkv.detached() }),
            of(|qkv| &qkv.k, |k, qkv| RotatedQkv { k: k.clone(), ..qkv.detached() }),
            of(|qkv| &qkv.v, |v, qkv| RotatedQkv { v: v.clone(), ..qkv.detached() }),
        ];
        let off = |a: &Tensor, b: &Tensor| {
            assert_eq!(a.dims(), b.dims());
            let largest = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
            largest.to_scalar::<f32>().unwrap()
        };
        let whole = defined(&qkv, &mask, 0.3).unwrap();
        for tile in [1, 5, 12, ROWS] {
            assert!(off(&attend_in_tiles(&qkv, &mask, 0.3, tile).unwrap(), &whole) < 1e-5, "{tile}");
            let found = gradient(&qkv, &mask, 0.3, tile, &dy).unwrap();
            for (found, expected) in [found.q, found.k, found.v].iter().zip(&expected) {
                assert!(off(found, expected) < 1e-4, "{tile}: {}", off(found, expected));
            }
        }
        assert_eq!([tile_rows(640, 28), tile_rows(8192, 64), tile_rows(1, 4)], [468, 16, 1]);
    }
}
