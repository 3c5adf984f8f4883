//! Memory of the score pass, used again from layer to layer and from piece to piece.
//!
//! Pieces differ in their rows, and memory that followed them would leave the system's allocator full of holes: every
//! vector has room for the most rows from the first piece on, and only what is used of it is ever touched.

use crate::kernels::advise_huge_pages;

/// Vectors that are free to be used again.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    free: Vec<Vec<f32>>,
    /// Rows that a vector has room for.
    room: usize,
    /// What the head works in, which does not go by the rows of the batch.
    pub(super) logits: Vec<f32>,
}

impl Arena {
    /// Rows come in such steps where a batch is larger than expected.
    const STEP: usize = 64;

    /// Memory for batches of at most `rows` rows, and for larger ones when they come.
    pub(crate) fn new(rows: usize) -> Self {
        Self { room: rows, ..Self::default() }
    }

    /// Makes ready for a batch of `rows`: vectors that are too small go.
    pub(super) fn begin(&mut self, rows: usize) {
        if rows > self.room {
            self.free.clear();
            self.room = rows.next_multiple_of(Self::STEP);
        }
    }

    /// `rows` rows of `width` values, whatever they are; not more rows than the batch has.
    pub(super) fn take(&mut self, rows: usize, width: usize) -> Vec<f32> {
        let (len, capacity) = (rows * width, self.room * width);
        // Of the same width, or nearly: one that served narrower rows would have to be written before it is used.
        let serves = |values: &Vec<f32>| (capacity..=capacity + capacity / 8).contains(&values.capacity());
        let mut values = match self.free.iter().position(serves) {
            Some(index) => self.free.swap_remove(index),
            None => {
                let mut values = Vec::with_capacity(capacity);
                advise_huge_pages(values.spare_capacity_mut());
                values
            }
        };
        values.resize(len, 0.0);
        values
    }

    /// Takes `values` back.
    pub(super) fn give(&mut self, values: Vec<f32>) {
        if values.capacity() > 0 {
            self.free.push(values);
        }
    }

    /// Takes all of `values` back.
    pub(super) fn give_all<const N: usize>(&mut self, values: [Vec<f32>; N]) {
        values.into_iter().for_each(|values| self.give(values));
    }

    /// Floats that it holds.
    #[cfg(test)]
    pub(super) fn floats(&self) -> usize {
        self.free.iter().map(Vec::capacity).sum::<usize>() + self.logits.capacity()
    }
}
