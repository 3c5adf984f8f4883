//! A thread pool for short loops.
//!
//! A step of the engine has some hundreds of loops of a few microseconds each. A pool whose threads sleep between loops
//! spends a fifth of the step on waking them, so these spin for a while first. The caller runs pieces too and waits
//! only for threads that have started one, so a loop never waits for a sleeping thread. One loop runs at a time; a
//! caller that finds the pool busy runs its pieces alone.

mod shared;

pub(crate) use shared::SharedLoop;
use shared::{Backoff, OpenLoop};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, OnceLock};

/// Spins before a thread goes to sleep: some tenths of a millisecond.
const SPINS: usize = 1 << 13;

/// The threads of a process and their current loop.
struct ThreadPool {
    main: SharedLoop,
    sleepers: AtomicUsize,
    sleep_lock: Mutex<()>,
    wake: Condvar,
}

/// Threads that a loop may use: as many as rayon would.
pub(crate) fn threads() -> usize {
    rayon::current_num_threads()
}

/// Runs `piece(0)` to `piece(pieces - 1)`, each once and in no order, on all threads.
///
/// # Panics
/// Where a piece does.
pub(crate) fn each(pieces: usize, piece: impl Fn(usize) + Sync) {
    if pieces < 2 || threads() == 1 {
        return (0..pieces).for_each(piece);
    }
    ThreadPool::get().run(pieces, &piece);
}

/// Runs `work` on each of `items`, once and in no order, on all threads.
///
/// # Panics
/// Where `work` does.
pub(crate) fn each_mut<T: Send>(items: &mut [T], work: impl Fn(usize, &mut T) + Sync) {
    let count = items.len();
    with_items(items, work, |item| each(count, item));
}

/// Pieces of other work, run at the end of a loop where threads would wait for each other.
#[derive(Clone, Copy)]
pub(crate) struct Overlap<'a> {
    pub(crate) pieces: usize,
    pub(crate) piece: &'a (dyn Fn(usize) + Sync),
}

impl Overlap<'_> {
    /// No work.
    pub(crate) const NONE: Overlap<'static> = Overlap { pieces: 0, piece: &|_| {} };
}

/// [`each_mut`] for long work, followed by the pieces of `overlap`. `work` may run inner loops in the [`SharedLoop`]
/// that it is given; threads without other work join these.
///
/// # Panics
/// Where `work` or a piece does.
pub(crate) fn each_mut_joined<T: Send>(
    items: &mut [T],
    work: impl Fn(usize, &mut T, &SharedLoop) + Sync,
    overlap: Overlap<'_>,
) {
    struct Done<'a>(&'a AtomicUsize);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }
    let (count, left) = (items.len(), AtomicUsize::new(items.len()));
    let loops = Vec::from_iter((0..count).map(|_| SharedLoop::new()));
    let work = |index: usize, item: &mut T| {
        let _done = Done(&left);
        work(index, item, &loops[index]);
    };
    let join = || {
        let mut backoff = Backoff::default();
        while left.load(SeqCst) > 0 {
            match loops.iter().find_map(SharedLoop::open) {
                Some(open) => {
                    open.join();
                    backoff = Backoff::default();
                }
                None => backoff.wait(),
            }
        }
    };
    with_items(items, work, |item| {
        each(count + overlap.pieces + threads(), |index| match index.checked_sub(count) {
            Some(piece) if piece < overlap.pieces => (overlap.piece)(piece),
            Some(_) => join(),
            None => item(index),
        });
    });
}

impl SharedLoop {
    /// Runs `work` on each of `items`, once and in no order, on this thread and those that join.
    ///
    /// # Panics
    /// Where `work` does.
    pub(crate) fn each_mut<T: Send>(&self, items: &mut [T], work: impl Fn(usize, &mut T) + Sync) {
        let count = items.len();
        with_items(items, work, |item| self.run(count, &item, || {}));
    }
}

