//! A row-major result that several threads write, each its own panels of columns.

use super::layout::PANEL;
use super::prefetch::prefetch_later;

/// A row-major result whose column ranges are written from several threads.
pub(super) struct ColumnWriter<'a> {
    start: *mut f32,
    len: usize,
    width: usize,
    /// Floats from a row to the next.
    stride: usize,
    _result: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: `write` is the only access, and each panel of columns is written by one thread only.
unsafe impl Sync for ColumnWriter<'_> {}

impl<'a> ColumnWriter<'a> {
    pub(super) fn new(result: &'a mut [f32], width: usize) -> Self {
        Self::with_stride(result, width, width)
    }

    /// A result whose rows are `stride` floats apart.
    pub(super) fn with_stride(result: &'a mut [f32], width: usize, stride: usize) -> Self {
        assert!(width <= stride, "rows of {width} floats that are {stride} apart");
        Self { start: result.as_mut_ptr(), len: result.len(), width, stride, _result: std::marker::PhantomData }
    }

    /// Writes `values` to row `row` from column `first` on; what lies past the last column is dropped.
    pub(super) fn write(&self, row: usize, first: usize, values: &[f32; PANEL]) {
        let (to, count) = self.place(row, first);
        /// Out of line: beside the other store the compiler would make one call of both.
        ///
        /// # Safety
        /// The first `count` floats from `to` on must be there, and nobody else at them.
        #[cold]
        #[inline(never)]
        unsafe fn write_some(to: *mut f32, values: &[f32; PANEL], count: usize) {
            // SAFETY: as the caller's; `count` is at most a panel.
            unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), to, count.min(PANEL)) }
        }
        // SAFETY: the range was checked, and no other panel writes these columns.
        unsafe {
            if count == PANEL {
                to.cast::<[f32; PANEL]>().write_unaligned(*values);
            } else {
                write_some(to, values, count);
            }
        }
    }

    /// Asks for the line where row `row` has column `first`, as far as the second cache.
    pub(super) fn fetch(&self, row: usize, first: usize) {
        prefetch_later(self.place(row, first).0.cast_const());
    }

    /// Where row `row` has column `first`, and how many of a panel's columns lie in the result.
    fn place(&self, row: usize, first: usize) -> (*mut f32, usize) {
        let count = PANEL.min(self.width - first);
        let offset = row * self.stride + first;
        assert!(offset + count <= self.len, "row {row}, column {first} lies in the result");
        (self.start.wrapping_add(offset), count)
    }
}
