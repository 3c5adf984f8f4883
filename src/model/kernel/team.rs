//! A team of threads that take the pieces of a short loop together.
//!
//! A step of the engine is some hundreds of loops of a few microseconds each. A pool whose threads go to sleep
//! between loops spends a fifth of the step on waking them; here they look out for the next loop a little while
//! first. Whoever calls takes pieces too, and waits for nobody who has not begun: a loop never hangs on a thread that
//! sleeps. One loop runs at a time; who finds the team at work does its pieces alone.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, OnceLock, TryLockError};

/// Looks for the next loop before a thread goes to sleep: some tenths of a millisecond.
const LOOKS: usize = 1 << 13;
/// Looks for the end of others' pieces before the processor is offered to them.
const LOOKS_WAITING: usize = 1 << 10;

/// Set in [`Team::state`] while pieces may be taken.
const OPEN: u64 = 1 << 31;
/// One loop more in [`Team::state`]; below it and [`OPEN`] is the number of threads that take pieces.
const LOOP: u64 = 1 << 32;

/// The threads of a process and the loop they are at.
struct Team {
    /// Which loop it is, whether it takes helpers, and how many it has.
    state: AtomicU64,
    work: UnsafeCell<Option<Work>>,
    /// The next piece to be taken.
    next: AtomicUsize,
    /// A helper's piece panicked.
    failed: AtomicBool,
    /// Held by whoever runs a loop.
    leading: Mutex<()>,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    wake: Condvar,
}

/// What a loop does, and to how many pieces. The lifetime is the loop's own, whatever the type says.
#[derive(Clone, Copy)]
struct Work {
    piece: &'static (dyn Fn(usize) + Sync),
    pieces: usize,
}

// SAFETY: `work` is written by the holder of `leading` alone, while no loop is open and no helper at work; helpers read it
// once they are counted in an open loop's state, which happened after the writing.
unsafe impl Sync for Team {}

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
    Team::get().run(pieces, &piece);
}

/// Runs `work` on each of `items`, once and in no order, on all threads.
///
/// # Panics
/// Where `work` does.
pub(crate) fn each_mut<T: Send>(items: &mut [T], work: impl Fn(usize, &mut T) + Sync) {
    each_mut_and(items, work, Filler::NONE);
}

/// Pieces of other work, run at the end of a loop where threads would wait for each other.
#[derive(Clone, Copy)]
pub(crate) struct Filler<'a> {
    pub(crate) pieces: usize,
    pub(crate) piece: &'a (dyn Fn(usize) + Sync),
}

impl Filler<'_> {
    /// No work.
    pub(crate) const NONE: Filler<'static> = Filler { pieces: 0, piece: &|_| {} };
}

/// As [`each_mut`], and the pieces of `filler` behind the items.
///
/// # Panics
/// Where `work` or a piece does.
pub(crate) fn each_mut_and<T: Send>(items: &mut [T], work: impl Fn(usize, &mut T) + Sync, filler: Filler<'_>) {
    struct Items<T>(*mut T);
    // SAFETY: every item is lent to one thread at a time, and may go to another one.
    unsafe impl<T: Send> Sync for Items<T> {}
    impl<T> Items<T> {
        fn at(&self, index: usize) -> *mut T {
            self.0.wrapping_add(index)
        }
    }
    let (first, count) = (Items(items.as_mut_ptr()), items.len());
    each(count + filler.pieces, |index| match index.checked_sub(count) {
        Some(piece) => (filler.piece)(piece),
        // SAFETY: it is an index of `items`, and each is run once.
        None => work(index, unsafe { &mut *first.at(index) }),
    });
}

/// Runs `piece(part, index)` for each of the `pieces` pieces of each of `parts` parts, once, on all threads. A thread
/// takes one part after the other, whose data stays in its cache; when there are none left it takes pieces of others'.
///
/// # Panics
/// Where `piece` does.
pub(crate) fn each_of_parts(parts: usize, pieces: usize, piece: impl Fn(usize, usize) + Sync) {
    let (next, threads) = (Vec::from_iter((0..parts).map(|_| AtomicUsize::new(0))), threads());
    each(threads.min(parts), |own| {
        for part in (0..threads).flat_map(|turn| ((own + turn) % threads..parts).step_by(threads)) {
            let take = || Some(next[part].fetch_add(1, SeqCst)).filter(|index| *index < pieces);
            while let Some(index) = take() {
                piece(part, index);
            }
        }
    });
}

