//! Linears over many rows: each thread takes some of the rows through the whole product, and through the low-rank
//! branch beside it.
//!
//! Rows are first put in the order in which tiles read them: as they lie, a tile reads one stream a row, and where a
//! row is a power of two of bytes long these meet in the same few lines of the cache and drive each other out.

use super::ahead::{Ahead, fetch};
use super::full::{PackedMatrix, Tile, tile, transpose};
use super::isa::Isa;
use super::strided::Strided;
use super::{Lane, NO_SUM, PANEL, team, tiles};
use std::cell::Cell;
use std::ops::Range;

/// Floats of ordered rows that stay in a core's second cache beside the weights that pass by.
const CACHED: usize = 3 << 15;
/// Rows of a part at least, whatever the cache: with fewer, weights pass by too often.
const PART_MIN: usize = 96;
/// Depth that tiles go at a time: 16 columns of it stay in the first cache while tiles pass by.
const DEPTH: usize = 288;
/// Outputs of `W` that are turned at a time, the depth of tiles that are.
const TURNED: usize = 256;
/// Inputs of `W` that are turned at a time: with so many outputs, they stay in the second cache while rows pass by.
const TURNED_INPUTS: usize = 96;

/// The branch beside a linear, `y += (x A^T) B^T`.
#[derive(Clone, Copy)]
pub(crate) struct Beside<'a> {
    /// `(width, inputs)`.
    pub(crate) a: &'a PackedMatrix,
    /// `(outputs, width)`.
    pub(crate) b: &'a PackedMatrix,
    /// Where `B` is not zero: outputs, and the inner rows that they see.
    pub(crate) blocks: &'a [(Range<usize>, Range<usize>)],
}

/// What a thread works with: used again, since memory fresh from the system costs as much as what is done with it.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) rows: Vec<f32>,
    inner: Vec<f32>,
    /// Sums of one panel, by row, or of some panels.
    pub(super) panel: Vec<Lane>,
    /// Weights as turned tiles read them.
    pub(super) weights: Vec<Lane>,
    /// Gradients of results as the right side of a product, and those of inputs and of inner rows as they add up.
    pub(super) right: Right,
    pub(super) sums: Right,
    inner_sums: Right,
}

/// Rows as the right side of a product: panels of 16 rows, each `(depth, 16)`; rows past the last are zero.
#[derive(Default)]
pub(super) struct Right {
    lanes: Vec<Lane>,
    depth: usize,
    panels: usize,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// `y = x W^T + u B^T` with `u = x A^T` where there is a branch: `x` is `(rows, inputs)`, `y` `(rows, outputs)` and
/// `u` `(rows, width)`, empty without a branch.
///
/// # Panics
/// Where the lengths do not fit.
pub(crate) fn forward(w: &PackedMatrix, branch: Option<Beside<'_>>, x: &[f32], u: &mut [f32], y: &mut [f32]) {
    let rows = check(w, branch, [x.len(), u.len(), y.len()]);
    let (isa, results) = (Isa::detect(), [(u, branch.width()), (y, w.outputs())]);
    each_part([rows, isa.rows(), w.inputs()], (x, w.inputs()), results, |x, [u, y], scratch| {
        let rows = y.len() / w.outputs();
        let Scratch { rows: ordered, inner, panel: sums, .. } = scratch;
        order(isa, Strided::rows(x, w.inputs()), rows, w.inputs(), ordered);
        let x = Ordered { values: ordered, depth: w.inputs(), part: 0..w.inputs() };
        sums.resize(rows, NO_SUM);
        let Some(Beside { a, b, blocks }) = branch else {
            return each_panel(w, |panel, lanes| sweep(isa, (w, panel), &[(x.clone(), lanes)], sums, y));
        };
        each_panel(a, |panel, lanes| sweep(isa, (a, panel), &[(x.clone(), lanes)], sums, u));
        order(isa, Strided::rows(u, a.outputs()), rows, a.outputs(), inner);
        each_panel(w, |panel, lanes| {
            let part = seen(blocks, panel);
            let u = Ordered { values: inner, depth: a.outputs(), part: part.clone() };
            sweep(isa, (w, panel), &[(x.clone(), lanes), (u, &b.panel(panel)[part])], sums, y);
        });
    });
}

/// `dx = dy W + du A` with `du = dy B` where there is a branch: in the shapes of [`forward`].
///
/// Computed as `dx^T = W^T dy^T`, since `W^T` can be read from the panels of `W` as the left side of a product.
///
/// # Panics
/// Where the lengths do not fit.
pub(crate) fn backward(w: &PackedMatrix, branch: Option<Beside<'_>>, dy: &[f32], du: &mut [f32], dx: &mut [f32]) {
    let rows = check(w, branch, [dx.len(), du.len(), dy.len()]);
    let (isa, results) = (Isa::detect(), [(du, branch.width()), (dx, w.inputs())]);
    each_part([rows, PANEL, 3 * TURNED], (dy, w.outputs()), results, |dy, [du, dx], scratch| {
        let rows = dx.len() / w.inputs();
        let Scratch { right, sums, inner_sums, weights, .. } = scratch;
        sums.clear(w.inputs(), rows);
        inner_sums.clear(branch.width(), rows);
        for first in (0..w.outputs()).step_by(TURNED) {
            let outputs = first..(first + TURNED).min(w.outputs());
            right.fill(isa, &dy[first..], w.outputs(), outputs.len(), rows);
            sums.add_turned(isa, w, 0..w.inputs(), outputs.clone(), (right, first), weights);
            if let Some(Beside { b, blocks, .. }) = branch {
                for (of, inner) in blocks {
                    // Whole panels of outputs: those of another block are zero here.
                    let part = of.start / PANEL * PANEL..of.end;
                    let part = part.start.max(outputs.start)..part.end.min(outputs.end);
                    inner_sums.add_turned(isa, b, inner.clone(), part, (right, first), weights);
                }
            }
        }
        if let Some(Beside { a, .. }) = branch {
            sums.add_turned(isa, a, 0..a.inputs(), 0..a.outputs(), (inner_sums, 0), weights);
            inner_sums.read(isa, du);
        }
        sums.read(isa, dx);
    });
}

impl Right {
    /// Becomes `rows` rows of `depth` elements, whatever they are.
    fn shape(&mut self, depth: usize, rows: usize) {
        (self.depth, self.panels) = (depth, rows.div_ceil(PANEL));
        let lanes = self.panels * depth;
        if self.lanes.len() < lanes {
            self.lanes.resize(lanes, NO_SUM);
        }
    }

