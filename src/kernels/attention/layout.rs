//! Where the rows of a step find their keys and values: head sizes, block tables, slots.
//!
//! Plain numbers, the same for every device. Knows no model and no tensor.

use std::ops::Range;

/// Tokens of one KV block.
pub const BLOCK_TOKENS: usize = 32;

/// The positions that a row at `position` attends to: the newest `window`, its own among them.
pub(crate) fn visible(position: usize, window: usize) -> Range<usize> {
    (position + 1).saturating_sub(window)..position + 1
}

/// The slot of `position`: its index in a cache of `(blocks * 32)` tokens.
pub(crate) fn slot(table: &[u32], position: usize) -> usize {
    table[position / BLOCK_TOKENS] as usize * BLOCK_TOKENS + position % BLOCK_TOKENS
}

/// One query row of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionRow<'a> {
    /// The sequence's block table.
    pub(crate) blocks: &'a [u32],
    /// The row's own position; it attends to `0..=position`.
    pub(crate) position: usize,
}

/// Head counts and sizes of attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Factor on scores.
    pub(crate) scale: f32,
}

impl Heads {
    /// Floats of one token's keys.
    pub(crate) fn kv_width(self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Floats of one token's queries.
    pub(crate) fn q_width(self) -> usize {
        self.heads * self.head_dim
    }

    /// Reorders attention's output from KV heads, `(kv_heads, rows, group, head_dim)`, to rows: `out` becomes rows
    /// `first..` of `(rows, heads * head_dim)`.
    pub(crate) fn by_row(self, by_head: &[f32], rows: usize, first: usize, out: &mut [f32]) {
        let width = self.group_width();
        for (row, out) in out.chunks_exact_mut(self.q_width()).enumerate() {
            for (kv_head, out) in out.chunks_exact_mut(width).enumerate() {
                out.copy_from_slice(&by_head[(kv_head * rows + first + row) * width..][..width]);
            }
        }
    }

    /// Query heads that share a KV head.
    pub(super) fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    /// Floats of the queries that share a KV head.
    pub(super) fn group_width(self) -> usize {
        self.q_width() / self.kv_heads
    }
}
