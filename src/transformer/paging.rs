//! The batch of an engine step, and where its rows read and write keys and values: plain numbers, the same for every
//! device.
//!
//! The CPU's attention reads them row by row; a GPU takes them as tensors: block tables, slots, cumulative lengths.
//!
//! Invariants: a row's key is written before any row reads it; a row attends to positions up to its own, within its
//! window.

use super::decode::{PackedAdapter, RowSampling};
pub use crate::kernels::attention::BLOCK_TOKENS;
pub(crate) use crate::kernels::attention::{slot, visible};
use std::ops::Range;
use std::sync::Arc;

/// One sequence's part of a [`Batch`].
#[derive(Clone, Debug)]
pub struct Span {
    /// First of its tokens in [`Batch::tokens`].
    pub start: usize,
    /// Tokens of this step: 1 when decoding, more in a prefill chunk.
    pub len: usize,
    /// Tokens in the cache before this step, which is the position of its first token.
    pub cached: usize,
    /// Its block table, as a range of [`Batch::tables`].
    pub table: Range<usize>,
    /// Index into [`Batch::adapters`]; `None` for the base.
    pub adapter: Option<usize>,
    /// The number of its last tokens to compute the logits after: 1 to sample, more to score its tokens, 0 for none.
    pub logit_rows: usize,
    /// Whether tokens are drawn from the row of its last token, which then gives no logits.
    pub is_drawn: bool,
}

/// The flattened tokens of all sequences of one engine step.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Ids, sequence after sequence.
    pub tokens: Vec<u32>,
    /// The sequences, in the order of their tokens.
    pub spans: Vec<Span>,
    /// Block tables, sequence after sequence. Entry `i` of a table is the block of positions `32 i .. 32 i + 32`; a table
    /// covers the sequence's `cached + len` tokens.
    pub tables: Vec<u32>,
    /// The adapters in use.
    pub adapters: Vec<Arc<PackedAdapter>>,
    /// The tokens to draw, span after span; only for a device that [draws](super::decode::Forward::draws).
    pub draws: Vec<RowSampling>,
}

impl Batch {
    /// Empties it for the next step and keeps its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.spans.clear();
        self.tables.clear();
        self.adapters.clear();
        self.draws.clear();
    }

    /// Adds `tokens` of a sequence with `cached` tokens before them and the block table `table`. Logits are computed after
    /// the last `logit_rows` of them.
    pub fn push(
        &mut self,
        tokens: &[u32],
        cached: usize,
        table: &[u32],
        adapter: Option<&Arc<PackedAdapter>>,
        logit_rows: usize,
    ) {
        debug_assert!(logit_rows <= tokens.len(), "{logit_rows} rows of logits of {} tokens", tokens.len());
        let adapter = adapter.map(|adapter| {
            self.adapters.iter().position(|known| Arc::ptr_eq(known, adapter)).unwrap_or_else(|| {
                self.adapters.push(adapter.clone());
                self.adapters.len() - 1
            })
        });
        let (start, first) = (self.tokens.len(), self.tables.len());
        let table_end = first + table.len();
        self.spans.push(Span {
            start,
            len: tokens.len(),
            cached,
            table: first..table_end,
            adapter,
            logit_rows,
            is_drawn: false,
        });
        self.tokens.extend_from_slice(tokens);
        self.tables.extend_from_slice(table);
    }

    /// Rows of the step to compute logits of, in order.
    pub(crate) fn logit_rows(&self) -> impl Iterator<Item = usize> {
        self.spans.iter().filter(|span| !span.is_drawn).flat_map(|span| {
            let end = span.start + span.len;
            end - span.logit_rows..end
        })
    }

    /// The rows of tokens that others are drawn after.
    pub(crate) fn drawn_rows(&self) -> impl Iterator<Item = usize> {
        self.spans.iter().filter(|span| span.is_drawn).map(|span| span.start + span.len - 1)
    }

    /// Draws tokens after the last one of the newest span, in the place of its logits; `samplings` name no row yet.
    pub fn draw(&mut self, samplings: impl Iterator<Item = RowSampling>) {
        let row = self.drawn_rows().count();
        if let Some(span) = self.spans.last_mut() {
            span.is_drawn = true;
            self.draws.extend(samplings.map(|sampling| RowSampling { row, ..sampling }));
        }
    }

    /// Whether a span adds an adapter's branches to the base's weights.
    pub fn is_adapted(&self, span: &Span) -> bool {
        span.adapter.is_some_and(|index| !self.adapters[index].replaces_base())
    }

    /// The block table of one of its spans.
    pub fn table(&self, span: &Span) -> &[u32] {
        &self.tables[span.table.clone()]
    }
}

/// The inputs of paged attention for one step, in the layout of variable-length kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Paging {
    /// Position of each row in its sequence, `(rows)`.
    pub(crate) positions: Vec<u32>,
    /// Slot of each row's key and value, `(rows)`.
    pub(crate) slots: Vec<u32>,
    /// Cumulative number of rows, `(sequences + 1)`.
    pub(crate) row_starts: Vec<u32>,
    /// Cumulative number of keys, those of this step included, `(sequences + 1)`.
    pub(crate) key_starts: Vec<u32>,
    /// Most rows of a sequence.
    pub(crate) rows_max: usize,
    /// Most keys of a sequence.
    pub(crate) keys_max: usize,
    /// Block tables, `(sequences, blocks_max)` row-major, padded with block 0; no key of the padding is read.
    pub(crate) tables: Vec<u32>,
    /// Most blocks of a sequence.
    pub(crate) blocks_max: usize,
}