    /// Becomes `rows` rows of `depth` zeros.
    pub(super) fn clear(&mut self, depth: usize, rows: usize) {
        self.shape(depth, rows);
        self.lanes[..self.panels * depth].fill(NO_SUM);
    }

    /// Becomes the first `depth` elements of rows that are `width` apart.
    fn fill(&mut self, isa: Isa, values: &[f32], width: usize, depth: usize, rows: usize) {
        self.shape(depth, rows);
        for panel in 0..self.panels {
            let lanes = &mut self.lanes[panel * depth..][..depth];
            let count = PANEL.min(rows - panel * PANEL);
            for first in (0..depth).step_by(PANEL) {
                let many = PANEL.min(depth - first);
                let (mut square, mut turned) = ([NO_SUM; PANEL], [NO_SUM; PANEL]);
                for (row, lane) in square.iter_mut().enumerate().take(count) {
                    copy(&values[(panel * PANEL + row) * width + first..][..many], &mut lane.0[..many]);
                }
                transpose(isa, &square, &mut turned);
                lanes[first..first + many].copy_from_slice(&turned[..many]);
            }
        }
    }

    /// Becomes `rows` rows from panels of 16 elements, `(panels, rows)` lanes.
    pub(super) fn fill_turned(&mut self, isa: Isa, lanes: &[Lane], rows: usize) {
        self.shape(lanes.len() / rows * PANEL, rows);
        let depth = self.depth;
        for panel in 0..self.panels {
            let count = PANEL.min(rows - panel * PANEL);
            let to = &mut self.lanes[panel * depth..][..depth];
            for (turned, lanes) in to.as_chunks_mut::<PANEL>().0.iter_mut().zip(lanes.chunks_exact(rows)) {
                let mut square = [NO_SUM; PANEL];
                square[..count].copy_from_slice(&lanes[panel * PANEL..][..count]);
                transpose(isa, &square, turned);
            }
        }
    }

    /// Multiplies each row by its factor.
    pub(super) fn scale_rows(&mut self, factors: impl Iterator<Item = f32>) {
        let factors: Vec<f32> = factors.collect();
        let depth = self.depth;
        for (factors, lanes) in factors.chunks(PANEL).zip(self.lanes.chunks_exact_mut(depth)) {
            if factors.iter().all(|factor| *factor == 1.0) {
                continue;
            }
            for lane in lanes {
                lane.0.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
            }
        }
    }