impl Team {
    /// The team of this process.
    fn get() -> &'static Self {
        static TEAM: OnceLock<&'static Team> = OnceLock::new();
        TEAM.get_or_init(|| {
            let team: &'static Self = Box::leak(Box::new(Self {
                state: AtomicU64::new(0),
                work: UnsafeCell::new(None),
                next: AtomicUsize::new(0),
                failed: AtomicBool::new(false),
                leading: Mutex::new(()),
                sleepers: AtomicUsize::new(0),
                bed: Mutex::new(()),
                wake: Condvar::new(),
            }));
            for helper in 1..threads() {
                let thread = std::thread::Builder::new().name(format!("compute-{helper}"));
                // Without it the others do its pieces.
                if let Err(error) = thread.spawn(|| team.help()) {
                    tracing::warn!(%error, "no thread to compute with");
                }
            }
            team
        })
    }

    fn run(&self, pieces: usize, piece: &(dyn Fn(usize) + Sync)) {
        let _leading = match self.leading.try_lock() {
            Ok(leading) => leading,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return (0..pieces).for_each(piece),
        };
        // SAFETY: helpers call it only while they are counted in the open loop, and `End` does not let this function return
        // or unwind before the loop is closed and its count is zero.
        let piece: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(piece) };
        // SAFETY: this thread leads, and the loop before ended with no helper at work.
        unsafe { *self.work.get() = Some(Work { piece, pieces }) };
        self.next.store(0, SeqCst);
        self.failed.store(false, SeqCst);
        let state = self.state.load(SeqCst);
        self.state.store((state / LOOP).wrapping_add(1).wrapping_mul(LOOP) | OPEN, SeqCst);
        if self.sleepers.load(SeqCst) > 0 {
            let _bed = self.bed.lock();
            self.wake.notify_all();
        }
        {
            let _end = End(self);
            self.take_pieces(Work { piece, pieces });
        }
        assert!(!self.failed.load(SeqCst), "a piece of a loop panicked on another thread");
    }

    fn take_pieces(&self, work: Work) {
        loop {
            let index = self.next.fetch_add(1, SeqCst);
            if index >= work.pieces {
                return;
            }
            (work.piece)(index);
        }
    }

    /// What a thread of the team does all its life.
    fn help(&self) {
        let mut helped = 0;
        loop {
            let state = self.wait_for_loop(helped);
            if self.state.compare_exchange(state, state + 1, SeqCst, SeqCst).is_err() {
                continue;
            }
            helped = state / LOOP;
            // SAFETY: this thread is counted in the open loop, so the leader neither writes `work` nor ends its lifetime.
            let work = unsafe { *self.work.get() };
            if catch_unwind(AssertUnwindSafe(|| work.into_iter().for_each(|work| self.take_pieces(work)))).is_err() {
                self.failed.store(true, SeqCst);
            }
            self.state.fetch_sub(1, SeqCst);
        }
    }

    /// The state of an open loop other than `helped`.
    fn wait_for_loop(&self, helped: u64) -> u64 {
        let found = || Some(self.state.load(SeqCst)).filter(|state| state & OPEN != 0 && state / LOOP != helped);
        for _ in 0..LOOKS {
            if let Some(state) = found() {
                return state;
            }
            std::hint::spin_loop();
        }
        let mut bed = self.bed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Whoever opens a loop looks for sleepers afterwards, and a sleeper for a loop after it is counted.
        self.sleepers.fetch_add(1, SeqCst);
        let state = loop {
            if let Some(state) = found() {
                break state;
            }
            bed = self.wake.wait(bed).unwrap_or_else(|poisoned| poisoned.into_inner());
        };
        self.sleepers.fetch_sub(1, SeqCst);
        state
    }
}

/// Closes the loop, and waits for the helpers that are in it, also where a piece panics.
struct End<'a>(&'a Team);

impl Drop for End<'_> {
    fn drop(&mut self) {
        // After a panic there may be pieces left that nobody needs to begin.
        self.0.next.fetch_add(usize::MAX / 2, SeqCst);
        self.0.state.fetch_and(!OPEN, SeqCst);
        let mut looks = 0;
        while self.0.state.load(SeqCst) & (OPEN - 1) != 0 {
            looks += 1;
            if looks < LOOKS_WAITING { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn every_item_is_lent_once_and_loops_may_nest() {
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
    fn a_filler_runs_behind_the_items() {
        let (mut items, filled) = ([0; 7], AtomicUsize::new(0));
        let piece = |index: usize| {
            filled.fetch_add(index + 1, SeqCst);
        };
        each_mut_and(&mut items, |index, item| *item += index, Filler { pieces: 20, piece: &piece });
        assert_eq!((items, filled.into_inner()), ([0, 1, 2, 3, 4, 5, 6], 210));
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
    fn helpers_come_back_from_sleep() {
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
    fn a_panic_in_a_piece_reaches_the_caller_and_the_team_goes_on() {
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
