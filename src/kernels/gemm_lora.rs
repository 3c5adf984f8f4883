//! Linears over many rows, fused with a LoRA branch.
//!
//! A thread computes the whole product of a chunk of rows. A thread that is done takes outputs of the others' chunks;
//! in the backward pass it first takes the overlapping work, then inputs of the others' chunks. Every sum is one chain,
//! whichever thread computes it.

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

/// Floats of packed rows that stay in a core's second-level cache while weights stream through it.
const CACHED: usize = 3 << 15;
/// Rows of a chunk at least, whatever the cache: with fewer, weights are read too often.
const CHUNK_ROWS_MIN: usize = 96;

/// A LoRA branch of a linear, `y += (x A^T) B^T`; the columns of `x A^T` are its inner rows.
#[derive(Clone, Copy)]
pub(crate) struct LoraBranch<'a> {
    /// `(width, inputs)`.
    pub(crate) a: &'a PackedMatrix,
    /// `(outputs, width)`.
    pub(crate) b: &'a PackedMatrix,
    /// The nonzero blocks of `B`: outputs, and the inner columns that they depend on.
    pub(crate) blocks: &'a [(Range<usize>, Range<usize>)],
}

/// Gradients of a chunk's rows: `dy`, and the sums of `dx` and `du`.
#[derive(Default)]
struct Gradients {
    dy: Rhs,
    /// By block of inputs.
    dx: Vec<Rhs>,
    du: Rhs,
}

/// A chunk's packed rows of `x`, and of `u = x A^T`.
#[derive(Default)]
struct RowChunk {
    x: Vec<f32>,
    u: Vec<f32>,
}

// Reused: fresh memory costs as much as the computation on it.
thread_local! {
    static CHUNKS: Cell<Vec<RowChunk>> = Cell::default();
    /// Sums of the current panels, by row.
    static SUMS: Cell<Vec<Lane>> = Cell::default();
    static GRADIENTS: Cell<Gradients> = Cell::default();
}

/// `y = x W^T + u B^T` with `u = x A^T` if there is a branch: `x` is `(rows, inputs)`, `y` `(rows, outputs)` and `u`
/// `(rows, width)`, empty without a branch. The stride of `y` may exceed its width.
///
/// # Panics
/// Where the lengths do not fit.
pub(crate) fn forward(w: &PackedMatrix, branch: Option<LoraBranch<'_>>, x: &[f32], u: &mut [f32], y: &mut [f32]) {
    let rows = check(w, branch, [x.len(), u.len(), y.len()]);
    let (isa, inputs, width) = (Isa::detect(), w.inputs(), branch.width());
    let bounds = row_chunks(rows, isa.rows(), inputs);
    let mut chunks = CHUNKS.take();
    chunks.resize_with(chunks.len().max(bounds.len()), RowChunk::default);

    let mut u = u;
    let split = |(rows, chunk): (&Range<usize>, _)| {
        (rows.clone(), chunk, u.split_off_mut(..rows.len() * width).unwrap_or_default())
    };
    let mut unpacked: Vec<(_, &mut RowChunk, _)> = bounds.iter().zip(&mut chunks).map(split).collect();
    thread_pool::each_mut(&mut unpacked, |_, (rows, chunk, u)| {
        let x = Strided::rows(&x[rows.start * inputs..], inputs);
        pack_tiles(isa, x, rows.len(), inputs, &mut chunk.x);
        if let Some(LoraBranch { a, .. }) = branch {
            let (x, mut sums) = (PackedRows::new(&chunk.x, inputs), SUMS.take());
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
            pack_tiles(isa, Strided::rows(u, width), rows.len(), width, &mut chunk.u);
        }
    });

    let stride = y.len() / rows.max(1);
    let y = ColumnWriter::with_stride(y, w.outputs(), stride);
    let pieces = Vec::from_iter(panel_groups(isa, 0..w.outputs().div_ceil(PANEL)));
    thread_pool::each_of_parts(bounds.len(), pieces.len(), |chunk, piece| {
        let (mut sums, panels) = (SUMS.take(), pieces[piece].clone());
        let (rows, RowChunk { x, u }) = (&bounds[chunk], &chunks[chunk]);
        sums.resize(panels.len() * rows.len(), NO_SUM);
        let addend = branch.map(|LoraBranch { b, blocks, .. }| {
            (PackedRows { values: u, depth: width, columns: inner_columns(blocks, &panels) }, b)
        });
        let begin = |panel, tile: Range<usize>| tile.for_each(|row| y.fetch(rows.start + row, panel * PANEL));
        let end = |panel, tile: Range<usize>, sums: &[Lane]| {
            tile.zip(sums).for_each(|(row, sums)| y.write(rows.start + row, panel * PANEL, &sums.0));
        };
        multiply_panels(isa, (w, panels), &PackedRows::new(x, inputs), addend, &mut sums, (begin, end));
        SUMS.set(sums);
    });
    CHUNKS.set(chunks);
}

