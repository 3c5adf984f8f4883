//! A limit for the memory that a piece of work on a thread may hold, kept by the global allocator.
//!
//! Code that a file of others makes run cannot be ended from outside, nor can its allocations be made to fail: the standard
//! library ends the process then. So a thread that asks for more than its limit, or asks after it was stopped, waits in that
//! call for ever. It takes no more memory and no more time; what it holds stays behind with it.
//!
//! Other threads pay one read of a thread-local for each call. Where [`LimitedAllocator`] is not the global allocator, nothing
//! is limited.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::time::Duration;

/// How long a thread sleeps that never returns: it then sleeps again.
const SLEEP: Duration = Duration::from_secs(3600);

thread_local! {
    /// The limit of the work that this thread is at; null if it has none. Needs no destructor, so it can be read at any time.
    static LIMIT: Cell<*const HeapLimit> = const { Cell::new(ptr::null()) };
}

/// The memory that one piece of work may hold.
#[derive(Debug)]
pub struct HeapLimit {
    bytes_max: isize,
    /// Allocated less freed by the work. Below 0 if it frees what others allocated.
    bytes: AtomicIsize,
    is_exceeded: AtomicBool,
    is_stopped: AtomicBool,
}

impl HeapLimit {
    /// A limit of `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max: isize::try_from(bytes_max).unwrap_or(isize::MAX),
            bytes: AtomicIsize::new(0),
            is_exceeded: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
        }
    }

    /// Runs `work` under this limit. Never returns if it asks for more, or for anything after [`HeapLimit::stop`].
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        /// Ends the limit, also where `work` panics.
        struct Restore(*const HeapLimit);
        impl Drop for Restore {
            fn drop(&mut self) {
                LIMIT.set(self.0);
            }
        }
        let _restore = Restore(LIMIT.replace(self));
        work()
    }

    /// The thread does not return from its next allocation.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Whether the work asked for more than the limit; it never returns.
    pub fn is_exceeded(&self) -> bool {
        self.is_exceeded.load(Ordering::Relaxed)
    }

    /// Adds `bytes` to those that the work holds.
    #[cold]
    fn charge(&self, bytes: isize) {
        let held = self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        // A thread that reports its panic holds locks of the whole process.
        if bytes <= 0 || std::thread::panicking() {
            return;
        }
        if held > self.bytes_max {
            self.is_exceeded.store(true, Ordering::Relaxed);
        } else if !self.is_stopped.load(Ordering::Relaxed) {
            return;
        }
        loop {
            std::thread::sleep(SLEEP);
        }
    }
}

/// Charges the work of this thread, if it has a limit.
#[inline]
fn charge(bytes: isize) {
    let limit = LIMIT.get();
    // SAFETY: `HeapLimit::run` holds a reference for as long as it has set the pointer, and it sets it for its own thread alone.
    if let Some(limit) = unsafe { limit.as_ref() } {
        limit.charge(bytes);
    }
}

/// The size of `layout`, which is at most `isize::MAX`.
#[inline]
fn size(layout: Layout) -> isize {
    layout.size() as isize
}

/// The allocator `A`, with [`HeapLimit`]s.
#[derive(Debug)]
pub struct LimitedAllocator<A>(pub A);

// SAFETY: every call goes to `A` with the arguments it came with. What happens before neither allocates nor unwinds.
unsafe impl<A: GlobalAlloc> GlobalAlloc for LimitedAllocator<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        charge(size(layout));
        // SAFETY: the caller's promise.
        unsafe { self.0.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        charge(size(layout));
        // SAFETY: the caller's promise.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        charge((new_size as isize).wrapping_sub(size(layout)));
        // SAFETY: the caller's promise.
        unsafe { self.0.realloc(pointer, layout, new_size) }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        charge(-size(layout));
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(pointer, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::{self, RecvTimeoutError};

    /// That of the unit tests.
    #[global_allocator]
    static ALLOCATOR: LimitedAllocator<mimalloc::MiMalloc> = LimitedAllocator(mimalloc::MiMalloc);

    const MIB: usize = 1 << 20;

    #[test]
    fn what_stays_within_the_limit_returns_and_what_is_freed_is_not_held() {
        let limit = HeapLimit::new(2 * MIB);
        for _ in 0..10 {
            let bytes = limit.run(|| {
                let mut bytes = vec![1_u8; MIB];
                bytes.resize(MIB + MIB / 2, 2);
                bytes.len()
            });
            assert_eq!(bytes, MIB + MIB / 2);
        }
        assert!(!limit.is_exceeded());
        assert_eq!(limit.bytes.load(Ordering::Relaxed), 0);
        // Without a limit again, also after a panic.
        let panicked = std::panic::catch_unwind(|| limit.run(|| assert_eq!(1 + 1, 3)));
        assert!(panicked.is_err());
        assert_eq!(vec![0_u8; 3 * MIB].len(), 3 * MIB);
        assert!(!limit.is_exceeded());
    }

    /// Runs `work` under `limit` on a thread; what it returns comes through the channel.
    fn spawned(limit: &Arc<HeapLimit>, work: impl FnOnce() -> usize + Send + 'static) -> mpsc::Receiver<usize> {
        let (sender, receiver) = mpsc::channel();
        let limit = limit.clone();
        std::thread::spawn(move || sender.send(limit.run(work)));
        receiver
    }

    #[test]
    fn an_allocation_beyond_the_limit_never_returns() {
        let limit = Arc::new(HeapLimit::new(2 * MIB));
        let grows = |mut bytes: Vec<u8>| loop {
            bytes.extend_from_slice(&[1; 1024]);
        };
        let receiver = spawned(&limit, move || grows(vec![]));
        while !limit.is_exceeded() {
            std::thread::yield_now();
        }
        assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Empty), "the thread is alive and silent");
        let held = limit.bytes.load(Ordering::Relaxed);
        assert!((2 * MIB as isize..=5 * MIB as isize).contains(&held), "what it asked for: {held}");
    }

    #[test]
    fn a_stopped_thread_never_returns_from_its_next_allocation() {
        let limit = Arc::new(HeapLimit::new(2 * MIB));
        let (go, wait) = mpsc::channel::<()>();
        let receiver = spawned(&limit, move || {
            let _ = wait.recv();
            vec![1_u8; 1000].len()
        });
        limit.stop();
        go.send(()).unwrap();
        assert_eq!(receiver.recv_timeout(Duration::from_millis(300)), Err(RecvTimeoutError::Timeout));
        assert!(!limit.is_exceeded());
    }
}
