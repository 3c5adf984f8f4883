//! Rows packed in the order in which tiles read them, `(depth, rows of the tile)`.
//!
//! Unpacked, a tile reads one stream a row. Where a row's bytes are a power of two, those streams share a few sets of
//! the cache and evict each other.

use super::isa::Isa;
use super::layout::{Lane, tiles};
use super::operands::{Beta, Lhs, Strided};
use super::packed_matrix::PackedMatrix;
use super::prefetch::prefetch;
use super::tile::tile;
use super::weight_prefetch::WeightPrefetch;
use std::ops::Range;

/// Depth of a tile's step: the panels' lanes stay in the cache while the tiles of all rows use them.
const DEPTH: usize = 288;

/// Packs `rows` rows of `depth` elements, `(depth, rows of the tile)` for each tile: rows of a row-major matrix, or its
/// columns.
pub(super) fn pack_tiles(isa: Isa, a: Strided<'_>, rows: usize, depth: usize, out: &mut Vec<f32>) {
    /// Elements of a row that are packed at a time: the destination stays in the cache.
    const PIECE: usize = 64;
    if out.len() < rows * depth {
        out.resize(rows * depth, 0.0);
    }
    assert!(a.step == 1 || a.row == 1, "expected rows or columns, got every {}th element", a.step);
    for rows in tiles(rows, isa.rows()) {
        let (height, tile) = (rows.len(), &mut out[rows.start * depth..rows.end * depth]);
        if a.step != 1 {
            let columns = tile.chunks_exact_mut(height).zip(a.values[rows.start..].chunks(a.step));
            columns.for_each(|(to, values)| to.copy_from_slice(&values[..height]));
            continue;
        }
        for first in (0..depth).step_by(PIECE) {
            let end = (first + PIECE).min(depth);
            let to = &mut tile[first * height..end * height];
            let values = |row: usize| &a.values[(rows.start + row) * a.row + first..];
            for row in 0..height {
                prefetch(values(row).get(2 * PIECE..3 * PIECE).unwrap_or_default());
            }
            let fours = height / 4 * 4;
            for row in (0..fours).step_by(4) {
                let four = [row, row + 1, row + 2, row + 3].map(|row| &values(row)[..end - first]);
                interleave(four, &mut to[row..], height);
            }
            for row in fours..height {
                let to = to.iter_mut().skip(row).step_by(height);
                to.zip(values(row)).for_each(|(to, value)| *to = *value);
            }
        }
    }
}

/// Writes four rows transposed, columns `height` floats apart: squares of 4 by 4 at a time.
fn interleave(rows: [&[f32]; 4], to: &mut [f32], height: usize) {
    let squares = rows.map(|row| row.as_chunks::<4>());
    let whole = squares[0].0.len();
    for square in 0..whole {
        let square_of = squares.map(|(squares, _)| squares[square]);
        for k in 0..4 {
            to[(4 * square + k) * height..][..4].copy_from_slice(&square_of.map(|row| row[k]));
        }
    }
    for k in 4 * whole..rows[0].len() {
        to[k * height..][..4].copy_from_slice(&rows.map(|row| row[k]));
    }
}

/// Rows packed by [`pack_tiles`], of which the elements `columns` count.
#[derive(Clone)]
pub(super) struct PackedRows<'a> {
    pub(super) values: &'a [f32],
    pub(super) depth: usize,
    pub(super) columns: Range<usize>,
}

impl<'a> PackedRows<'a> {
    /// Rows of `depth` elements, all of which count.
    pub(super) fn new(values: &'a [f32], depth: usize) -> Self {
        Self { values, depth, columns: 0..depth }
    }

    /// One tile's rows, elements `depth` of those that count; the tile prefetches `next`.
    pub(super) fn tile(&self, rows: &Range<usize>, depth: &Range<usize>, next: &'a [Lane]) -> Lhs<'a> {
        let tile = &self.values[rows.start * self.depth..rows.end * self.depth];
        let (first, end) = (self.columns.start + depth.start, self.columns.start + depth.end);
        Lhs::PackedRows { rows: &tile[first * rows.len()..end * rows.len()], next }
    }
}

/// A product that is added to a panel's sums: rows, times the same panels of another matrix.
pub(super) type Addend<'a> = Option<(PackedRows<'a>, &'a PackedMatrix)>;

/// Rows times as many panels of `W` as a tile takes: `sums` is `(panels, rows)`. `addend` continues each sum's chain.
/// `begin` is called with a panel and a tile's rows before their last product, `end` with their sums after it.
pub(super) fn multiply_panels(
    isa: Isa,
    (w, panels): (&PackedMatrix, Range<usize>),
    x: &PackedRows<'_>,
    addend: Addend<'_>,
    sums: &mut [Lane],
    (begin, mut end): (impl Fn(usize, Range<usize>), impl FnMut(usize, Range<usize>, &[Lane])),
) {
    let all = sums.len() / panels.len();
    let steps = w.inputs().div_ceil(DEPTH) * all.div_ceil(isa.rows());
    let next = panels.end..panels.end + panels.len();
    let mut prefetch = WeightPrefetch::new(w, next, 0..w.inputs(), steps);
    for depth in tiles(w.inputs(), DEPTH) {
        let is_last = depth.end == w.inputs();
        let beta = if depth.start == 0 { Beta::Zero } else { Beta::One };
        for rows in tiles(all, isa.rows()) {
            if is_last {
                panels.clone().for_each(|panel| begin(panel, rows.clone()));
            }
            let to = &mut sums[rows.start..];
            let a = x.tile(&rows, &depth, prefetch.step());
            tile(isa, rows.len(), a, w.panels(&panels, &depth), (&mut *to, all), beta);
            if !is_last {
                continue;
            }
            if let Some((x, b)) = &addend {
                let a = x.tile(&rows, &(0..x.columns.len()), &[]);
                tile(isa, rows.len(), a, b.panels(&panels, &x.columns), (&mut *to, all), Beta::One);
            }
            for (panel, sums) in panels.clone().zip(to.chunks(all)) {
                end(panel, rows.clone(), &sums[..rows.len()]);
            }
        }
    }
}

/// Splits `panels` into nearly equal groups of at most as many as a tile takes.
pub(super) fn panel_groups(isa: Isa, panels: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let start = panels.start;
    tiles(panels.len(), isa.panels()).map(move |group| start + group.start..start + group.end)
}
