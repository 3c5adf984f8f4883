//! Memory of the score pass, used again from layer to layer and from piece to piece.

use crate::model::kernel::ask_for_huge_pages;

/// Vectors that are free to be used again.
#[derive(Debug, Default)]
pub(crate) struct Space {
    free: Vec<Vec<f32>>,
    /// Rows of the batch, and those that a vector has room for.
    rows: usize,
    room: usize,
}

impl Space {
    /// Rows come in such steps, so that batches of nearly the same size share their memory.
    const STEP: usize = 64;

    /// Floats that a vector of `len` has room for in a batch of `rows`.
    pub(super) fn room(rows: usize, len: usize) -> usize {
        len.div_ceil(rows.max(1)) * rows.next_multiple_of(Self::STEP)
    }

    /// Makes ready for a batch of `rows`: vectors of another size go.
    pub(super) fn begin(&mut self, rows: usize) {
        let room = rows.next_multiple_of(Self::STEP);
        if room != self.room {
            self.free.clear();
        }
        (self.rows, self.room) = (rows, room);
    }

    /// `len` values, whatever they are.
    pub(super) fn take(&mut self, len: usize) -> Vec<f32> {
        let fits = self.free.iter().enumerate().filter(|(_, values)| values.capacity() >= len);
        let best = fits.min_by_key(|(_, values)| values.capacity()).map(|(index, _)| index);
        // A vector much too large serves another better.
        let mut values = match best.filter(|&index| self.free[index].capacity() / 2 <= len) {
            Some(index) => self.free.swap_remove(index),
            None => {
                let mut values = Vec::with_capacity(Self::room(self.rows, len));
                ask_for_huge_pages(values.spare_capacity_mut());
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
        self.free.iter().map(Vec::capacity).sum()
    }
}
