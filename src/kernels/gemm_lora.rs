//! Linears over many rows, with the low-rank branch beside them.
//!
//! A thread takes some of the rows through the whole product. Who is done first helps another with its last outputs, or,
//! backward, goes on with other work and then takes inputs of the others' rows. Every sum is one chain whoever computes it.

use super::column_writer::ColumnWriter;
use super::isa::Isa;
use super::layout::{Lane, NO_SUM, PANEL, copy};
use super::operands::{Beta, RhsPanels, Strided};
use super::packed_matrix::PackedMatrix;
use super::packed_rows::{PackedRows, multiply_panels, pack_tiles, panel_groups};
use super::rhs;
use super::rhs::{OUTPUTS, Rhs};
use super::thread_pool;
use super::thread_pool::{Overlap, SharedLoop};
use std::cell::Cell;
use std::ops::Range;

/// Floats of ordered rows that stay in a core's second cache beside the weights that pass by.
const CACHED: usize = 3 << 15;
/// Rows of a part at least, whatever the cache: with fewer, weights pass by too often.
const CHUNK_ROWS_MIN: usize = 96;
/// The branch beside a linear, `y += (x A^T) B^T`.
#[derive(Clone, Copy)]
pub(crate) struct LoraBranch<'a> {
    /// `(width, inputs)`.
    pub(crate) a: &'a PackedMatrix,
    /// `(outputs, width)`.
    pub(crate) b: &'a PackedMatrix,
    /// Where `B` is not zero: outputs, and the inner rows that they see.
    pub(crate) blocks: &'a [(Range<usize>, Range<usize>)],
}

/// Gradients of some rows: those of results as the right side of a product, and those of inputs and of inner rows as
/// they add up.
#[derive(Default)]
struct Gradients {
    rhs: Rhs,
    /// By block of inputs.
    sums: Vec<Rhs>,
    inner: Rhs,
}

/// Rows of a part in the order in which tiles read them, and the inner rows of the branch.
#[derive(Default)]
struct RowChunk {
    rows: Vec<f32>,
    inner: Vec<f32>,
}

// Used again, since memory fresh from the system costs as much as what is done with it.
thread_local! {
    static CHUNKS: Cell<Vec<RowChunk>> = Cell::default();
    /// Sums of the panels at hand, by row.
    static SUMS: Cell<Vec<Lane>> = Cell::default();
    static GRADIENTS: Cell<Gradients> = Cell::default();
}