/// `dx = dy W + du A` with `du = dy B` if there is a branch, in the shapes of [`forward`]. Threads that are done go on
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
    let split = |rows: Range<usize>| {
        let du = du.split_off_mut(..rows.len() * width).unwrap_or_default();
        let dx = dx.split_off_mut(..rows.len() * inputs).unwrap_or_default();
        (&dy[rows.start * stride..rows.end * stride], du, dx)
    };
    let mut chunks: Vec<_> = row_chunks(rows, PANEL * isa.panels(), 3 * OUTPUTS).into_iter().map(split).collect();
    let work = |_, (dy, du, dx): &mut (&[f32], &mut [f32], &mut [f32]), shared: &SharedLoop| {
        let rows = dy.len() / stride;
        let mut gradients = GRADIENTS.take();
        let Gradients { dy: rhs, dx: sums, du: inner } = &mut gradients;
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
            for (outputs, columns) in blocks {
                // Whole panels of outputs: another block's outputs are zero in these columns.
                let outputs = (outputs.start / PANEL * PANEL).max(first)..outputs.end.min(step.end);
                if !outputs.is_empty() {
                    let dy = rhs.slice(&(outputs.start - first..outputs.end - first));
                    inner.add(isa, b, (columns.clone(), columns.start), outputs.clone(), dy);
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
    thread_pool::each_mut_joined(&mut chunks, work, overlap);
}

/// The inner columns that the outputs of `panels` depend on.
fn inner_columns(blocks: &[(Range<usize>, Range<usize>)], panels: &Range<usize>) -> Range<usize> {
    let outputs = panels.start * PANEL..panels.end * PANEL;
    let overlaps = |of: &Range<usize>| of.start < outputs.end && outputs.start < of.end;
    let mut columns = blocks.iter().filter(|(of, _)| overlaps(of)).map(|(_, columns)| columns);
    let first = columns.next().cloned().unwrap_or_default();
    columns.fold(first, |all, columns| all.start.min(columns.start)..all.end.max(columns.end))
}

trait Width {
    fn width(&self) -> usize;
}

impl Width for Option<LoraBranch<'_>> {
    fn width(&self) -> usize {
        self.map_or(0, |branch| branch.a.outputs())
    }
}

/// Checks the lengths of inputs, inner columns and outputs; returns the number of rows.
pub(super) fn check(w: &PackedMatrix, branch: Option<LoraBranch<'_>>, [inputs, inner, outputs]: [usize; 3]) -> usize {
    let rows = inputs / w.inputs();
    let stride = outputs / rows.max(1);
    let fits = inputs == rows * w.inputs() && inner == rows * branch.width();
    let fits = fits && outputs == rows * stride && (rows == 0 || stride >= w.outputs());
    assert!(fits, "rows of {w:?}: {inputs}, {inner} and {outputs} floats");
    if let Some(LoraBranch { a, b, .. }) = branch {
        let fits = a.inputs() == w.inputs() && b.outputs() == w.outputs() && b.inputs() == a.outputs();
        assert!(fits, "{a:?} and {b:?} for {w:?}");
    }
    rows
}

/// Splits `rows` rows into chunks of whole steps of `step` rows, such that `depth` floats of each row stay in the
/// cache.
pub(super) fn row_chunks(rows: usize, step: usize, depth: usize) -> Vec<Range<usize>> {
    let (steps, threads) = (rows.div_ceil(step), thread_pool::threads());
    let most = (CACHED / depth).max(CHUNK_ROWS_MIN).div_ceil(step);
    let chunks = (threads * steps.div_ceil(most * threads)).min(steps);
    let bound = |chunk: usize| (steps * chunk / chunks * step).min(rows);
    (0..chunks).map(|chunk| bound(chunk)..bound(chunk + 1)).collect()
}