    /// Writes the rows to `out`, row-major.
    pub(super) fn read(&self, isa: Isa, out: &mut [f32]) {
        let depth = self.depth;
        for (lanes, out) in self.lanes.chunks_exact(depth.max(1)).zip(out.chunks_mut(PANEL * depth.max(1))) {
            for first in (0..depth).step_by(PANEL) {
                let many = PANEL.min(depth - first);
                let (mut square, mut turned) = ([NO_SUM; PANEL], [NO_SUM; PANEL]);
                square[..many].copy_from_slice(&lanes[first..first + many]);
                transpose(isa, &square, &mut turned);
                for (row, lane) in out.chunks_exact_mut(depth).zip(&turned) {
                    copy(&lane.0[..many], &mut row[first..first + many]);
                }
            }
        }
    }

    /// Adds `dy W` to `inputs`, over `outputs` of `W`. The first lane of `dy` is that of output `first`, both multiples of
    /// 16. `weights` is room for those of `W` that are turned.
    pub(super) fn add_turned(
        &mut self,
        isa: Isa,
        w: &PackedMatrix,
        inputs: Range<usize>,
        outputs: Range<usize>,
        (dy, first): (&Self, usize),
        weights: &mut Vec<Lane>,
    ) {
        if outputs.is_empty() {
            return;
        }
        let part = outputs.start - first..outputs.end - first;
        let (panels, blocks) = (outputs.start / PANEL..outputs.end.div_ceil(PANEL), tiles(inputs.len(), TURNED_INPUTS));
        let blocks = blocks.map(|block| inputs.start + block.start..inputs.start + block.end);
        let mut blocks = blocks.peekable();
        while let Some(block) = blocks.next() {
            w.turned(isa, block.clone(), panels.clone(), weights);
            // Behind the last inputs come the first ones of the next outputs.
            let (next_panels, next) = match blocks.peek() {
                Some(next) => (panels.clone(), next.clone()),
                None => (panels.end..panels.end + panels.len(), inputs.start..inputs.start + block.len()),
            };
            let count = self.panels * block.len().div_ceil(isa.rows());
            let mut ahead = Ahead::new(w, next_panels, next, count);
            let rows = self.lanes.chunks_exact_mut(self.depth).zip(dy.lanes.chunks_exact(dy.depth));
            for (sums, dy) in rows.take(self.panels) {
                let sums = &mut sums[block.clone()];
                for tile_inputs in tiles(block.len(), isa.rows()) {
                    ahead.step();
                    let height = tile_inputs.len();
                    let weights = &weights[tile_inputs.start * panels.len()..tile_inputs.end * panels.len()];
                    let turned = Tile::Turned { weights, inputs: height };
                    tile(isa, height, turned, &dy[part.clone()], &mut sums[tile_inputs]);
                }
            }
        }
    }
}

/// Inner rows that the outputs of panel `panel` see.
fn seen(blocks: &[(Range<usize>, Range<usize>)], panel: usize) -> Range<usize> {
    let outputs = panel * PANEL..(panel + 1) * PANEL;
    let mut seen =
        blocks.iter().filter(|(of, _)| of.start < outputs.end && outputs.start < of.end).map(|(_, inner)| inner);
    let first = seen.next().cloned().unwrap_or_default();
    seen.fold(first, |all, inner| all.start.min(inner.start)..all.end.max(inner.end))
}

/// Copies `from`; a whole panel is one store, the general copy a call.
pub(super) fn copy(from: &[f32], to: &mut [f32]) {
    match (<&[f32; PANEL]>::try_from(from), <&mut [f32; PANEL]>::try_from(&mut *to)) {
        (Ok(from), Ok(to)) => *to = *from,
        _ => to.copy_from_slice(from),
    }
}

trait Width {
    fn width(&self) -> usize;
}

impl Width for Option<Beside<'_>> {
    fn width(&self) -> usize {
        self.map_or(0, |branch| branch.a.outputs())
    }
}

/// The number of rows, once inputs, inner rows and outputs are known to be as long as that says.
fn check(w: &PackedMatrix, branch: Option<Beside<'_>>, [inputs, inner, outputs]: [usize; 3]) -> usize {
    let rows = inputs / w.inputs();
    let fits = inputs == rows * w.inputs() && outputs == rows * w.outputs() && inner == rows * branch.width();
    assert!(fits, "rows of {w:?}: {inputs}, {inner} and {outputs} floats");
    if let Some(Beside { a, b, .. }) = branch {
        let fits = a.inputs() == w.inputs() && b.outputs() == w.outputs() && b.inputs() == a.outputs();
        assert!(fits, "{a:?} and {b:?} beside {w:?}");
    }
    rows
}