/// `y = x W^T + u B^T` with `u = x A^T` where there is a branch: `x` is `(rows, inputs)`, `y` `(rows, outputs)` and
/// `u` `(rows, width)`, empty without a branch. Rows of `y` may be further apart than they are wide, all by as much.
///
/// # Panics
/// Where the lengths do not fit.
pub(crate) fn forward(w: &PackedMatrix, branch: Option<LoraBranch<'_>>, x: &[f32], u: &mut [f32], y: &mut [f32]) {
    let rows = check(w, branch, [x.len(), u.len(), y.len()]);
    let (isa, inputs, width) = (Isa::detect(), w.inputs(), branch.width());
    let bounds = row_chunks(rows, isa.rows(), inputs);
    let mut row_chunks = CHUNKS.take();
    row_chunks.resize_with(row_chunks.len().max(bounds.len()), RowChunk::default);

    let mut u = u;
    let split = |(rows, part): (&Range<usize>, _)| {
        (rows.clone(), part, u.split_off_mut(..rows.len() * width).unwrap_or_default())
    };
    let mut beginnings: Vec<(_, &mut RowChunk, _)> = bounds.iter().zip(&mut row_chunks).map(split).collect();
    thread_pool::each_mut(&mut beginnings, |_, (rows, part, u)| {
        let x = Strided::rows(&x[rows.start * inputs..], inputs);
        pack_tiles(isa, x, rows.len(), inputs, &mut part.rows);
        if let Some(LoraBranch { a, .. }) = branch {
            let (x, mut sums) = (PackedRows::new(&part.rows, inputs), SUMS.take());
            for panels in panel_groups(isa, 0..width.div_ceil(PANEL)) {
                let end = |panel: usize, rows: Range<usize>, sums: &[Lane]| {
                    let columns = panel * PANEL..width.min((panel + 1) * PANEL);
                    for (row, sums) in rows.zip(sums) {
                        copy(&sums.0[..columns.len()], &mut u[row * width..][columns.clone()]);
                    }
                };
                sums.resize(panels.len() * rows.len(), NO_SUM);
                multiply_panels(isa, (a, panels), &x, None, &mut sums, (|_, _| {}, end));
            }
            SUMS.set(sums);
            pack_tiles(isa, Strided::rows(u, width), rows.len(), width, &mut part.inner);
        }
    });

    let stride = y.len() / rows.max(1);
    let y = ColumnWriter::with_stride(y, w.outputs(), stride);
    let pieces = Vec::from_iter(panel_groups(isa, 0..w.outputs().div_ceil(PANEL)));
    thread_pool::each_of_parts(bounds.len(), pieces.len(), |part, piece| {
        let (mut sums, panels) = (SUMS.take(), pieces[piece].clone());
        let (rows, RowChunk { rows: x, inner }) = (&bounds[part], &row_chunks[part]);
        sums.resize(panels.len() * rows.len(), NO_SUM);
        let addend = branch.map(|LoraBranch { b, blocks, .. }| {
            (PackedRows { values: inner, depth: width, part: seen(blocks, &panels) }, b)
        });
        let begin = |panel, tile: Range<usize>| tile.for_each(|row| y.fetch(rows.start + row, panel * PANEL));
        let end = |panel, tile: Range<usize>, sums: &[Lane]| {
            tile.zip(sums).for_each(|(row, sums)| y.write(rows.start + row, panel * PANEL, &sums.0));
        };
        multiply_panels(isa, (w, panels), &PackedRows::new(x, inputs), addend, &mut sums, (begin, end));
        SUMS.set(sums);
    });
    CHUNKS.set(row_chunks);
}

/// `dx = dy W + du A` with `du = dy B` where there is a branch: in the shapes of [`forward`], `dy` in that of `y`. Who is done first goes on
/// with `overlap`.
///
/// # Panics
/// Where the lengths do not fit.
pub(crate) fn backward(
    w: &PackedMatrix,
    branch: Option<LoraBranch<'_>>,
    dy: &[f32],
    [du, dx]: [&mut [f32]; 2],
    overlap: Overlap<'_>,
) {
    let rows = check(w, branch, [dx.len(), du.len(), dy.len()]);
    let (isa, inputs, outputs, width) = (Isa::detect(), w.inputs(), w.outputs(), branch.width());
    let (mut du, mut dx, stride) = (du, dx, dy.len() / rows.max(1));
    let split = |part: Range<usize>| {
        let du = du.split_off_mut(..part.len() * width).unwrap_or_default();
        let dx = dx.split_off_mut(..part.len() * inputs).unwrap_or_default();
        (&dy[part.start * stride..part.end * stride], du, dx)
    };
    let mut row_chunks: Vec<_> = row_chunks(rows, PANEL * isa.panels(), 3 * OUTPUTS).into_iter().map(split).collect();
    let part = |_, (dy, du, dx): &mut (&[f32], &mut [f32], &mut [f32]), shared: &SharedLoop| {
        let rows = dy.len() / stride;
        let mut gradients = GRADIENTS.take();
        let Gradients { rhs, sums, inner } = &mut gradients;
        let blocks = Vec::from_iter(rhs::blocks(0..inputs, 0..outputs).map(|block| block.inputs));
        sums.resize_with(sums.len().max(blocks.len()), Rhs::default);
        blocks.iter().zip(&mut *sums).for_each(|(block, sums)| sums.shape(block.len(), rows));
        let mut add = |w: &PackedMatrix, outputs: Range<usize>, dy: RhsPanels<'_>, beta: Beta| {
            let mut blocks: Vec<_> = rhs::blocks(0..inputs, outputs).zip(&mut *sums).collect();
            shared.each_mut(&mut blocks, |_, (block, sums)| sums.add_block(isa, w, block, 0, (dy, beta)));
        };
        inner.clear(width, rows);
        for step in rhs::steps(outputs) {
            let first = step.start;
            rhs.fill(isa, &dy[first..], stride, step.len(), rows);
            let beta = if first == 0 { Beta::Zero } else { Beta::One };
            add(w, step.clone(), rhs.slice(&(0..step.len())), beta);
            let Some(LoraBranch { b, blocks, .. }) = branch else { continue };
            for (of, seen) in blocks {
                // Whole panels of outputs: those of another block are zero here.
                let part = (of.start / PANEL * PANEL).max(first)..of.end.min(step.end);
                if !part.is_empty() {
                    let dy = rhs.slice(&(part.start - first..part.end - first));
                    inner.add(isa, b, (seen.clone(), seen.start), part.clone(), dy);
                }
            }
        }
        if let Some(LoraBranch { a, .. }) = branch {
            add(a, 0..width, inner.slice(&(0..width)), Beta::One);
            inner.read_to(isa, du, (width, 0));
        }
        blocks.iter().zip(&*sums).for_each(|(block, sums)| sums.read_to(isa, dx, (inputs, block.start)));
        GRADIENTS.set(gradients);
    };
    thread_pool::each_mut_joined(&mut row_chunks, part, overlap);
}

