//! Panels of a product, shared out over the thread pool.

use super::layout::PANEL;
use super::thread_pool;
use std::ops::Range;

/// Multiply-adds below which waking a second thread costs more than it gives.
pub(super) const PARALLEL_MIN: usize = 1 << 17;
/// Pieces of a product for each thread.
const PIECES: usize = 8;
/// The same of a long product: who is done first waits for the end of one piece at most.
const PIECES_LONG: usize = 16;
/// Multiply-adds from which a product is long.
const LONG: usize = 1 << 26;

/// Runs `work` for each panel of `columns` result columns, on several threads where `multiply_adds` pay for it.
pub(super) fn each_panel(columns: usize, multiply_adds: usize, work: impl Fn(usize) + Send + Sync) {
    each_piece(columns, multiply_adds, |panels| panels.for_each(&work));
}

/// Runs `work` for pieces of neighbouring panels of `columns` result columns, on several threads where `multiply_adds` pay
/// for it.
pub(super) fn each_piece(columns: usize, multiply_adds: usize, work: impl Fn(Range<usize>) + Send + Sync) {
    let panels = usize::div_ceil(columns, PANEL);
    if multiply_adds < PARALLEL_MIN {
        return work(0..panels);
    }
    // Several pieces a thread: enough to even out, few enough that neighbours read a row's codes from the cache.
    let pieces = if multiply_adds < LONG { PIECES } else { PIECES_LONG };
    let piece = usize::div_ceil(panels, pieces * thread_pool::threads());
    thread_pool::each(panels.div_ceil(piece), |index| work(index * piece..panels.min((index + 1) * piece)));
}
