//! Attention of packed sequences, forward and backward. A query attends to its prefix and to its own text; other scores
//! are not computed.
//!
//! Each head of each sequence is a task for the thread pool. If the number of heads is odd, one is split in two, so that two
//! threads finish together; the split depends on the model, not on the threads, and so do the sums. Queries go in blocks
//! of one prefix or one text. The backward pass computes their scores again from the saved log-sum-exp, as FlashAttention
//! does (arXiv 2205.14135), so that no `(rows, rows)` matrix ever exists.

mod block;
mod softmax;

use crate::kernels::attention::Heads;
use crate::kernels::ops;
use crate::kernels::{Accumulator, PackedOperand, Strided, prefetch, thread_pool};
use crate::transformer::score::Segments;
use block::QueryBlock;
use softmax::SoftmaxRow;
use std::cell::RefCell;
use std::ops::Range;

/// Queries of a block.
const QUERIES: usize = 48;
/// How many rows ahead to prefetch: the rows of a head are far apart.
const PREFETCH_ROWS: usize = 8;

/// Attention of one layer over `qkv`, `(rows, q + k + v widths)`, already rotated by position.
#[derive(Clone, Copy)]
pub(super) struct PackedAttention<'a> {
    pub(super) heads: Heads,
    /// The packed sequences, one after another.
    pub(super) sequences: &'a [SequenceRows],
    pub(super) blocks: &'a QueryBlocks,
    pub(super) qkv: &'a [f32],
}

/// The rows of one packed sequence in a batch.
#[derive(Debug)]
pub(super) struct SequenceRows {
    pub(super) segments: Segments,
    /// Its rows.
    pub(super) rows: Range<usize>,
}

/// Buffers of a thread, reused because new memory from the system costs as much as the work in it.
#[derive(Default)]
struct Scratch {
    keys: PackedOperand,
    keys_transposed: PackedOperand,
    values: PackedOperand,
    scores: Accumulator,
    d_scores: Accumulator,
    sums: Accumulator,
    /// Gradients of keys and values, one column per key.
    d_keys: Accumulator,
    d_values: Accumulator,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One head of one sequence, or half of its queries: the task of a thread.
#[derive(Clone, Copy)]
struct HeadTask<'a> {
    attention: PackedAttention<'a>,
    sequence: &'a SequenceRows,
    head: usize,
    blocks: &'a [QueryBlock],
}

/// The query blocks of each packed sequence, the same for all heads and all layers of one window.
#[derive(Debug)]
pub(super) struct QueryBlocks(Vec<Vec<QueryBlock>>);

impl QueryBlocks {
    /// The blocks of `sequences` where a token attends to `window` tokens.
    pub(super) fn new(sequences: &[SequenceRows], window: usize) -> Self {
        let of_sequence = |sequence: &SequenceRows| {
            let starts = sequence.segments.spans().into_iter().flat_map(|span| {
                let end = span.end;
                span.step_by(QUERIES).map(move |first| first..(first + QUERIES).min(end))
            });
            starts.map(|rows| QueryBlock::new(rows, &sequence.segments, window, sequence.rows.len())).collect()
        };
        Self(sequences.iter().map(of_sequence).collect())
    }
}

