//! Attention over the paged KV cache, on the CPU.
//!
//! Keys and values of a step's rows enter the cache; then every query reads its sequence's blocks in order with an
//! online softmax. Rows that share a block (tokens of a prefill, siblings of a fork) read it together. A query's result
//! depends on the keys before it alone: not on its chunk, nor on its neighbours in the batch.

mod cache;
mod joint_prefill;
mod layout;
mod online;
mod softmax;

pub(crate) use cache::KvCache;
pub use layout::BLOCK_TOKENS;
pub(crate) use layout::{AttentionRow, Heads, slot, visible};

use super::ops;
use super::{prefetch, thread_pool};
use cache::{KvHead, KvLayer, KvLayers};
use online::{KvElement, Queries};
use std::cell::Cell;
use std::ops::Range;

/// Rows that attend together: with three queries a row, their state and one block fit the L1 cache.
const ROWS_TOGETHER: usize = 16;
/// Scores below which waking a second thread costs more than it gives.
const PARALLEL_MIN: usize = 1 << 10;

thread_local! {
    /// Queries of one piece; reused.
    static QUERIES: Cell<Vec<f32>> = Cell::default();
}

/// A layer's attention: rotation and norms of queries and keys, and the window.
#[derive(Clone, Copy)]
pub(crate) struct AttentionParams<'a> {
    /// Cosines and sines of the rows' rotary angles, `(rows, half)` each.
    pub(crate) angles: (&'a [f32], &'a [f32]),
    /// Pairs of a head that are rotated.
    pub(crate) half: usize,
    /// Weights of the norms of queries and of keys, `(head_dim)` each.
    pub(crate) qk_norms: Option<(&'a [f32], &'a [f32])>,
    pub(crate) norm_epsilon: f32,
    /// Newest tokens that a row attends to.
    pub(crate) window: usize,
}