/// Sequences with the same number of rows, which plain attention computes in one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Indices of the sequences in the batch.
    pub(crate) sequences: Vec<usize>,
    /// Rows of each.
    pub(crate) rows: usize,
    /// Most blocks of one of them.
    pub(crate) blocks: usize,
}

impl Paging {
    /// The inputs for `batch`, whose spans are contiguous.
    pub(crate) fn of(batch: &Batch) -> Self {
        let sequences = batch.spans.len();
        let keys = |cached: usize, len: usize| cached + len;
        let blocks_max = batch.spans.iter().map(|s| keys(s.cached, s.len).div_ceil(BLOCK_TOKENS)).max().unwrap_or(0);
        let mut paging = Self {
            positions: Vec::with_capacity(batch.tokens.len()),
            slots: Vec::with_capacity(batch.tokens.len()),
            row_starts: vec![0],
            key_starts: vec![0],
            rows_max: 0,
            keys_max: 0,
            tables: vec![0; sequences * blocks_max],
            blocks_max,
        };
        let (mut rows_before, mut keys_before) = (0, 0);
        for (span, padded) in batch.spans.iter().zip(paging.tables.chunks_exact_mut(blocks_max.max(1))) {
            assert_eq!(span.start, rows_before, "spans follow one another");
            let (table, keys) = (batch.table(span), keys(span.cached, span.len));
            let used = &table[..keys.div_ceil(BLOCK_TOKENS)];
            padded[..used.len()].copy_from_slice(used);
            for position in span.cached..keys {
                paging.positions.push(position as u32);
                paging.slots.push(slot(table, position) as u32);
            }
            (rows_before, keys_before) = (rows_before + span.len, keys_before + keys);
            paging.row_starts.push(rows_before as u32);
            paging.key_starts.push(keys_before as u32);
            paging.rows_max = paging.rows_max.max(span.len);
            paging.keys_max = paging.keys_max.max(keys);
        }
        paging
    }

    /// Rows of sequence `sequence`.
    pub(crate) fn rows(&self, sequence: usize) -> Range<usize> {
        self.row_starts[sequence] as usize..self.row_starts[sequence + 1] as usize
    }

    /// Blocks of sequence `sequence`.
    fn blocks(&self, sequence: usize) -> &[u32] {
        let keys = (self.key_starts[sequence + 1] - self.key_starts[sequence]) as usize;
        &self.tables[sequence * self.blocks_max..][..keys.div_ceil(BLOCK_TOKENS)]
    }

    /// Groups the sequences by their number of rows: all that decode are one group.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = vec![];
        for sequence in 0..self.row_starts.len() - 1 {
            let (rows, blocks) = (self.rows(sequence).len(), self.blocks(sequence).len());
            match groups.iter_mut().find(|group| group.rows == rows) {
                Some(group) => {
                    group.sequences.push(sequence);
                    group.blocks = group.blocks.max(blocks);
                }
                None => groups.push(Group { sequences: vec![sequence], rows, blocks }),
            }
        }
        groups
    }
}

impl Group {
    /// Rows of its sequences, in order.
    pub(crate) fn row_indices(&self, paging: &Paging) -> Vec<u32> {
        self.sequences.iter().flat_map(|&sequence| paging.rows(sequence)).map(|row| row as u32).collect()
    }

    /// Block tables of its sequences, `(sequences, blocks)`, padded with block 0.
    pub(crate) fn tables(&self, paging: &Paging) -> Vec<u32> {
        let padded = |&sequence: &usize| {
            let blocks = paging.blocks(sequence);
            blocks.iter().copied().chain(std::iter::repeat_n(0, self.blocks - blocks.len())).collect::<Vec<_>>()
        };
        self.sequences.iter().flat_map(padded).collect()
    }

    /// The mask added to the scores of its rows, `(sequences, rows, blocks * 32)`: 0 where a row attends, else -infinity.
    pub(crate) fn mask(&self, paging: &Paging, window: usize) -> Vec<f32> {
        let keys = self.blocks * BLOCK_TOKENS;
        let rows = self.row_indices(paging);
        let mut mask = vec![f32::NEG_INFINITY; rows.len() * keys];
        for (&row, mask) in rows.iter().zip(mask.chunks_exact_mut(keys)) {
            mask[visible(paging.positions[row as usize] as usize, window)].fill(0.0);
        }
        mask
    }
}

/// Splits `pairs` of (from, to) into runs that can each be copied at once: within a run, no block that is written is read
/// or written again.
pub(crate) fn copies_at_once(pairs: &[(u32, u32)]) -> Vec<&[(u32, u32)]> {
    let mut runs = vec![];
    let mut first = 0;
    for (index, (from, to)) in pairs.iter().enumerate() {
        if pairs[first..index].iter().any(|(_, written)| written == from || written == to) {
            runs.push(&pairs[first..index]);
            first = index;
        }
    }
    if first < pairs.len() {
        runs.push(&pairs[first..]);
    }
    runs
}

#[cfg(test)]
mod tests;
