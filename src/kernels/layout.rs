//! The layout of packed operands: panels of 16 columns, lanes of 16 floats, tiles of rows.
//!
//! A panel is 16 output columns, input-major; a lane is one input of a panel, a cache line of f32.

use std::ops::Range;

/// Output columns of one panel: one AVX-512 register of f32, or two of AVX2.
pub(super) const PANEL: usize = 16;
/// Rows of the largest tile of any instruction set.
pub(super) const ROWS_MAX: usize = 14;
/// Sums of one tile, `[row][column]`; only the tile's rows are written.
pub(super) type Sums = [Lane; ROWS_MAX];

/// Zero sums of a tile.
pub(super) const NO_SUMS: Sums = [NO_SUM; ROWS_MAX];

/// 16 zero sums.
pub(super) const NO_SUM: Lane = Line([0.0; PANEL]);

/// 16 floats that share a row or an input, one cache line.
pub(super) type Lane = Line<[f32; PANEL]>;

/// One cache line of packed weights.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Line<T>(pub(super) T);

/// Two bf16 inputs of 16 outputs, one cache line: the even input in the low half of each word, the odd one above.
pub(super) type Bf16Pair = Line<[u32; PANEL]>;

/// Splits `rows` into nearly equal tiles of at most `most` rows: 32 rows are 11 + 11 + 10, not 14 + 14 + 4.
pub(super) fn tiles(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = usize::div_ceil(rows, most);
    (0..count).map(move |tile| rows * tile / count..rows * (tile + 1) / count)
}

/// Floats from one row of `width` floats to the next where rows are read column by column: rows that begin in the same
/// few sets of the cache would evict each other.
pub(crate) fn padded_stride(width: usize) -> usize {
    /// Floats of half a page; 64 sets of one line each are a page.
    const HALF: usize = 512;
    if width.is_multiple_of(HALF) { width + PANEL } else { width }
}

/// Copies `from`: a whole lane is one store, anything else a call.
pub(super) fn copy(from: &[f32], to: &mut [f32]) {
    match (<&[f32; PANEL]>::try_from(from), <&mut [f32; PANEL]>::try_from(&mut *to)) {
        (Ok(from), Ok(to)) => *to = *from,
        _ => to.copy_from_slice(from),
    }
}

/// The floats of lanes.
pub(super) fn floats(lanes: &[Lane]) -> &[f32] {
    // SAFETY: a lane is 16 floats in C's layout, as large as its alignment of 64 bytes, so there is no padding between
    // lanes; the pointer and the length are those of the borrowed slice.
    unsafe { std::slice::from_raw_parts(lanes.as_ptr().cast(), lanes.len() * PANEL) }
}

/// [`floats`], mutable.
pub(super) fn floats_mut(lanes: &mut [Lane]) -> &mut [f32] {
    // SAFETY: as above; the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(lanes.as_mut_ptr().cast(), lanes.len() * PANEL) }
}
