//! Rows in the order in which tiles read them: as they lie, a tile reads one stream a row, and where a row is a power of
//! two of bytes long these meet in the same few lines of the cache and drive each other out.

use super::ahead::Ahead;
use super::full::{Begun, Tile, twin_tile};
use super::isa::Isa;
use super::strided::Strided;
use super::{Lane, PackedMatrix, prefetch, tiles};
use std::ops::Range;

/// Depth that tiles go at a time: 16 columns of it stay in the first cache while tiles pass by.
const DEPTH: usize = 288;

/// Puts `rows` rows of `depth` elements in tiles, `(depth, rows of the tile)` each, one behind the other.
pub(super) fn order(isa: Isa, a: Strided<'_>, rows: usize, depth: usize, out: &mut Vec<f32>) {
    /// Elements of a row that are written at a time, so that what is written stays in the cache.
    const PIECE: usize = 64;
    if out.len() < rows * depth {
        out.resize(rows * depth, 0.0);
    }
    for rows in tiles(rows, isa.rows()) {
        let (height, tile) = (rows.len(), &mut out[rows.start * depth..rows.end * depth]);
        if a.row == 1 {
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
                interleave(
                    [row, row + 1, row + 2, row + 3].map(|row| &values(row)[..end - first]),
                    &mut to[row..],
                    height,
                );
            }
            for row in fours..height {
                let to = to.iter_mut().skip(row).step_by(height);
                to.zip(values(row)).for_each(|(to, value)| *to = *value);
            }
        }
    }
}

/// Writes what four rows have in a column side by side, columns `height` apart: squares of four by four at a time.
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

/// Rows as [`order`] leaves them, of whose elements `part` count.
#[derive(Clone)]
pub(super) struct Ordered<'a> {
    pub(super) values: &'a [f32],
    pub(super) depth: usize,
    pub(super) part: Range<usize>,
}

impl<'a> Ordered<'a> {
    /// Rows of `depth` elements, all of which count.
    pub(super) fn new(values: &'a [f32], depth: usize) -> Self {
        Self { values, depth, part: 0..depth }
    }

    /// Elements `depth` of those that count, of one tile, which asks for `next`.
    pub(super) fn tile(&self, rows: &Range<usize>, depth: &Range<usize>, next: &'a [Lane]) -> Tile<'a> {
        let tile = &self.values[rows.start * self.depth..rows.end * self.depth];
        let (first, end) = (self.part.start + depth.start, self.part.start + depth.end);
        Tile::Ordered { rows: &tile[first * rows.len()..end * rows.len()], next }
    }
}

/// What is added to sums of panels: rows, times the inputs that count of the same panels of a matrix.
pub(super) type Added<'a> = Option<(Ordered<'a>, &'a PackedMatrix)>;

/// Sums of one panel of `W`, or of two, `(panels, rows)`: ordered rows times its lanes, and behind these in the same chain what
/// is `beside` them. `begin` is told of a panel and each tile's rows before their last product, `end` is handed them with
/// their sums.
pub(super) fn sums_of(
    isa: Isa,
    (w, panels): (&PackedMatrix, Range<usize>),
    x: &Ordered<'_>,
    beside: Added<'_>,
    sums: &mut [Lane],
    (begin, mut end): (impl Fn(usize, Range<usize>), impl FnMut(usize, Range<usize>, &[Lane])),
) {
    let rows = sums.len() / panels.len();
    let steps = w.inputs().div_ceil(DEPTH) * rows.div_ceil(isa.rows());
    let next = panels.end..panels.end + panels.len();
    let mut ahead = Ahead::new(w, next, 0..w.inputs(), steps);
    let (sums, others) = sums.split_at_mut(rows);
    for depth in tiles(w.inputs(), DEPTH) {
        let is_last = depth.end == w.inputs();
        let begun = if depth.start == 0 { Begun::No } else { Begun::Yes };
        for rows in tiles(rows, isa.rows()) {
            if is_last {
                panels.clone().for_each(|panel| begin(panel, rows.clone()));
            }
            let mut add = |a: Tile<'_>, w: &PackedMatrix, inputs: &Range<usize>, begun: Begun| {
                let lanes = |panel: usize| &w.panel(panel)[inputs.clone()];
                let twin = (panels.len() == 2).then(|| (lanes(panels.start + 1), &mut others[rows.clone()]));
                twin_tile(isa, rows.len(), a, (lanes(panels.start), &mut sums[rows.clone()]), twin, begun);
            };
            add(x.tile(&rows, &depth, ahead.step()), w, &depth, begun);
            if !is_last {
                continue;
            }
            if let Some((x, b)) = &beside {
                add(x.tile(&rows, &(0..x.part.len()), &[]), b, &x.part, Begun::Yes);
            }
            for (panel, sums) in panels.clone().zip([&*sums, &*others]) {
                end(panel, rows.clone(), &sums[rows.clone()]);
            }
        }
    }
}

/// Panels `panels`, as many at a time as tiles take.
pub(super) fn groups(isa: Isa, panels: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = panels.end;
    panels.step_by(isa.panels()).map(move |first| first..end.min(first + isa.panels()))
}