impl<'a> PackedAttention<'a> {
    fn tasks(&self) -> Vec<HeadTask<'a>> {
        let unsplit = self.heads.heads - Self::split_heads(self.heads);
        let of_head = |(sequence, blocks): (&'a SequenceRows, &'a Vec<QueryBlock>), head| {
            let task = HeadTask { attention: *self, sequence, head, blocks };
            if head < unsplit { vec![task] } else { task.halves() }
        };
        let of_sequence = |sequence| (0..self.heads.heads).flat_map(move |head| of_head(sequence, head));
        self.sequences.iter().zip(&self.blocks.0).flat_map(of_sequence).collect()
    }

    /// How many heads, the last ones, are split in two.
    fn split_heads(heads: Heads) -> usize {
        heads.heads % 2
    }

    /// Floats of a row of `qkv`.
    fn width(&self) -> usize {
        self.heads.q_width() + 2 * self.heads.kv_width()
    }

    /// Splits `scratch` into the floats that each task needs.
    fn shares<'r>(
        tasks: &[HeadTask<'_>],
        floats: impl Fn(&HeadTask<'_>) -> usize,
        scratch: &'r mut [f32],
    ) -> Vec<&'r mut [f32]> {
        let mut rest = scratch;
        let take = |task: &HeadTask<'_>| {
            let (ours, others) = std::mem::take(&mut rest).split_at_mut(floats(task));
            rest = others;
            ours
        };
        tasks.iter().map(take).collect()
    }

    /// Scratch floats per row for [`PackedAttention::forward`].
    pub(super) fn forward_floats(heads: Heads) -> usize {
        heads.q_width() + heads.heads
    }

    /// Scratch floats per row for [`PackedAttention::backward`].
    pub(super) fn backward_floats(heads: Heads) -> usize {
        // Both halves of a split head have gradients of keys and values.
        3 * heads.q_width() + 2 * heads.head_dim * Self::split_heads(heads)
    }

    /// Writes the output to `out`, `(rows, q width)`, and the log-sum-exp of the scores to `lse`, `(rows, heads)`.
    pub(super) fn forward(&self, out: &mut [f32], lse: &mut [f32], scratch: &mut [f32]) {
        let (heads, dim) = (self.heads.heads, self.heads.head_dim);
        let tasks = self.tasks();
        let mut shares = Self::shares(&tasks, |task| task.queries().len() * (dim + 1), scratch);
        thread_pool::each_mut(&mut shares, |index, share| tasks[index].forward(share));
        for (task, share) in tasks.iter().zip(&shares) {
            for (row, sum) in task.rows().zip(&share[task.queries().len() * dim..]) {
                lse[row * heads + task.head] = *sum;
            }
        }
        ops::by_rows(out, heads * dim, |first, out| {
            for (task, share) in tasks.iter().zip(&shares) {
                for (row, values) in rows_of(&task.rows(), share, dim, first..first + out.len() / (heads * dim)) {
                    out[((row - first) * heads + task.head) * dim..][..dim].copy_from_slice(values);
                }
            }
        });
    }

    /// Writes the gradient of `qkv` to `d_qkv`, from the output of the forward pass and its gradient `d_out`.
    pub(super) fn backward(&self, output: AttentionOutput<'_>, d_out: &[f32], d_qkv: &mut [f32], scratch: &mut [f32]) {
        let Heads { heads, kv_heads, head_dim: dim, .. } = self.heads;
        let tasks = self.tasks();
        let floats = |task: &HeadTask<'_>| (task.queries().len() + 2 * task.sequence.rows.len()) * dim;
        let mut shares = Self::shares(&tasks, floats, scratch);
        thread_pool::each_mut(&mut shares, |index, share| tasks[index].backward(output, d_out, share));
        let width = self.width();
        ops::by_rows(d_qkv, width, |first, d_qkv| {
            let rows = first..first + d_qkv.len() / width;
            d_qkv.chunks_exact_mut(width).for_each(|row| row[heads * dim..].fill(0.0));
            let at = |row: usize, column: usize| (row - first) * width + column * dim;
            for (task, share) in tasks.iter().zip(&shares) {
                let (d_queries, rest) = share.split_at(task.queries().len() * dim);
                for (row, gradient) in rows_of(&task.rows(), d_queries, dim, rows.clone()) {
                    d_qkv[at(row, task.head)..][..dim].copy_from_slice(gradient);
                }
                // The heads of a group share their keys and values.
                let kv_head = task.head / (heads / kv_heads);
                let (d_keys, d_values) = rest.split_at(task.sequence.rows.len() * dim);
                for (column, gradient) in [(heads + kv_head, d_keys), (heads + kv_heads + kv_head, d_values)] {
                    for (row, gradient) in rows_of(&task.sequence.rows, gradient, dim, rows.clone()) {
                        let to = d_qkv[at(row, column)..][..dim].iter_mut();
                        to.zip(gradient).for_each(|(to, gradient)| *to += gradient);
                    }
                }
            }
        });
    }
}

/// The rows of `rows` that are in `ours`, each with its `dim` values of `share`.
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

/// The output of the forward pass, `(rows, q width)`, and the log-sum-exp of its scores, `(rows, heads)`.
#[derive(Clone, Copy)]
pub(super) struct AttentionOutput<'a> {
    pub(super) out: &'a [f32],
    pub(super) lse: &'a [f32],
}

impl<'a> HeadTask<'a> {
    /// The batch's rows of its queries.
    fn rows(&self) -> Range<usize> {
        let first = self.sequence.rows.start;
        first + self.queries().start..first + self.queries().end
    }

