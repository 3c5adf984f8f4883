//! Memory in huge pages, for what is read as a whole at every step: weights, keys and values.
//!
//! With pages of 4 KiB such memory exceeds the processor's TLB, and each block of keys costs a page walk. The system is
//! asked for huge pages; without them only speed changes.

use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Bytes from which several threads fill memory: the system clears each page when it is first touched.
const PARALLEL_BYTES: usize = 4 << 20;

/// `count` times `value`, in huge pages if the system has them.
pub(crate) fn filled<T: Copy + Send + Sync>(count: usize, value: T) -> Vec<T> {
    let mut values: Vec<T> = Vec::with_capacity(count);
    advise_huge_pages(values.spare_capacity_mut());
    let each = PARALLEL_BYTES / size_of::<T>().max(1);
    let spare = &mut values.spare_capacity_mut()[..count];
    spare.par_chunks_mut(each.max(1)).for_each(|chunk| chunk.fill(MaybeUninit::new(value)));
    // SAFETY: the capacity is at least `count`, and each of the first `count` values was just written.
    unsafe { values.set_len(count) };
    values
}

/// Asks for huge pages under `values`, before they are first touched.
pub(crate) fn advise_huge_pages<T>(values: &[T]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let range = values.as_ptr_range();
        let (start, end) = ((range.start as usize).next_multiple_of(PAGE), range.end as usize / PAGE * PAGE);
        if start < end {
            // SAFETY: the pages are wholly inside `values`, and the advice changes neither their contents nor their
            // access rights.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = values;
}
