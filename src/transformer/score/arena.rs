//! Memory of the score pass, reused from layer to layer and from micro-batch to micro-batch.
//!
//! Micro-batches differ in their rows. Vectors of their exact size would fragment the heap; here every vector has capacity
//! for the most rows from the start, and only what is used of it is ever touched.

use crate::kernels::{PackedMatrix, advise_huge_pages};

/// Vectors that are free to be reused.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    free: Vec<Vec<f32>>,
    /// Rows that a vector has capacity for.
    row_capacity: usize,
    /// Logits of a trained head, whose size does not depend on the rows of the batch.
    pub(in crate::transformer) logits: Vec<f32>,
    /// A linear's weight in f32, where the model holds it in less.
    pub(in crate::transformer) widened: PackedMatrix,
}

impl Arena {
    /// Granularity of the capacity, in rows, where a batch is larger than expected.
    const STEP: usize = 64;

    /// Memory for batches of at most `rows` rows; it grows for larger ones.
    pub(crate) fn new(rows: usize) -> Self {
        Self { row_capacity: rows, ..Self::default() }
    }

    /// Prepares for a batch of `rows` rows: drops vectors that are too small.
    pub(in crate::transformer) fn begin(&mut self, rows: usize) {
        if rows > self.row_capacity {
            self.free.clear();
            self.row_capacity = rows.next_multiple_of(Self::STEP);
        }
    }

    /// `rows` rows of `width` arbitrary values; at most as many rows as the batch has.
    pub(in crate::transformer) fn take(&mut self, rows: usize, width: usize) -> Vec<f32> {
        let (len, capacity) = (rows * width, self.row_capacity * width);
        // Of about the same width: resizing a vector of narrower rows would write it before it is used.
        let fits = |values: &Vec<f32>| (capacity..=capacity + capacity / 8).contains(&values.capacity());
        let mut values = match self.free.iter().position(fits) {
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

    /// Returns `values` to the arena.
    pub(in crate::transformer) fn give(&mut self, values: Vec<f32>) {
        if values.capacity() > 0 {
            self.free.push(values);
        }
    }

    /// Returns all of `values` to the arena.
    pub(in crate::transformer) fn give_all<const N: usize>(&mut self, values: [Vec<f32>; N]) {
        values.into_iter().for_each(|values| self.give(values));
    }

    /// Floats that it holds.
    #[cfg(test)]
    pub(super) fn floats(&self) -> usize {
        self.free.iter().map(Vec::capacity).sum::<usize>() + self.logits.capacity() + self.widened.capacity()
    }
}