    /// Two tasks with half of the work each, split between two blocks; or one, if there is only one block.
    fn halves(self) -> Vec<Self> {
        let work = |block: &QueryBlock| block.rows.len() * block.panels();
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

    /// The sequence's rows of its queries.
    fn queries(&self) -> Range<usize> {
        let end = |block: Option<&QueryBlock>, end: fn(&QueryBlock) -> usize| block.map_or(0, end);
        end(self.blocks.first(), |block| block.rows.start)..end(self.blocks.last(), |block| block.rows.end)
    }

    /// `values` from head `head` of row `row` of the sequence on; rows are `width` wide.
    fn at<'b>(&self, values: &'b [f32], width: usize, row: usize, head: usize) -> &'b [f32] {
        &values[(self.sequence.rows.start + row) * width + head * self.attention.heads.head_dim..]
    }

    fn query(&self, row: usize) -> &'a [f32] {
        self.at(self.attention.qkv, self.attention.width(), row, self.head)
    }

    fn keys(&self) -> &'a [f32] {
        let Heads { heads, kv_heads, .. } = self.attention.heads;
        self.at(self.attention.qkv, self.attention.width(), 0, heads + self.head / (heads / kv_heads))
    }

    fn values(&self) -> &'a [f32] {
        let Heads { heads, kv_heads, .. } = self.attention.heads;
        self.at(self.attention.qkv, self.attention.width(), 0, heads + kv_heads + self.head / (heads / kv_heads))
    }

    /// Writes the output, `(rows, head_dim)`, followed by each row's log-sum-exp.
    fn forward(&self, share: &mut [f32]) {
        SCRATCH.with_borrow_mut(|scratch| self.forward_with(scratch, share));
    }

    fn forward_with(&self, scratch: &mut Scratch, share: &mut [f32]) {
        let (rows, width, Heads { head_dim: dim, scale, .. }) =
            (self.sequence.rows.len(), self.attention.width(), self.attention.heads);
        let Scratch { keys_transposed: keys, values, scores, sums, .. } = scratch;
        keys.pack_transposed(self.keys(), width, dim, rows);
        values.pack(self.values(), width, rows, dim);
        let (out, lse) = share.split_at_mut(self.queries().len() * dim);
        sums.clear(self.queries().len(), dim);
        for block in self.blocks {
            let first = block.rows.start - self.queries().start;
            block.scores(Strided::rows(self.query(block.rows.start), width), keys, scores);
            for (row, lse) in lse[first..][..block.rows.len()].iter_mut().enumerate() {
                *lse = softmax::forward(scores, row, block.key_masks(row), scale);
            }
            block.gather(scores, values, (sums, first));
        }
        sums.read(out);
    }

    /// Writes the gradients of the queries, of the keys and of the values, `(rows, head_dim)` each.
    fn backward(&self, output: AttentionOutput<'_>, d_out: &[f32], share: &mut [f32]) {
        SCRATCH.with_borrow_mut(|scratch| self.backward_with(scratch, output, d_out, share));
    }

    fn backward_with(&self, scratch: &mut Scratch, output: AttentionOutput<'_>, d_out: &[f32], share: &mut [f32]) {
        let (rows, width, Heads { heads, head_dim: dim, scale, .. }) =
            (self.sequence.rows.len(), self.attention.width(), self.attention.heads);
        let out_width = self.attention.heads.q_width();
        let Scratch {
            keys,
            keys_transposed,
            values: values_transposed,
            scores,
            d_scores,
            sums: d_queries,
            d_keys,
            d_values,
        } = scratch;
        keys.pack(self.keys(), width, rows, dim);
        keys_transposed.pack_transposed(self.keys(), width, dim, rows);
        values_transposed.pack_transposed(self.values(), width, dim, rows);
        d_queries.clear(self.queries().len(), dim);
        d_keys.clear(dim, rows);
        d_values.clear(dim, rows);
        for block in self.blocks {
            let first = block.rows.start;
            let queries = Strided::rows(self.query(first), width);
            let d_rows = Strided::rows(self.at(d_out, out_width, first, self.head), out_width);
            block.scores(queries, keys_transposed, scores);
            block.scores(d_rows, values_transposed, d_scores);
            let count = block.rows.len();
            for row in 0..count {
                let at = |matrix, row| &self.at(matrix, out_width, first + row, self.head)[..dim];
                prefetch(at(output.out, (row + PREFETCH_ROWS).min(count - 1)));
                let inner = ops::dot(at(output.out, row), at(d_out, row));
                let lse = output.lse[(self.sequence.rows.start + first + row) * heads + self.head];
                softmax::backward(scores, d_scores, SoftmaxRow { row, scale, lse, inner }, block.key_masks(row));
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
