//! A loop whose pieces are run by its owner and by the threads that join it.
//!
//! Invariant: the loop's body is read only by threads that are counted in the open loop, and the owner waits until the
//! count is zero before the body's lifetime ends.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, TryLockError};

/// Spins of a waiting thread before it yields the processor.
const SPINS_BEFORE_YIELD: usize = 1 << 10;

/// Set in [`SharedLoop::state`] while pieces may be taken.
const OPEN: u64 = 1 << 31;
/// The unit of the loop's number in [`SharedLoop::state`]; the bits below [`OPEN`] count the threads that joined.
const LOOP: u64 = 1 << 32;

/// A loop that is run again and again, each time with another body.
pub(crate) struct SharedLoop {
    /// The loop's number, whether it may be joined, and how many threads are in it.
    state: AtomicU64,
    work: UnsafeCell<Option<LoopBody>>,
    pieces: AtomicUsize,
    /// The next piece to run.
    next: AtomicUsize,
    /// A piece panicked on a thread that joined.
    failed: AtomicBool,
    /// Held by the thread that runs the loop.
    owner: Mutex<()>,
}

/// A loop's body. Its true lifetime is that of the loop, not `'static`.
type LoopBody = &'static (dyn Fn(usize) + Sync);

// SAFETY: `work` is written only by the holder of `owner`, while the loop is closed and no thread is counted in it;
// threads that join read it only after they are counted in the open loop's state, which was set after the write.
unsafe impl Sync for SharedLoop {}

impl SharedLoop {
    pub(super) const fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            work: UnsafeCell::new(None),
            pieces: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            owner: Mutex::new(()),
        }
    }

    /// Runs `piece(0)` to `piece(pieces - 1)`, each once and in no order, on this thread and those that join; on this
    /// thread alone if another loop is running here. Calls `opened` before this thread runs pieces.
    ///
    /// # Panics
    /// Where a piece does.
    pub(super) fn run(&self, pieces: usize, piece: &(dyn Fn(usize) + Sync), opened: impl FnOnce()) {
        let _owner = match self.owner.try_lock() {
            Ok(owner) => owner,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return (0..pieces).for_each(piece),
        };
        // SAFETY: it is called only by this thread and by threads counted in the open loop, and `CloseOnDrop` keeps
        // this function from returning or unwinding before the loop is closed and its count is zero.
        let work: LoopBody = unsafe { std::mem::transmute(piece) };
        // SAFETY: this thread owns the loop, and the previous loop ended with a count of zero.
        unsafe { *self.work.get() = Some(work) };
        self.pieces.store(pieces, SeqCst);
        self.next.store(0, SeqCst);
        self.failed.store(false, SeqCst);
        let state = self.state.load(SeqCst);
        self.state.store((state / LOOP).wrapping_add(1).wrapping_mul(LOOP) | OPEN, SeqCst);
        opened();
        {
            let _close = CloseOnDrop(self);
            self.run_pieces(work);
        }
        assert!(!self.failed.load(SeqCst), "a piece of a loop panicked on another thread");
    }

    /// The open loop, if there is one with pieces left.
    pub(super) fn open(&self) -> Option<OpenLoop<'_>> {
        let state = self.state.load(SeqCst);
        let has_pieces = || self.next.load(SeqCst) < self.pieces.load(SeqCst);
        (state & OPEN != 0 && has_pieces()).then_some(OpenLoop { shared: self, state })
    }

    fn run_pieces(&self, work: LoopBody) {
        let pieces = self.pieces.load(SeqCst);
        loop {
            let index = self.next.fetch_add(1, SeqCst);
            if index >= pieces {
                return;
            }
            work(index);
        }
    }
}

/// An open loop that a thread may join.
pub(super) struct OpenLoop<'a> {
    shared: &'a SharedLoop,
    state: u64,
}

impl OpenLoop<'_> {
    /// Runs pieces until there are none left, if the same loop is still open.
    pub(super) fn join(self) {
        let Self { shared, mut state } = self;
        while let Err(now) = shared.state.compare_exchange(state, state + 1, SeqCst, SeqCst) {
            // Other threads may have joined or left meanwhile.
            if now & OPEN == 0 || now / LOOP != state / LOOP {
                return;
            }
            state = now;
        }
        // SAFETY: this thread is counted in the open loop, so its owner neither writes `work` nor ends its lifetime.
        let work = unsafe { *shared.work.get() };
        if catch_unwind(AssertUnwindSafe(|| work.into_iter().for_each(|work| shared.run_pieces(work)))).is_err() {
            shared.failed.store(true, SeqCst);
        }
        shared.state.fetch_sub(1, SeqCst);
    }
}

/// A thread's wait for the pieces of others.
#[derive(Default)]
pub(super) struct Backoff {
    spins: usize,
}

impl Backoff {
    /// Spins once; after some spins, yields the processor.
    pub(super) fn wait(&mut self) {
        self.spins += 1;
        if self.spins < SPINS_BEFORE_YIELD { std::hint::spin_loop() } else { std::thread::yield_now() }
    }
}

/// Closes the loop and waits for the threads that joined, also if a piece panics.
struct CloseOnDrop<'a>(&'a SharedLoop);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        // After a panic the remaining pieces are skipped.
        self.0.next.fetch_add(usize::MAX / 2, SeqCst);
        self.0.state.fetch_and(!OPEN, SeqCst);
        let mut backoff = Backoff::default();
        while self.0.state.load(SeqCst) & (OPEN - 1) != 0 {
            backoff.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// Joins loops of `shared` until `done`.
    fn join_until(done: &AtomicBool, shared: &SharedLoop) {
        while !done.load(SeqCst) {
            shared.open().into_iter().for_each(OpenLoop::join);
        }
    }

    #[test]
    fn joined_threads_run_pieces_with_the_owner() {
        let (shared, done, inside) = (SharedLoop::new(), AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| join_until(&done, &shared));
            let start = Instant::now();
            // Both are inside at once, or the owner waits alone until time is up.
            let wait_for_the_other = |_| {
                inside.fetch_add(1, SeqCst);
                while inside.load(SeqCst) < 2 && start.elapsed() < Duration::from_secs(60) {
                    std::thread::yield_now();
                }
            };
            shared.run(2, &wait_for_the_other, || {});
            done.store(true, SeqCst);
            assert!(start.elapsed() < Duration::from_secs(60), "nobody joined");
        });
    }

    #[test]
    fn every_loop_is_over_when_it_returns() {
        let (shared, done) = (SharedLoop::new(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| join_until(&done, &shared));
            }
            let whole = (0..2000).all(|_| {
                let counts = [const { AtomicUsize::new(0) }; 5];
                let count = |piece: usize| {
                    counts[piece].fetch_add(1, SeqCst);
                };
                shared.run(counts.len(), &count, || {});
                counts.iter().all(|count| count.load(SeqCst) == 1)
            });
            done.store(true, SeqCst);
            assert!(whole, "a piece of a loop that was over had not run once");
        });
    }
}
