//! Attention of packed sequences, forward and backward: each query meets the keys of its prefix and of its own text,
//! and no others are computed.
//!
//! Heads of sequences are shared out over the threads; of an odd number one is cut in two, so that two threads end
//! together. What is cut hangs on the model alone and not on the threads, and so do the sums. Queries go in blocks of one
//! prefix or one text; the backward pass computes their scores again from the saved log-sum-exp, as FlashAttention does
//! (arXiv 2205.14135), so that no matrix of `(rows, rows)` ever exists.

mod block;
mod softmax;

use super::packed::Segments;
use crate::kernels::attention::Heads;
use crate::kernels::ops;
use crate::kernels::{Accumulator, PackedOperand, Strided, prefetch, thread_pool};
use block::Block;
use softmax::Row;
use std::cell::RefCell;
use std::ops::Range;

/// Queries that meet the keys at once.
const QUERIES: usize = 48;
/// Rows between the one that is read and the one that is asked for: a head's lie far apart.
const AHEAD: usize = 8;

/// Attention of one layer over `qkv`, `(rows, q + k + v widths)`, already turned by position.
#[derive(Clone, Copy)]
pub(super) struct TreeAttention<'a> {
    pub(super) heads: Heads,
    /// The packed sequences, one behind the other.
    pub(super) trees: &'a [Tree],
    pub(super) blocks: &'a Blocks,
    pub(super) qkv: &'a [f32],
}

/// Where one packed sequence lies among the rows of a batch.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) segments: Segments,
    /// Its rows.
    pub(super) rows: Range<usize>,
}

/// What a thread works with: used again, since memory fresh from the system costs as much as what is done with it.
#[derive(Default)]
struct Scratch {
    keys: PackedOperand,
    keys_turned: PackedOperand,
    values: PackedOperand,
    scores: Accumulator,
    d_scores: Accumulator,
    sums: Accumulator,
    /// Gradients of keys and values, a column each.
    d_keys: Accumulator,
    d_values: Accumulator,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One head of one sequence, or half of its queries: what a thread computes.
#[derive(Clone, Copy)]
struct Part<'a> {
    all: TreeAttention<'a>,
    tree: &'a Tree,
    head: usize,
    blocks: &'a [Block],
}

/// The blocks of each packed sequence, the same for all heads and all layers of one window.
#[derive(Debug)]
pub(super) struct Blocks(Vec<Vec<Block>>);

impl Blocks {
    /// Those of `trees` where a token sees `window` tokens.
    pub(super) fn new(trees: &[Tree], window: usize) -> Self {
        let of_tree = |tree: &Tree| {
            let starts = tree.segments.spans().into_iter().flat_map(|span| {
                let end = span.end;
                span.step_by(QUERIES).map(move |first| first..(first + QUERIES).min(end))
            });
            starts.map(|rows| Block::new(rows, &tree.segments, window, tree.rows.len())).collect()
        };
        Self(trees.iter().map(of_tree).collect())
    }
}