impl KvCache {
    /// Attention of a step's rows: their keys and values enter the cache, then each row attends to the newest `window`
    /// tokens. `qkv` is `(rows, q + k + v widths)`, `out` becomes `(kv_heads, rows, group, head_dim)`: see
    /// [`Heads::by_row`].
    pub(crate) fn attend(
        &mut self,
        layer: usize,
        qkv: &[f32],
        out: &mut [f32],
        rows: &[AttentionRow<'_>],
        params: AttentionParams<'_>,
    ) {
        match &mut self.layers {
            KvLayers::F32(layers) => attend(&mut layers[layer], self.heads, qkv, out, rows, params),
            KvLayers::Bf16(layers) => attend(&mut layers[layer], self.heads, qkv, out, rows, params),
        }
    }
}

fn attend<T: KvElement>(
    cache: &mut KvLayer<T>,
    heads: Heads,
    qkv: &[f32],
    out: &mut [f32],
    rows: &[AttentionRow<'_>],
    params: AttentionParams<'_>,
) {
    let attended: usize = rows.iter().map(|row| params.window.min(row.position + 1)).sum();
    let is_serial = attended * heads.heads < PARALLEL_MIN;
    let store = |kv_head: usize, head: &mut KvHead<T>| store(head, kv_head, heads, qkv, rows, params);
    if is_serial {
        cache.iter_mut().enumerate().for_each(|(kv_head, head)| store(kv_head, head));
    } else {
        thread_pool::each_mut(cache, store);
    }

    let group_width = heads.group_width();
    // Few rows make few pieces, and an odd one leaves threads idle.
    let even = usize::div_ceil(2 * thread_pool::threads(), heads.kv_heads).min(rows.len());
    let chunk = rows.len().div_ceil(rows.len().div_ceil(ROWS_TOGETHER).max(even).max(1)).max(1);
    let chunks = rows.len().div_ceil(chunk);
    let work = |index: usize, out: &mut &mut [f32]| {
        // A head's pieces are neighbours; its last one may be shorter.
        let (kv_head, first) = (index / chunks, index % chunks * chunk);
        let piece = first..(first + chunk).min(rows.len());
        attend_piece(&cache[kv_head], (kv_head, heads), qkv, out, (rows, piece), params);
    };
    let mut pieces = pieces(out, rows.len() * group_width, chunk * group_width);
    if is_serial {
        pieces.iter_mut().enumerate().for_each(|(index, piece)| work(index, piece));
    } else {
        thread_pool::each_mut(&mut pieces, work);
    }
}

/// Attention of the rows `piece` of `rows` over one KV head; `out` becomes `(rows of the piece, group, head_dim)`.
fn attend_piece<T: KvElement>(
    KvHead { keys, values }: &KvHead<T>,
    (kv_head, heads): (usize, Heads),
    qkv: &[f32],
    out: &mut [f32],
    (rows, piece): (&[AttentionRow<'_>], Range<usize>),
    params: AttentionParams<'_>,
) {
    let group_width = heads.group_width();
    let row_width = heads.q_width() + 2 * heads.kv_width();
    let mut queries = QUERIES.take();
    queries.resize(out.len(), 0.0);
    for (row, query) in piece.clone().zip(queries.chunks_exact_mut(group_width)) {
        let from = row * row_width + kv_head * group_width;
        let norm = params.qk_norms.map(|(q, _)| q);
        params.prepare(row, &qkv[from..from + group_width], query, norm, (heads.head_dim, heads.scale));
    }
    let asked = Queries { values: &queries, rows: &rows[piece], heads, window: params.window };
    if joint_prefill::applies(&asked) {
        joint_prefill::attend(asked, keys, values, out);
    } else {
        out.fill(0.0);
        T::attend(asked, keys, values, out);
    }
    QUERIES.set(queries);
}

/// Splits `values` into heads of `of_head` and those into pieces of at most `size`.
fn pieces(values: &mut [f32], of_head: usize, size: usize) -> Vec<&mut [f32]> {
    values.chunks_mut(of_head.max(1)).flat_map(|head| head.chunks_mut(size)).collect()
}

/// Writes the keys and values of one KV head of the step's rows to their slots.
fn store<T: KvElement>(
    head: &mut KvHead<T>,
    kv_head: usize,
    heads: Heads,
    qkv: &[f32],
    rows: &[AttentionRow<'_>],
    params: AttentionParams<'_>,
) {
    let (q_width, kv_width, dim) = (heads.q_width(), heads.kv_width(), heads.head_dim);
    // Where the block of a row begins, and the row's place in it.
    let place_of = |row: &AttentionRow<'_>| {
        let slot = slot(row.blocks, row.position);
        (slot / BLOCK_TOKENS * BLOCK_TOKENS * dim, slot % BLOCK_TOKENS)
    };
    let mut rotated = vec![0.0; dim];
    for (index, (row, qkv)) in rows.iter().zip(qkv.chunks_exact(q_width + 2 * kv_width)).enumerate() {
        // A key touches as many cache lines as it has dimensions: those of the next key are prefetched meanwhile.
        if let Some(next) = rows.get(index + 1) {
            prefetch(&head.keys[place_of(next).0..][..BLOCK_TOKENS * dim]);
        }
        let of_head = kv_head * dim..(kv_head + 1) * dim;
        let (k, v) = qkv[q_width..].split_at(kv_width);
        params.prepare(index, &k[of_head.clone()], &mut rotated, params.qk_norms.map(|(_, k)| k), (dim, 1.0));
        let (block, place) = place_of(row);
        for (key, &k) in head.keys[block + place..].iter_mut().step_by(BLOCK_TOKENS).zip(&rotated) {
            *key = T::narrow(k);
        }
        for (value, &v) in head.values[block + place * dim..].iter_mut().zip(&v[of_head]) {
            *value = T::narrow(v);
        }
    }
}

impl AttentionParams<'_> {
    /// Normalises, rotates and scales the heads of `x`, those of row `row`.
    fn prepare(&self, row: usize, x: &[f32], out: &mut [f32], norm: Option<&[f32]>, (dim, scale): (usize, f32)) {
        let (half, sizes) = (self.half, (dim, self.half));
        let [cos, sin] = [self.angles.0, self.angles.1].map(|angles| &angles[row * half..][..half]);
        match norm {
            None => ops::rotate(x, out, cos, sin, sizes, 1.0),
            Some(weight) => {
                let mut normed = vec![0.0; x.len()];
                ops::norm(x, &mut normed, weight, self.norm_epsilon);
                ops::rotate(&normed, out, cos, sin, sizes, 1.0);
            }
        }
        if scale != 1.0 {
            out.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

#[cfg(test)]
mod tests;
