//! Panels of a product, shared out over the thread pool.

use super::layout::PANEL;
use super::thread_pool;
use std::ops::Range;

/// Multiply-adds below which waking a second thread costs more than it gives.
pub(super) const PARALLEL_MIN: usize = 1 << 17;
/// Pieces of a product for each thread.
const PIECES: usize = 8;
/// Pieces of a long product for each thread: the first thread to finish waits for one piece at most.
const PIECES_LONG: usize = 16;
/// Multiply-adds from which a product is long.
const LONG: usize = 1 << 26;

/// Runs `work` for each panel of a result of `columns` columns, on several threads if `multiply_adds` are many enough.
pub(super) fn each_panel(columns: usize, multiply_adds: usize, work: impl Fn(usize) + Send + Sync) {
    each_panel_range(columns, multiply_adds, 1, |panels| panels.for_each(&work));
}

/// [`each_panel`] by ranges of neighbouring panels, `together` or a multiple of it but for the last.
pub(super) fn each_panel_range(
    columns: usize,
    multiply_adds: usize,
    together: usize,
    work: impl Fn(Range<usize>) + Send + Sync,
) {
    let panels = usize::div_ceil(columns, PANEL);
    if multiply_adds < PARALLEL_MIN {
        return work(0..panels);
    }
    // Several pieces a thread: enough to balance threads, few enough that neighbouring panels find a row in the cache.
    let pieces = if multiply_adds < LONG { PIECES } else { PIECES_LONG };
    let piece = usize::div_ceil(panels, pieces * thread_pool::threads()).next_multiple_of(together);
    thread_pool::each(panels.div_ceil(piece), |index| work(index * piece..panels.min((index + 1) * piece)));
}