/// Gives `run` a function that runs `work` on the item of an index; `run` may call it on several threads, once for each
/// index.
fn with_items<T: Send>(
    items: &mut [T],
    work: impl Fn(usize, &mut T) + Sync,
    run: impl FnOnce(&(dyn Fn(usize) + Sync)),
) {
    struct Items<T>(*mut T);
    // SAFETY: every item is accessed by one thread, and items may be sent to other threads.
    unsafe impl<T: Send> Sync for Items<T> {}
    impl<T> Items<T> {
        fn at(&self, index: usize) -> *mut T {
            self.0.wrapping_add(index)
        }
    }
    let (first, count) = (Items(items.as_mut_ptr()), items.len());
    run(&|index| {
        assert!(index < count, "item {index} of {count}");
        // SAFETY: it is an index of `items`, and the loops of this module run each once.
        work(index, unsafe { &mut *first.at(index) });
    });
}

/// Runs `piece(part, index)` for each of the `pieces` pieces of each of `parts` parts, once, on all threads. A thread
/// takes one part after the other, whose data stays in its cache; then it takes pieces of other threads' parts.
///
/// # Panics
/// Where `piece` does.
pub(crate) fn each_of_parts(parts: usize, pieces: usize, piece: impl Fn(usize, usize) + Sync) {
    let (next, threads) = (Vec::from_iter((0..parts).map(|_| AtomicUsize::new(0))), threads());
    each(threads.min(parts), |own| {
        for part in (0..threads).flat_map(|transpose_lanes| ((own + transpose_lanes) % threads..parts).step_by(threads))
        {
            let run_pieces = || Some(next[part].fetch_add(1, SeqCst)).filter(|index| *index < pieces);
            while let Some(index) = run_pieces() {
                piece(part, index);
            }
        }
    });
}

