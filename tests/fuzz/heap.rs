//! The system's allocator, which remembers the largest allocation of each thread: a reader that takes what a file states at
//! its word asks for far more than the file is long.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// More than this at once is refused, so that a fault ends in an error and not in swap.
const BYTES_MAX: usize = 4 << 30;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// Starts anew, and returns the largest allocation since it last did.
pub fn take_largest() -> usize {
    LARGEST.with(|largest| largest.replace(0))
}

fn note(bytes: usize) -> bool {
    // A thread that ends allocates after its locals are gone.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
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
