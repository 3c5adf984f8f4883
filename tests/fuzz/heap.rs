//! The system's allocator, which remembers the largest allocation: a reader that takes what a file states at
//! its word asks for far more than the file is long.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More than this at once is refused, so that a fault ends in an error and not in swap.
const BYTES_MAX: usize = 4 << 30;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

/// One test at a time: readers may have threads of their own, so the largest allocation is that of the whole process.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts anew, and returns the largest allocation since it last did.
pub fn take_largest() -> usize {
    LARGEST.swap(0, Ordering::Relaxed)
}

fn note(bytes: usize) -> bool {
    LARGEST.fetch_max(bytes, Ordering::Relaxed);
    bytes <= BYTES_MAX
}

/// The allocator.
pub struct Heap;

// SAFETY: every call goes to the system's allocator with the arguments it came with; a null pointer is a refusal.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !note(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !note(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !note(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}
