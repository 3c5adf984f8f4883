//! Rows in the order in which tiles read them: as they lie, a tile reads one stream a row, and where a row is a power of
//! two of bytes long these meet in the same few lines of the cache and drive each other out.

use super::ahead::Ahead;
use super::full::{Begun, Tile, tile};
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
        for first in (0..depth).step_by(PIECE) {
            let end = (first + PIECE).min(depth);
            for row in 0..height {
                let values = &a.values[(rows.start + row) * a.row + first * a.step..];
                if a.step == 1 {
                    prefetch(values.get(2 * PIECE..3 * PIECE).unwrap_or_default());
                }
                let values = values.iter().step_by(a.step);
                let to = tile[first * height..end * height].iter_mut().skip(row).step_by(height);
                to.zip(values).for_each(|(to, value)| *to = *value);
            }
        }
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

    /// Elements `depth` of those that count, of one tile.
    pub(super) fn tile(&self, rows: &Range<usize>, depth: &Range<usize>) -> Tile<'a> {
        let tile = &self.values[rows.start * self.depth..rows.end * self.depth];
        let (first, end) = (self.part.start + depth.start, self.part.start + depth.end);
        Tile::Ordered(&tile[first * rows.len()..end * rows.len()])
    }
}

/// Sums of one panel, `W` giving it: ordered rows times its lanes, and behind these in the same chain those beside it.
/// `begin` is told of each tile's rows before their last product, `end` is handed them with their sums.
pub(super) fn sums_of(
    isa: Isa,
    (w, panel): (&PackedMatrix, usize),
    x: &Ordered<'_>,
    beside: Option<(Ordered<'_>, &[Lane])>,
    sums: &mut [Lane],
    (begin, mut end): (impl Fn(Range<usize>), impl FnMut(Range<usize>, &[Lane])),
) {
    let (rows, lanes) = (sums.len(), w.panel(panel));
    let steps = w.inputs().div_ceil(DEPTH) * rows.div_ceil(isa.rows());
    let mut ahead = Ahead::new(w, panel + 1..panel + 2, 0..w.inputs(), steps);
    for depth in tiles(lanes.len(), DEPTH) {
        let is_last = depth.end == lanes.len();
        for rows in tiles(rows, isa.rows()) {
            ahead.step();
            let sums = &mut sums[rows.clone()];
            if is_last {
                begin(rows.clone());
            }
            let begun = if depth.start == 0 { Begun::No } else { Begun::Yes };
            tile(isa, rows.len(), x.tile(&rows, &depth), &lanes[depth.clone()], (&mut *sums, begun));
            if is_last {
                if let Some((x, lanes)) = &beside {
                    tile(isa, rows.len(), x.tile(&rows, &(0..lanes.len())), lanes, (&mut *sums, Begun::Yes));
                }
                end(rows, sums);
            }
        }
    }
}
