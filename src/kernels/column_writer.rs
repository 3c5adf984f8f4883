//! A row-major result that several threads write, each its own panels of columns.

use super::layout::PANEL;
use super::prefetch::prefetch_later;

/// A row-major result whose panels of columns are written from several threads.
pub(super) struct ColumnWriter<'a> {
    start: *mut f32,
    len: usize,
    width: usize,
    /// Floats from one row to the next.
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

    /// Writes `values` to row `row` from column `first` on; values past the last column are dropped.
    #[inline(always)]
    pub(super) fn write(&self, row: usize, first: usize, values: &[f32; PANEL]) {
        let (to, count) = self.place(row, first);
        /// Out of line: inlined, the compiler merges it with the other store into one call.
        ///
        /// # Safety
        /// `to` must be valid for writing `count` floats, which no other thread accesses.
        #[cold]
        #[inline(never)]
        unsafe fn write_some(to: *mut f32, values: &[f32; PANEL], count: usize) {
            // SAFETY: the caller's promise; `values` holds a panel, and at most that is copied.
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

    /// Prefetches the line of row `row`, column `first` into the second-level cache.
    pub(super) fn fetch(&self, row: usize, first: usize) {
        prefetch_later(self.place(row, first).0.cast_const());
    }

    /// The address of row `row`, column `first`, and how many of a panel's columns are within the result.
    #[inline(always)]
    fn place(&self, row: usize, first: usize) -> (*mut f32, usize) {
        let count = PANEL.min(self.width - first);
        let offset = row * self.stride + first;
        assert!(offset + count <= self.len, "row {row}, column {first} is outside the result");
        (self.start.wrapping_add(offset), count)
    }
}
