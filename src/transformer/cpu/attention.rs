//! The paged KV cache and the attention that reads it, on the CPU.
//!
//! A block holds 32 positions of every KV head: keys as `[kv_heads, blocks, head_dim, 32]`, so that a query's 32
//! scores are one sweep, values as `[kv_heads, blocks, 32, head_dim]`. Queries walk their sequence's blocks in
//! order with an online softmax, and rows that share a block (the tokens of a prefill, siblings of a fork) read
//! it together. A query's result depends on the keys before it and on nothing else: not on the chunk it came
//! in, nor on its neighbours in the batch.

mod block;
mod joint_prefill;

use crate::formats::spec::ModelSpec;
use crate::kernels::ops;
use crate::kernels::{ask_for_huge_pages, prefetch, thread_pool};
use crate::transformer::paging::slot;
use crate::transformer::rope::Angles;
use crate::transformer::{Panels, QkNorms};
use block::{Queries, Stored};
use std::cell::Cell;

/// Tokens of one KV block.
pub const BLOCK_TOKENS: usize = 32;
/// Rows that walk the blocks together: with three queries a row, their state and one block fit the L1 cache.
const ROWS_TOGETHER: usize = 16;
/// Scores below which waking a second thread costs more than it gives.
const PARALLEL_MIN: usize = 1 << 10;

thread_local! {
    /// Queries of one piece; memory that is used again.
    static QUERIES: Cell<Vec<f32>> = Cell::default();
}

/// Where one query row finds its keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach<'a> {
    /// The sequence's block table.
    pub(crate) blocks: &'a [u32],
    /// The row's own position; it sees `0..=position`.
    pub(crate) position: usize,
}

/// Sizes of attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// What scores are multiplied by.
    pub(crate) scale: f32,
}

impl Heads {
    pub(crate) fn of(spec: &ModelSpec) -> Self {
        Self { heads: spec.heads, kv_heads: spec.kv_heads, head_dim: spec.head_dim, scale: spec.score_scale }
    }

    /// Floats of one token's keys.
    pub(crate) fn kv_width(self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Floats of one token's queries.
    pub(crate) fn q_width(self) -> usize {
        self.heads * self.head_dim
    }

    /// Puts what was found by KV head, `(kv_heads, rows, group, head_dim)`, in order of rows from `first` on: `out`
    /// becomes `(some rows, heads * head_dim)`.
    pub(crate) fn by_row(self, found: &[f32], rows: usize, first: usize, out: &mut [f32]) {
        let width = self.group_width();
        for (row, out) in out.chunks_exact_mut(self.q_width()).enumerate() {
            for (kv_head, out) in out.chunks_exact_mut(width).enumerate() {
                out.copy_from_slice(&found[(kv_head * rows + first + row) * width..][..width]);
            }
        }
    }

    /// Floats of the queries that share a key-value head.
    fn group_width(self) -> usize {
        self.q_width() / self.kv_heads
    }
}

/// Keys and values of every layer, in blocks.
pub(crate) struct KvCache {
    layers: Layers,
    heads: Heads,
    blocks: usize,
}

/// Keys and values by layer, in f32 or as the bits of bf16.
enum Layers {
    F32(Vec<Layer<f32>>),
    Bf16(Vec<Layer<u16>>),
}

/// Keys and values of one layer, by KV head.
type Layer<T> = Vec<Head<T>>;

/// Keys `[blocks, head_dim, 32]` and values `[blocks, 32, head_dim]` of one KV head.
struct Head<T> {
    keys: Vec<T>,
    values: Vec<T>,
}

/// What a layer does to queries and keys before they meet.
#[derive(Clone, Copy)]
pub(crate) struct Preparation<'a> {
    pub(crate) angles: &'a Angles,
    pub(crate) norms: Option<&'a QkNorms<Panels>>,
    pub(crate) norm_epsilon: f32,
    /// Newest tokens that a row sees.
    pub(crate) window: usize,
}

