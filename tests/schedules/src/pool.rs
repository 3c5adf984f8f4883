//! Promises of the thread pool under every schedule that is explored.

use super::*;
use crate::explore::explore;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The pieces of one loop: how often each ran, and whether the loop is over. Leaked, so that a piece that runs too late
/// is seen and does no harm.
struct Pieces {
    runs: Vec<AtomicUsize>,
    is_over: AtomicUsize,
}

impl Pieces {
    fn new(count: usize) -> &'static Self {
        let runs = (0..count).map(|_| AtomicUsize::new(0)).collect();
        Box::leak(Box::new(Self { runs, is_over: AtomicUsize::new(0) }))
    }

    fn run(&self, piece: usize) {
        assert_eq!(self.is_over.load(SeqCst), 0, "piece {piece} ran after its loop");
        self.runs[piece].fetch_add(1, SeqCst);
    }

    /// Runs all as one loop of the pool.
    fn run_all(&'static self) {
        each(self.runs.len(), leaked(|piece| self.run(piece)));
        self.end(1);
    }

    /// The loop is over and ran each piece `times` times.
    fn end(&self, times: usize) {
        self.is_over.store(1, SeqCst);
        for (piece, runs) in self.runs.iter().enumerate() {
            assert_eq!(runs.load(SeqCst), times, "runs of piece {piece}");
        }
    }
}

fn leaked<F: Fn(usize) + Sync + 'static>(piece: F) -> &'static F {
    Box::leak(Box::new(piece))
}

#[test]
fn every_piece_runs_once_before_its_loop_returns() {
    explore("loop after loop", || {
        for pieces in [3, 2, 4] {
            Pieces::new(pieces).run_all();
        }
    });
}

#[test]
fn callers_do_not_mix_their_loops() {
    explore("two callers", || {
        let other = shuttle::thread::spawn(|| {
            Pieces::new(2).run_all();
            Pieces::new(3).run_all();
        });
        Pieces::new(3).run_all();
        Pieces::new(2).run_all();
        other.join().expect("it ran its loops");
    });
}

/// Pieces that wait for each other, one a thread, need every thread: those that are awake and those that are woken.
#[test]
fn every_sleeping_thread_is_woken() {
    explore("pieces that meet", || {
        for _ in 0..2 {
            let inside = Pieces::new(1);
            let meet = leaked(move |_| {
                inside.run(0);
                while inside.runs[0].load(SeqCst) < threads() {
                    shuttle::thread::yield_now();
                }
            });
            each(threads(), meet);
            inside.end(threads());
        }
    });
}

#[test]
fn idle_threads_join_inner_loops_and_leave_them() {
    explore("inner loops", || {
        let overlapped = Pieces::new(2);
        let mut items = [0; 2];
        let work = |_: usize, item: &mut usize, shared: &SharedLoop| {
            for pieces in [2, 3] {
                let inner = Pieces::new(pieces);
                shared.run(pieces, leaked(move |piece| inner.run(piece)), || {});
                inner.end(1);
                *item += pieces;
            }
        };
        let piece = |index: usize| overlapped.run(index);
        each_mut_joined(&mut items, work, Overlap { pieces: 2, piece: &piece });
        overlapped.end(1);
        assert_eq!(items, [5; 2]);
    });
}

#[test]
fn a_piece_that_panics_ends_its_loop_for_all_and_the_pool_goes_on() {
    explore("a piece that panics", || {
        let pieces = Pieces::new(3);
        let fails = leaked(move |piece| {
            pieces.run(piece);
            if piece == 1 {
                resume_unwind(Box::new("a piece"));
            }
        });
        assert!(catch_unwind(AssertUnwindSafe(|| each(3, fails))).is_err(), "the panic reaches the caller");
        pieces.is_over.store(1, SeqCst);
        assert!(pieces.runs.iter().all(|runs| runs.load(SeqCst) <= 1), "a piece ran twice");
        Pieces::new(3).run_all();
    });
}

#[test]
fn parts_are_shared_out_once() {
    explore("parts", || {
        let pieces = Pieces::new(6);
        each_of_parts(3, 2, |part, index| pieces.run(part * 2 + index));
        pieces.end(1);
    });
}