/// Inner rows that the outputs of `panels` see.
fn seen(blocks: &[(Range<usize>, Range<usize>)], panels: &Range<usize>) -> Range<usize> {
    let outputs = panels.start * PANEL..panels.end * PANEL;
    let mut seen =
        blocks.iter().filter(|(of, _)| of.start < outputs.end && outputs.start < of.end).map(|(_, inner)| inner);
    let first = seen.next().cloned().unwrap_or_default();
    seen.fold(first, |all, inner| all.start.min(inner.start)..all.end.max(inner.end))
}

trait Width {
    fn width(&self) -> usize;
}

impl Width for Option<LoraBranch<'_>> {
    fn width(&self) -> usize {
        self.map_or(0, |branch| branch.a.outputs())
    }
}

/// The number of rows, once inputs, inner rows and outputs are known to be as long as that says.
fn check(w: &PackedMatrix, branch: Option<LoraBranch<'_>>, [inputs, inner, outputs]: [usize; 3]) -> usize {
    let rows = inputs / w.inputs();
    let stride = outputs / rows.max(1);
    let fits = inputs == rows * w.inputs() && inner == rows * branch.width();
    let fits = fits && outputs == rows * stride && (rows == 0 || stride >= w.outputs());
    assert!(fits, "rows of {w:?}: {inputs}, {inner} and {outputs} floats");
    if let Some(LoraBranch { a, b, .. }) = branch {
        let fits = a.inputs() == w.inputs() && b.outputs() == w.outputs() && b.inputs() == a.outputs();
        assert!(fits, "{a:?} and {b:?} beside {w:?}");
    }
    rows
}

/// Parts of `rows` rows, whole steps of `step` rows, of which `depth` floats a row stay in the cache.
pub(super) fn row_chunks(rows: usize, step: usize, depth: usize) -> Vec<Range<usize>> {
    let (steps, threads) = (rows.div_ceil(step), thread_pool::threads());
    let most = (CACHED / depth).max(CHUNK_ROWS_MIN).div_ceil(step);
    let row_chunks = (threads * steps.div_ceil(most * threads)).min(steps);
    let bound = |part: usize| (steps * part / row_chunks * step).min(rows);
    (0..row_chunks).map(|part| bound(part)..bound(part + 1)).collect()
}