impl<'a> TreeAttention<'a> {
    fn parts(&self) -> Vec<Part<'a>> {
        let whole = self.heads.heads - Self::cut_heads(self.heads);
        let of_head = |(tree, blocks): (&'a Tree, &'a Vec<Block>), head| {
            let part = Part { all: *self, tree, head, blocks };
            if head < whole { vec![part] } else { part.halves() }
        };
        let of_tree = |tree| (0..self.heads.heads).flat_map(move |head| of_head(tree, head));
        self.trees.iter().zip(&self.blocks.0).flat_map(of_tree).collect()
    }

    /// Heads, the last ones, that are cut in two.
    fn cut_heads(heads: Heads) -> usize {
        heads.heads % 2
    }

    /// Floats of a row of `qkv`.
    fn width(&self) -> usize {
        self.heads.q_width() + 2 * self.heads.kv_width()
    }

    /// Splits `room` into as many floats for each part as it needs.
    fn shares<'r>(parts: &[Part<'_>], floats: impl Fn(&Part<'_>) -> usize, room: &'r mut [f32]) -> Vec<&'r mut [f32]> {
        let mut rest = room;
        let take = |part: &Part<'_>| {
            let (ours, others) = std::mem::take(&mut rest).split_at_mut(floats(part));
            rest = others;
            ours
        };
        parts.iter().map(take).collect()
    }

    /// Floats that [`TreeAttention::forward`] needs room for a row.
    pub(super) fn forward_room(heads: Heads) -> usize {
        heads.q_width() + heads.heads
    }

    /// Floats that [`TreeAttention::backward`] needs room for a row.
    pub(super) fn backward_room(heads: Heads) -> usize {
        // A head that is cut has keys and values twice.
        3 * heads.q_width() + 2 * heads.head_dim * Self::cut_heads(heads)
    }

    /// Writes what each query finds to `out`, `(rows, q width)`, and the log-sum-exp of its scores to `lse`,
    /// `(rows, heads)`.
    pub(super) fn forward(&self, out: &mut [f32], lse: &mut [f32], room: &mut [f32]) {
        let (heads, dim) = (self.heads.heads, self.heads.head_dim);
        let parts = self.parts();
        let mut shares = Self::shares(&parts, |part| part.queries().len() * (dim + 1), room);
        thread_pool::each_mut(&mut shares, |index, share| parts[index].forward(share));
        for (part, share) in parts.iter().zip(&shares) {
            for (row, sum) in part.rows().zip(&share[part.queries().len() * dim..]) {
                lse[row * heads + part.head] = *sum;
            }
        }
        ops::by_rows(out, heads * dim, |first, out| {
            for (part, share) in parts.iter().zip(&shares) {
                for (row, values) in rows_of(&part.rows(), share, dim, first..first + out.len() / (heads * dim)) {
                    out[((row - first) * heads + part.head) * dim..][..dim].copy_from_slice(values);
                }
            }
        });
    }

    /// Writes the gradient of `qkv` to `d_qkv` from that of `out`, what `forward` found, and `lse`.
    pub(super) fn backward(&self, found: Found<'_>, d_out: &[f32], d_qkv: &mut [f32], room: &mut [f32]) {
        let Heads { heads, kv_heads, head_dim: dim, .. } = self.heads;
        let parts = self.parts();
        let floats = |part: &Part<'_>| (part.queries().len() + 2 * part.tree.rows.len()) * dim;
        let mut shares = Self::shares(&parts, floats, room);
        thread_pool::each_mut(&mut shares, |index, share| parts[index].backward(found, d_out, share));
        let width = self.width();
        ops::by_rows(d_qkv, width, |first, d_qkv| {
            let rows = first..first + d_qkv.len() / width;
            d_qkv.chunks_exact_mut(width).for_each(|row| row[heads * dim..].fill(0.0));
            let at = |row: usize, column: usize| (row - first) * width + column * dim;
            for (part, share) in parts.iter().zip(&shares) {
                let (d_queries, rest) = share.split_at(part.queries().len() * dim);
                for (row, gradient) in rows_of(&part.rows(), d_queries, dim, rows.clone()) {
                    d_qkv[at(row, part.head)..][..dim].copy_from_slice(gradient);
                }
                // The heads of a group share their keys and values.
                let kv_head = part.head / (heads / kv_heads);
                let (d_keys, d_values) = rest.split_at(part.tree.rows.len() * dim);
                for (column, gradient) in [(heads + kv_head, d_keys), (heads + kv_heads + kv_head, d_values)] {
                    for (row, gradient) in rows_of(&part.tree.rows, gradient, dim, rows.clone()) {
                        let to = d_qkv[at(row, column)..][..dim].iter_mut();
                        to.zip(gradient).for_each(|(to, gradient)| *to += gradient);
                    }
                }
            }
        });
    }
}

/// Those of the batch's `rows` that are among `ours`, each with its `dim` values of `share`.
fn rows_of<'s>(
    ours: &Range<usize>,
    share: &'s [f32],
    dim: usize,
    rows: Range<usize>,
) -> impl Iterator<Item = (usize, &'s [f32])> {
    let rows = rows.start.max(ours.start)..rows.end.min(ours.end);
    let values = share[rows.start.saturating_sub(ours.start).min(ours.len()) * dim..].chunks_exact(dim);
    rows.zip(values)
}

/// What the forward pass found, by row and head: `(rows, q width)` and `(rows, heads)`.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) out: &'a [f32],
    pub(super) lse: &'a [f32],
}

impl<'a> Part<'a> {
    /// The batch's rows that its queries are.
    fn rows(&self) -> Range<usize> {
        let first = self.tree.rows.start;
        first + self.queries().start..first + self.queries().end
    }

    /// Two parts with half of the work each, cut between two blocks; or this one, which has but one block.
    fn halves(self) -> Vec<Self> {
        let work = |block: &Block| block.rows.len() * block.panels();
        let all: usize = self.blocks.iter().map(work).sum();
        let mut done = 0;
        let half = self.blocks.iter().position(|block| {
            done += work(block);
            2 * done >= all
        });
        let (first, second) = self.blocks.split_at(half.map_or(self.blocks.len(), |half| half + 1));
        let halves = [first, second].into_iter().filter(|blocks| !blocks.is_empty());
        halves.map(|blocks| Self { blocks, ..self }).collect()
    }