impl KvCache {
    /// Bytes of one block over all layers, keys and values.
    pub(crate) fn block_bytes(spec: &ModelSpec, narrow: bool) -> usize {
        let size = if narrow { size_of::<u16>() } else { size_of::<f32>() };
        spec.layers * 2 * BLOCK_TOKENS * Heads::of(spec).kv_width() * size
    }

    /// A cache of `blocks` blocks, in bf16 if `narrow`, else in f32; the system hands out its pages as they are
    /// first written.
    pub(crate) fn new(spec: &ModelSpec, blocks: usize, narrow: bool) -> Self {
        let heads = Heads::of(spec);
        Self { layers: Layers::new(spec.layers, heads, blocks, narrow), heads, blocks }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Copies whole blocks, `(from, to)`, in every layer.
    pub(crate) fn copy_blocks(&mut self, pairs: &[(u32, u32)]) {
        fn copy<T: Copy>(layers: &mut [Layer<T>], pairs: &[(u32, u32)], size: usize) {
            for Head { keys, values } in layers.iter_mut().flatten() {
                for &(from, to) in pairs {
                    let (from, to) = (from as usize * size, to as usize * size);
                    keys.copy_within(from..from + size, to);
                    values.copy_within(from..from + size, to);
                }
            }
        }
        let size = BLOCK_TOKENS * self.heads.head_dim;
        match &mut self.layers {
            Layers::F32(layers) => copy(layers, pairs, size),
            Layers::Bf16(layers) => copy(layers, pairs, size),
        }
    }

    /// Attention of the step's rows: their keys and values enter the cache, then each row looks back over the newest
    /// `window` tokens. `qkv` is `(rows, q + k + v widths)`, `found` becomes `(kv_heads, rows, group, head_dim)`:
    /// see [`Heads::by_row`].
    pub(crate) fn attend(
        &mut self,
        layer: usize,
        qkv: &[f32],
        found: &mut [f32],
        rows: &[Reach<'_>],
        preparation: Preparation<'_>,
    ) {
        match &mut self.layers {
            Layers::F32(layers) => attend(&mut layers[layer], self.heads, qkv, found, rows, preparation),
            Layers::Bf16(layers) => attend(&mut layers[layer], self.heads, qkv, found, rows, preparation),
        }
    }
}

impl Layers {
    fn new(layers: usize, heads: Heads, blocks: usize, narrow: bool) -> Self {
        fn zeros<T: Stored>(layers: usize, heads: Heads, blocks: usize) -> Vec<Layer<T>> {
            let values = || {
                let values = T::zeros(blocks * BLOCK_TOKENS * heads.head_dim);
                ask_for_huge_pages(&values);
                values
            };
            let head = |_| Head { keys: values(), values: values() };
            (0..layers).map(|_| (0..heads.kv_heads).map(head).collect()).collect()
        }
        if narrow { Self::Bf16(zeros(layers, heads, blocks)) } else { Self::F32(zeros(layers, heads, blocks)) }
    }
}

fn attend<T: Stored>(
    cache: &mut Layer<T>,
    heads: Heads,
    qkv: &[f32],
    found: &mut [f32],
    rows: &[Reach<'_>],
    preparation: Preparation<'_>,
) {
    let (q_width, group_width) = (heads.q_width(), heads.group_width());
    let row_width = q_width + 2 * heads.kv_width();
    let seen: usize = rows.iter().map(|reach| preparation.window.min(reach.position + 1)).sum();
    let alone = seen * heads.heads < PARALLEL_MIN;
    let enter = |kv_head: usize, head: &mut Head<T>| enter(head, kv_head, heads, qkv, rows, preparation);
    if alone {
        cache.iter_mut().enumerate().for_each(|(kv_head, head)| enter(kv_head, head));
    } else {
        thread_pool::each_mut(cache, enter);
    }

    let of_head = rows.len() * group_width;
    // Few rows make few pieces, and an odd one leaves threads idle.
    let even = usize::div_ceil(2 * thread_pool::threads(), heads.kv_heads).min(rows.len());
    let chunk = rows.len().div_ceil(rows.len().div_ceil(ROWS_TOGETHER).max(even).max(1)).max(1);
    let chunks = rows.len().div_ceil(chunk);
    let work = |index: usize, found: &mut &mut [f32]| {
        // Pieces of one head follow one another; the last of each is the shorter one.
        let (kv_head, first) = (index / chunks, index % chunks * chunk);
        let rows = &rows[first..(first + chunk).min(rows.len())];
        let mut queries = QUERIES.take();
        queries.resize(found.len(), 0.0);
        for (offset, query) in queries.chunks_exact_mut(group_width).enumerate() {
            let row = first + offset;
            let from = row * row_width + kv_head * group_width;
            preparation.prepare(row, &qkv[from..from + group_width], query, |norms| &norms.q, heads.scale);
        }
        let asked = Queries { values: &queries, rows, heads, window: preparation.window };
        let Head { keys, values } = &cache[kv_head];
        if joint_prefill::serves(&asked) {
            joint_prefill::walk(asked, keys, values, found);
        } else {
            found.fill(0.0);
            T::walk(asked, keys, values, found);
        }
        QUERIES.set(queries);
    };
    let mut pieces = pieces(found, of_head, chunk * group_width);
    if alone {
        pieces.iter_mut().enumerate().for_each(|(index, piece)| work(index, piece));
    } else {
        thread_pool::each_mut(&mut pieces, work);
    }
}

/// Cuts `values` into heads of `of_head` and those into pieces of `size` at most.
fn pieces(values: &mut [f32], of_head: usize, size: usize) -> Vec<&mut [f32]> {
    values.chunks_mut(of_head.max(1)).flat_map(|head| head.chunks_mut(size)).collect()
}

/// Writes the keys and values of one head of the step's rows to their places.
fn enter<T: Stored>(
    head: &mut Head<T>,
    kv_head: usize,
    heads: Heads,
    qkv: &[f32],
    rows: &[Reach<'_>],
    preparation: Preparation<'_>,
) {
    let (q_width, kv_width, dim) = (heads.q_width(), heads.kv_width(), heads.head_dim);
    // Where the block of a row begins, and the row's place in it.
    let place_of = |reach: &Reach<'_>| {
        let slot = slot(reach.blocks, reach.position);
        (slot / BLOCK_TOKENS * BLOCK_TOKENS * dim, slot % BLOCK_TOKENS)
    };
    let mut turned = vec![0.0; dim];
    for (row, (reach, qkv)) in rows.iter().zip(qkv.chunks_exact(q_width + 2 * kv_width)).enumerate() {
        // A key touches as many lines as it has dimensions: those of the next one are asked for meanwhile.
        if let Some(next) = rows.get(row + 1) {
            prefetch(&head.keys[place_of(next).0..][..BLOCK_TOKENS * dim]);
        }
        let of_head = kv_head * dim..(kv_head + 1) * dim;
        let (k, v) = qkv[q_width..].split_at(kv_width);
        preparation.prepare(row, &k[of_head.clone()], &mut turned, |norms| &norms.k, 1.0);
        let (block, place) = place_of(reach);
        for (key, &k) in head.keys[block + place..].iter_mut().step_by(BLOCK_TOKENS).zip(&turned) {
            *key = T::narrow(k);
        }
        for (value, &v) in head.values[block + place * dim..].iter_mut().zip(&v[of_head]) {
            *value = T::narrow(v);
        }
    }
}

impl Preparation<'_> {
    /// Norms, turns and scales the heads of `x` by the angles of `row`.
    fn prepare(&self, row: usize, x: &[f32], out: &mut [f32], norm: fn(&QkNorms<Panels>) -> &[f32], scale: f32) {
        let (cos, sin) = self.angles.row(row);
        let half = cos.len();
        match self.norms {
            None => ops::rotate(x, out, cos, sin, half, 1.0),
            Some(norms) => {
                let mut normed = vec![0.0; x.len()];
                ops::norm(x, &mut normed, norm(norms), self.norm_epsilon);
                ops::rotate(&normed, out, cos, sin, half, 1.0);
            }
        }
        if scale != 1.0 {
            out.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

#[cfg(test)]
mod tests;