/// Runs `work` on parts of `rows` rows, whole steps of `step` rows, of which `depth` floats a row stay in the cache; on
/// several threads. A matrix comes with the width of its rows.
pub(super) fn each_part<X: Sync>(
    [rows, step, depth]: [usize; 3],
    (x, x_width): (&[X], usize),
    [(mut inner, inner_width), (mut out, out_width)]: [(&mut [f32], usize); 2],
    work: impl Fn(&[X], [&mut [f32]; 2], &mut Scratch) + Sync,
) {
    let (steps, threads) = (rows.div_ceil(step), team::threads());
    let most = (CACHED / depth).max(PART_MIN).div_ceil(step);
    let parts = (threads * steps.div_ceil(most * threads)).min(steps);
    let bounds = |part: usize| (steps * part / parts * step).min(rows);
    let mut split = Vec::with_capacity(parts);
    for part in 0..parts {
        let range = bounds(part)..bounds(part + 1);
        let (inner_part, inner_rest) = std::mem::take(&mut inner).split_at_mut(range.len() * inner_width);
        let (out_part, out_rest) = std::mem::take(&mut out).split_at_mut(range.len() * out_width);
        (inner, out) = (inner_rest, out_rest);
        split.push((&x[range.start * x_width..range.end * x_width], inner_part, out_part));
    }
    team::each_mut(&mut split, |_, (x, inner, out)| {
        let mut scratch = SCRATCH.take();
        work(x, [inner, out], &mut scratch);
        SCRATCH.set(scratch);
    });
}

fn each_panel(w: &PackedMatrix, mut work: impl FnMut(usize, &[Lane])) {
    (0..w.outputs().div_ceil(PANEL)).for_each(|panel| work(panel, w.panel(panel)));
}

/// Columns of panel `panel` of `out`, `W` giving them: ordered rows times the lanes that go with them, all terms in one
/// chain. A row has one of `sums` to add up in.
fn sweep(isa: Isa, at: (&PackedMatrix, usize), terms: &[(Ordered<'_>, &[Lane])], sums: &mut [Lane], out: &mut [f32]) {
    let (width, first) = (out.len() / sums.len(), at.1 * PANEL);
    // Written at the end, a row far from the next.
    sums_of(isa, at, terms, sums, |rows| rows.for_each(|row| fetch(&out[row * width + first])));
    let count = PANEL.min(width - first);
    for (row, sums) in out.chunks_exact_mut(width).zip(&*sums) {
        copy(&sums.0[..count], &mut row[first..][..count]);
    }
}

/// Sums of one panel, `W` giving it: ordered rows times the lanes that go with them, all terms in one chain. `begin` is
/// told of each tile's rows.
pub(super) fn sums_of(
    isa: Isa,
    (w, panel): (&PackedMatrix, usize),
    terms: &[(Ordered<'_>, &[Lane])],
    sums: &mut [Lane],
    begin: impl Fn(Range<usize>),
) {
    let rows = sums.len();
    let steps = w.inputs().div_ceil(DEPTH) * rows.div_ceil(isa.rows());
    let mut ahead = Ahead::new(w, panel + 1..panel + 2, 0..w.inputs(), steps);
    sums.fill(NO_SUM);
    for (term, (left, lanes)) in terms.iter().enumerate() {
        for depth in tiles(lanes.len(), DEPTH) {
            for rows in tiles(rows, isa.rows()) {
                ahead.step();
                if (term, depth.start) == (0, 0) {
                    begin(rows.clone());
                }
                tile(isa, rows.len(), left.tile(&rows, &depth), &lanes[depth.clone()], &mut sums[rows]);
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
    /// Elements `depth` of those that count, of one tile.
    fn tile(&self, rows: &Range<usize>, depth: &Range<usize>) -> Tile<'a> {
        let tile = &self.values[rows.start * self.depth..rows.end * self.depth];
        let (first, end) = (self.part.start + depth.start, self.part.start + depth.end);
        Tile::Ordered(&tile[first * rows.len()..end * rows.len()])
    }
}

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
                let values = a.values[(rows.start + row) * a.row + first * a.step..].iter().step_by(a.step);
                let to = tile[first * height..end * height].iter_mut().skip(row).step_by(height);
                to.zip(values).for_each(|(to, value)| *to = *value);
            }
        }
    }
}
