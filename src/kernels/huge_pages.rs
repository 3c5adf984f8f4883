//! Large memory for what is read from end to end at every step: weights, keys and values.
//!
//! In pages of 4 KiB such memory outgrows the processor's page tables: each block of keys begins with a walk
//! through them. The system is asked for huge pages; where it has none, nothing changes but the speed.

/// As many `value`s, in huge pages where the system gives them.
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
            // SAFETY: the pages lie wholly inside `values`, and the advice changes neither what they hold nor what
            // may be done with them.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = values;
}