impl ThreadPool {
    /// The pool of this process.
    fn get() -> &'static Self {
        static POOL: OnceLock<&'static ThreadPool> = OnceLock::new();
        POOL.get_or_init(|| {
            let pool: &'static Self = Box::leak(Box::new(Self {
                main: SharedLoop::new(),
                sleepers: AtomicUsize::new(0),
                sleep_lock: Mutex::new(()),
                wake: Condvar::new(),
            }));
            for worker in 1..threads() {
                let thread = std::thread::Builder::new().name(format!("compute-{worker}"));
                // Without it the other threads run its pieces.
                if let Err(error) = thread.spawn(|| pool.work_forever()) {
                    tracing::warn!(%error, "cannot start a compute thread");
                }
            }
            pool
        })
    }

    fn run(&self, pieces: usize, piece: &(dyn Fn(usize) + Sync)) {
        self.main.run(pieces, piece, || {
            if self.sleepers.load(SeqCst) > 0 {
                let _sleep_lock = self.sleep_lock.lock();
                self.wake.notify_all();
            }
        });
    }

    /// The main function of the pool's threads.
    fn work_forever(&self) {
        loop {
            self.wait_for_loop().join();
        }
    }

    /// An open loop with pieces left.
    fn wait_for_loop(&self) -> OpenLoop<'_> {
        for _ in 0..SPINS {
            if let Some(open) = self.main.open() {
                return open;
            }
            std::hint::spin_loop();
        }
        let mut sleep_lock = self.sleep_lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // A caller opens its loop, then checks for sleepers; a sleeper is counted, then checks for a loop. So none is
        // missed.
        self.sleepers.fetch_add(1, SeqCst);
        let open = loop {
            if let Some(open) = self.main.open() {
                break open;
            }
            sleep_lock = self.wake.wait(sleep_lock).unwrap_or_else(|poisoned| poisoned.into_inner());
        };
        self.sleepers.fetch_sub(1, SeqCst);
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn every_piece_runs_once_however_many_ask() {
        std::thread::scope(|scope| {
            for asker in 0..4 {
                scope.spawn(move || {
                    for pieces in (0..300).chain([asker]) {
                        let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
                        each(pieces, |piece| {
                            counts[piece].fetch_add(1, SeqCst);
                        });
                        assert!(counts.iter().all(|count| count.load(SeqCst) == 1), "{pieces} pieces");
                    }
                });
            }
        });
    }

    #[test]
    fn every_item_is_visited_once_and_loops_may_nest() {
        let mut items: Vec<Vec<usize>> = (0..50).map(|index| vec![index; 20]).collect();
        each_mut(&mut items, |index, item| {
            each_mut(item, |_, value| {
                assert_eq!(*value, index);
                *value += 1;
            });
        });
        assert!(items.iter().enumerate().all(|(index, item)| *item == vec![index + 1; 20]));
    }

    #[test]
    fn overlapping_work_runs_after_the_items() {
        let (mut items, overlapped) = ([0; 7], AtomicUsize::new(0));
        let piece = |index: usize| {
            overlapped.fetch_add(index + 1, SeqCst);
        };
        each_mut_joined(&mut items, |index, item, _| *item += index, Overlap { pieces: 20, piece: &piece });
        assert_eq!((items, overlapped.into_inner()), ([0, 1, 2, 3, 4, 5, 6], 210));
    }

    #[test]
    fn idle_threads_join_inner_loops() {
        for (items, pieces) in [(1, 200), (2, 40), (3, 7), (0, 5)] {
            let (mut counts, overlapped) = (vec![vec![0; pieces]; items], AtomicUsize::new(0));
            let work = |index: usize, counts: &mut Vec<usize>, shared: &SharedLoop| {
                for step in 0..50 {
                    shared.each_mut(counts, |piece, count| {
                        assert_eq!(*count, step, "piece {piece} of item {index}");
                        *count += 1;
                    });
                }
            };
            let piece = |_| {
                overlapped.fetch_add(1, SeqCst);
            };
            each_mut_joined(&mut counts, work, Overlap { pieces: 9, piece: &piece });
            assert!(counts.iter().flatten().all(|count| *count == 50), "{items} items of {pieces}");
            assert_eq!(overlapped.into_inner(), 9);
        }
    }

    #[test]
    fn a_panic_in_joined_work_reaches_the_caller() {
        let mut items = [0; 4];
        let work = |index: usize, item: &mut usize, shared: &SharedLoop| {
            shared.each_mut(&mut [0; 9], |piece, _| assert!(index != 2 || piece != 5, "piece {piece}"));
            *item += 1;
        };
        assert!(catch_unwind(AssertUnwindSafe(|| each_mut_joined(&mut items, work, Overlap::NONE))).is_err());
        assert_eq!(items[2], 0);
    }

    #[test]
    fn every_piece_of_every_part_runs_once() {
        for (parts, pieces) in [(0, 3), (1, 50), (2, 7), (5, 1), (7, 40)] {
            let counts: Vec<AtomicUsize> = (0..parts * pieces).map(|_| AtomicUsize::new(0)).collect();
            each_of_parts(parts, pieces, |part, index| {
                counts[part * pieces + index].fetch_add(1, SeqCst);
            });
            assert!(counts.iter().all(|count| count.load(SeqCst) == 1), "{parts} parts of {pieces}");
        }
    }

    #[test]
    fn threads_wake_from_sleep() {
        for pause in [0, 5, 20] {
            std::thread::sleep(std::time::Duration::from_millis(pause));
            let sum = AtomicUsize::new(0);
            each(1000, |piece| {
                sum.fetch_add(piece, SeqCst);
            });
            assert_eq!(sum.load(SeqCst), 499_500);
        }
    }

    #[test]
    fn a_panic_in_a_piece_reaches_the_caller_and_the_pool_goes_on() {
        for bad in [0, 17, 99] {
            let run = || each(100, |piece| assert!(piece != bad, "piece {bad}"));
            assert!(catch_unwind(run).is_err());
            let sum = AtomicUsize::new(0);
            each(100, |piece| {
                sum.fetch_add(piece, SeqCst);
            });
            assert_eq!(sum.load(SeqCst), 4950);
        }
    }
}
