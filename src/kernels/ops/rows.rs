//! Loops over rows, split over the thread pool where there are enough of them.

use crate::kernels::thread_pool;

/// Elements below which waking a second thread costs more than it gives.
const PARALLEL_MIN: usize = 1 << 14;

/// Runs `part(first row, rows)` on pieces of `out`, on several threads if there are enough.
pub(crate) fn by_rows(out: &mut [f32], width: usize, part: impl Fn(usize, &mut [f32]) + Sync) {
    let Some(rows) = rows_of_piece(out.len(), width) else { return part(0, out) };
    let mut pieces: Vec<&mut [f32]> = out.chunks_mut(rows * width).collect();
    thread_pool::each_mut(&mut pieces, |index, out| part(index * rows, out));
}

/// Runs `part` on pieces of the same rows of `x`, `a` and `b`, each given with its stride, on several threads if there
/// are enough.
pub(super) fn by_rows_of(
    (x, x_width): (&[f32], usize),
    (a, a_width): (&mut [f32], usize),
    (b, b_width): (&mut [f32], usize),
    part: impl Fn(&[f32], &mut [f32], &mut [f32]) + Sync,
) {
    let Some(rows) = rows_of_piece(a.len(), a_width) else { return part(x, a, b) };
    let pieces = x.chunks(rows * x_width).zip(a.chunks_mut(rows * a_width)).zip(b.chunks_mut(rows * b_width));
    let mut pieces: Vec<_> = pieces.collect();
    thread_pool::each_mut(&mut pieces, |_, ((x, a), b)| part(x, a, b));
}

/// Rows of `width` in a piece, if `count` elements are enough for several threads.
fn rows_of_piece(count: usize, width: usize) -> Option<usize> {
    let pays = count >= PARALLEL_MIN && thread_pool::threads() > 1;
    pays.then(|| (count / width).div_ceil(2 * thread_pool::threads()))
}

/// Runs `part(row, values)` on each row of `rows`, `(rows, width)`, and writes the results to `out`, on several
/// threads.
pub(crate) fn each_row(
    rows: &mut [f32],
    width: usize,
    out: &mut [f32],
    part: impl Fn(usize, &mut [f32]) -> f32 + Sync,
) {
    let mut rows: Vec<_> = rows.chunks_mut(width).zip(out).collect();
    thread_pool::each_mut(&mut rows, |row, (values, out)| **out = part(row, values));
}
