//! Attention over the paged KV cache, on the CPU.
//!
//! Keys and values of a step's rows enter the cache; then every query reads its sequence's blocks in order with an
//! online softmax. Rows that share a block (tokens of a prefill, siblings of a fork) read it together. A query's result
//! depends on the keys before it alone: not on its chunk, nor on its neighbours in the batch.

mod attend;
mod cache;
mod codes;
mod element;
#[cfg(target_arch = "x86_64")]
mod joint_codes;
#[cfg(target_arch = "x86_64")]
mod joint_dot;
mod joint_prefill;
#[cfg(target_arch = "x86_64")]
mod joint_strip;
mod layout;
mod online;
#[cfg(target_arch = "x86_64")]
mod online_code_dot;
mod online_codes;
#[cfg(target_arch = "x86_64")]
mod online_dot;
mod softmax;
#[cfg(target_arch = "x86_64")]
mod softmax_wide;

pub(crate) use cache::KvCache;
pub use layout::BLOCK_TOKENS;
pub(crate) use layout::{AttentionRow, Heads, slot, visible};

use super::layout::tiles;
use super::ops;
use super::{prefetch, thread_pool};
use attend::Attend;
use cache::{KvHead, KvLayer, KvLayers};
use element::KvElement;
use online::Queries;
use std::cell::Cell;
use std::ops::Range;

/// Rows that attend together: with three queries a row, their state and one block fit the L1 cache.
const ROWS_TOGETHER: usize = 16;
/// Queries that attend together at least, so that tiles are filled where a KV head has few.
const QUERIES_TOGETHER: usize = 48;
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
            KvLayers::Int8(layers) => attend(&mut layers[layer], self.heads, qkv, out, rows, params),
        }
    }
}

fn attend<T: Attend>(
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

    // Few rows make few pieces, and an odd one leaves threads idle.
    let even = usize::div_ceil(2 * thread_pool::threads(), heads.kv_heads).min(rows.len()).max(1);
    let together = ROWS_TOGETHER.max(QUERIES_TOGETHER / heads.group());
    let parts = parts(rows, together.min(rows.len().div_ceil(even)).max(1), heads.group());
    let mut pieces = vec![];
    for (kv_head, mut out) in out.chunks_mut((rows.len() * heads.group_width()).max(1)).enumerate() {
        for part in &parts {
            let piece;
            (piece, out) = out.split_at_mut(part.len() * heads.group_width());
            pieces.push((kv_head, part.clone(), piece));
        }
    }
    let work = |_, (kv_head, part, out): &mut (usize, Range<usize>, &mut [f32])| {
        attend_piece(&cache[*kv_head], (*kv_head, heads), qkv, out, (rows, part.clone()), params);
    };
    if is_serial {
        pieces.iter_mut().enumerate().for_each(|(index, piece)| work(index, piece));
    } else {
        thread_pool::each_mut(&mut pieces, work);
    }
}

/// Splits rows into parts of at most `size`: tokens of one sequence by themselves where they are enough for joint
/// prefill, other neighbours together.
fn parts(rows: &[AttentionRow<'_>], size: usize, group: usize) -> Vec<Range<usize>> {
    let mut parts = vec![];
    let split = |range: Range<usize>, parts: &mut Vec<Range<usize>>| {
        parts.extend(tiles(range.len(), size).map(|part| range.start + part.start..range.start + part.end));
    };
    let (mut begin, mut row) = (0, 0);
    for run in rows.chunk_by(|row, next| std::ptr::eq(row.blocks, next.blocks)) {
        if run.len() * group >= joint_prefill::QUERIES_MIN {
            split(begin..row, &mut parts);
            split(row..row + run.len(), &mut parts);
            begin = row + run.len();
        }
        row += run.len();
    }
    split(begin..row, &mut parts);
    parts
}

/// Attention of the rows `piece` of `rows` over one KV head; `out` becomes `(rows of the piece, group, head_dim)`.
fn attend_piece<T: Attend>(
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
        query.iter_mut().for_each(|query| *query = T::rounded(*query));
    }
    let asked = Queries { values: &queries, rows: &rows[piece], heads, window: params.window };
    if joint_prefill::applies(&asked) {
        T::attend_joint(asked, keys, values, out);
    } else {
        out.fill(0.0);
        T::attend(asked, keys, values, out);
    }
    QUERIES.set(queries);
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
    // The block of a row, and the row's place in it.
    let place_of = |row: &AttentionRow<'_>| {
        let slot = slot(row.blocks, row.position);
        (slot / BLOCK_TOKENS, slot % BLOCK_TOKENS)
    };
    let (keys_len, values_len) = (T::keys_len(dim), T::values_len(dim));
    let mut rotated = vec![0.0; dim];
    for (index, (row, qkv)) in rows.iter().zip(qkv.chunks_exact(q_width + 2 * kv_width)).enumerate() {
        // A key's dimensions are cache lines apart: those of the next key are prefetched meanwhile.
        if let Some(next) = rows.get(index + 1) {
            prefetch(&head.keys[place_of(next).0 * keys_len..][..keys_len]);
        }
        let of_head = kv_head * dim..(kv_head + 1) * dim;
        let (k, v) = qkv[q_width..].split_at(kv_width);
        params.prepare(index, &k[of_head.clone()], &mut rotated, params.qk_norms.map(|(_, k)| k), (dim, 1.0));
        let (block, place) = place_of(row);
        T::put_key(&mut head.keys[block * keys_len..][..keys_len], place, &rotated);
        T::put_value(&mut head.values[block * values_len..][..values_len], place, &v[of_head]);
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
