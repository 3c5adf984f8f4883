//! Hints to fetch memory before it is used. They do nothing on processors without them.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Cache lines between the one in use and the one that [`prefetch_ahead`] fetches.
#[cfg(target_arch = "x86_64")]
pub(super) const PREFETCH_LINES: usize = 48;

/// Fetches the cache lines of `values`.
#[inline(always)]
pub(crate) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    prefetch_all(values);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_all<T>(values: &[T]) {
    let start = values.as_ptr().cast::<i8>();
    for line in 0..size_of_val(values).div_ceil(64) {
        // SAFETY: a prefetch has no visible effect, whatever the address; SSE is always there.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(64 * line)) }
    }
}

/// Fetches the line [`PREFETCH_LINES`] past `line`, which may lie past the panel: a prefetch never faults.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn prefetch_ahead<T>(line: &T) {
    // SAFETY: a prefetch has no visible effect, whatever the address; SSE is always there.
    unsafe { _mm_prefetch::<_MM_HINT_T0>((&raw const *line).wrapping_add(PREFETCH_LINES).cast()) }
}

/// Fetches the line where `value` begins into the second-level cache: it is used later and must not displace what is in
/// use.
#[inline(always)]
pub(super) fn prefetch_later<T>(value: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no visible effect, whatever the address; SSE is always there.
    unsafe {
        _mm_prefetch::<_MM_HINT_T1>(value.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