    /// The rows of the sequence that its queries are.
    fn queries(&self) -> Range<usize> {
        let end = |block: Option<&Block>, end: fn(&Block) -> usize| block.map_or(0, end);
        end(self.blocks.first(), |block| block.rows.start)..end(self.blocks.last(), |block| block.rows.end)
    }

    /// Head `head` of the rows from `row` of the sequence on, in a matrix whose rows are `width` wide.
    fn at<'b>(&self, values: &'b [f32], width: usize, row: usize, head: usize) -> &'b [f32] {
        &values[(self.tree.rows.start + row) * width + head * self.all.heads.head_dim..]
    }

    fn query(&self, row: usize) -> &'a [f32] {
        self.at(self.all.qkv, self.all.width(), row, self.head)
    }

    fn keys(&self) -> &'a [f32] {
        let Heads { heads, kv_heads, .. } = self.all.heads;
        self.at(self.all.qkv, self.all.width(), 0, heads + self.head / (heads / kv_heads))
    }

    fn values(&self) -> &'a [f32] {
        let Heads { heads, kv_heads, .. } = self.all.heads;
        self.at(self.all.qkv, self.all.width(), 0, heads + kv_heads + self.head / (heads / kv_heads))
    }

    /// Writes what each row finds, `(rows, head_dim)`, and behind that each row's log-sum-exp.
    fn forward(&self, share: &mut [f32]) {
        SCRATCH.with_borrow_mut(|scratch| self.forward_with(scratch, share));
    }

    fn forward_with(&self, scratch: &mut Scratch, share: &mut [f32]) {
        let (rows, width, Heads { head_dim: dim, scale, .. }) =
            (self.tree.rows.len(), self.all.width(), self.all.heads);
        let Scratch { keys_turned: keys, values, scores, sums, .. } = scratch;
        keys.pack_transposed(self.keys(), width, dim, rows);
        values.pack(self.values(), width, rows, dim);
        let (out, lse) = share.split_at_mut(self.queries().len() * dim);
        sums.clear(self.queries().len(), dim);
        for block in self.blocks {
            let first = block.rows.start - self.queries().start;
            block.scores(Strided::rows(self.query(block.rows.start), width), keys, scores);
            for (row, lse) in lse[first..][..block.rows.len()].iter_mut().enumerate() {
                *lse = softmax::forward(scores, row, block.seen(row), scale);
            }
            block.gather(scores, values, (sums, first));
        }
        sums.read(out);
    }

    /// Writes the gradients of the queries, of the keys and of the values, `(rows, head_dim)` each.
    fn backward(&self, found: Found<'_>, d_out: &[f32], share: &mut [f32]) {
        SCRATCH.with_borrow_mut(|scratch| self.backward_with(scratch, found, d_out, share));
    }

    fn backward_with(&self, scratch: &mut Scratch, found: Found<'_>, d_out: &[f32], share: &mut [f32]) {
        let (rows, width, Heads { heads, head_dim: dim, scale, .. }) =
            (self.tree.rows.len(), self.all.width(), self.all.heads);
        let out_width = self.all.heads.q_width();
        let Scratch { keys, keys_turned, values: values_turned, scores, d_scores, sums: d_queries, d_keys, d_values } =
            scratch;
        keys.pack(self.keys(), width, rows, dim);
        keys_turned.pack_transposed(self.keys(), width, dim, rows);
        values_turned.pack_transposed(self.values(), width, dim, rows);
        d_queries.clear(self.queries().len(), dim);
        d_keys.clear(dim, rows);
        d_values.clear(dim, rows);
        for block in self.blocks {
            let first = block.rows.start;
            let queries = Strided::rows(self.query(first), width);
            let d_rows = Strided::rows(self.at(d_out, out_width, first, self.head), out_width);
            block.scores(queries, keys_turned, scores);
            block.scores(d_rows, values_turned, d_scores);
            let count = block.rows.len();
            for row in 0..count {
                let at = |matrix, row| &self.at(matrix, out_width, first + row, self.head)[..dim];
                prefetch(at(found.out, (row + AHEAD).min(count - 1)));
                let inner = ops::dot(at(found.out, row), at(d_out, row));
                let lse = found.lse[(self.tree.rows.start + first + row) * heads + self.head];
                softmax::backward(scores, d_scores, Row { row, scale, lse, inner }, block.seen(row));
            }
            block.gather(d_scores, keys, (d_queries, first - self.queries().start));
            block.scatter(d_scores, queries, d_keys);
            block.scatter(scores, d_rows, d_values);
        }
        let (to_queries, rest) = share.split_at_mut(self.queries().len() * dim);
        let (to_keys, to_values) = rest.split_at_mut(rows * dim);
        d_queries.read(to_queries);
        d_keys.read_columns(to_keys);
        d_values.read_columns(to_values);
    }
}
