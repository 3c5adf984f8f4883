//! Memory in huge pages, for what is read as a whole at every step: weights, keys and values.
//!
//! With pages of 4 KiB such memory exceeds the processor's TLB, and each block of keys costs a page walk. The system is
//! asked for huge pages; without them only speed changes.

/// `count` times `value`, in huge pages if the system has them.
pub(crate) fn filled<T: Copy>(count: usize, value: T) -> Vec<T> {
    let mut values = Vec::with_capacity(count);
    advise_huge_pages(values.spare_capacity_mut());
    values.resize(count, value);
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
