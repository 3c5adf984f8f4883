//! Rows shared out over the thread pool.

use crate::kernels::thread_pool;

/// Elements below which waking a second thread costs more than it gives.
const PARALLEL_MIN: usize = 1 << 14;

/// Runs `part` on pieces of rows, on several threads where it pays.
pub(crate) fn by_rows(out: &mut [f32], width: usize, part: impl Fn(usize, &mut [f32]) + Sync) {
    let Some(rows) = rows_of_piece(out.len(), width) else { return part(0, out) };
    let mut pieces: Vec<&mut [f32]> = out.chunks_mut(rows * width).collect();
    thread_pool::each_mut(&mut pieces, |index, out| part(index * rows, out));
}

/// Runs `part` on pieces of as many rows of `x`, `a` and `b`, each given with the floats from one row to the next; on several
/// threads where it pays.
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

/// Rows, `width` elements each, that a thread takes at a time of `count` elements, where it pays to share them.
fn rows_of_piece(count: usize, width: usize) -> Option<usize> {
    let pays = count >= PARALLEL_MIN && thread_pool::threads() > 1;
    pays.then(|| (count / width).div_ceil(2 * thread_pool::threads()))
}

/// Runs `part(row, values)` on each row of `rows`, `(rows, width)`, and keeps what it gives in `found`; on several
/// threads where it pays.
pub(crate) fn each_row(
    rows: &mut [f32],
    width: usize,
    found: &mut [f32],
    part: impl Fn(usize, &mut [f32]) -> f32 + Sync,
) {
    let mut rows: Vec<_> = rows.chunks_mut(width).zip(found).collect();
    thread_pool::each_mut(&mut rows, |row, (values, found)| **found = part(row, values));
}
