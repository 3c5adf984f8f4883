//! Linears over many rows in bf16 with sums in f32, fused with a LoRA branch, by the processor's dot products
//! (AVX-512 BF16): twice the multiply-adds of f32 in the same time.
//!
//! Both operands are rounded to bf16 as they are packed for one product, in pairs along its depth. The backward product
//! packs the transposed weights, so that it is the same product. A sum's order is that of the depth, whichever thread
//! computes it.

mod operands;
mod x86;

use super::column_writer::ColumnWriter;
use super::gemm_lora::{self, LoraBranch, row_chunks};
use super::layout::{Lane, NO_SUM, PANEL, tiles};
use super::packed_matrix::PackedMatrix;
use super::thread_pool::{self, Overlap};
use operands::{PairPanels, PairRows};
use std::cell::Cell;
use std::ops::Range;
use x86::{PANELS, ROWS};

/// Pairs of the depth in one step: the lines of a tile's panels stay in the first-level cache for all rows.
const DEPTH: usize = 144;
/// The operands of one linear, reused: fresh memory costs as much as the computation on it.
#[derive(Default)]
struct Scratch {
    /// The weights, and the branch's factor that is added.
    w: PairPanels,
    addend: PairPanels,
    /// The branch's other factor, by which the inner rows are computed.
    inner: PairPanels,
    x: PairRows,
    u: PairRows,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
    /// Sums of the current panels, by row.
    static SUMS: Cell<Vec<Lane>> = Cell::default();
}

/// `y = x W^T + u B^T` with `u = x A^T` if there is a branch, in the shapes of [`super::gemm_lora::forward`].
///
/// # Panics
/// Where the lengths do not fit, or the processor lacks the dot products.
pub(crate) fn forward(w: &PackedMatrix, branch: Option<LoraBranch<'_>>, x: &[f32], u: &mut [f32], y: &mut [f32]) {
    let rows = gemm_lora::check(w, branch, [x.len(), u.len(), y.len()]);
    let mut scratch = SCRATCH.take();
    let Scratch { w: panels, addend, inner, x: left, u: left_inner } = &mut scratch;
    panels.pack(w);
    left.pack(x, w.inputs(), rows, w.inputs());
    if let Some(LoraBranch { a, b, .. }) = branch {
        inner.pack(a);
        addend.pack(b);
        product(left, inner, None, (u, a.outputs()), Overlap::NONE);
        left_inner.pack(u, a.outputs(), rows, a.outputs());
    }
    let addend = branch.map(|_| (&*left_inner, &*addend));
    let stride = y.len() / rows.max(1);
    product(left, panels, addend, (y, stride), Overlap::NONE);
    SCRATCH.set(scratch);
}

/// `dx = dy W + du A` with `du = dy B` if there is a branch, in the shapes of [`super::gemm_lora::backward`], and then the
/// pieces of `overlap`.
///
/// # Panics
/// As [`forward`].
pub(crate) fn backward(
    w: &PackedMatrix,
    branch: Option<LoraBranch<'_>>,
    dy: &[f32],
    [du, dx]: [&mut [f32]; 2],
    overlap: Overlap<'_>,
) {
    let rows = gemm_lora::check(w, branch, [dx.len(), du.len(), dy.len()]);
    let stride = dy.len() / rows.max(1);
    let mut scratch = SCRATCH.take();
    let Scratch { w: panels, addend, inner, x: left, u: left_inner } = &mut scratch;
    panels.pack_transposed(w);
    left.pack(dy, stride, rows, w.outputs());
    if let Some(LoraBranch { a, b, .. }) = branch {
        inner.pack_transposed(b);
        addend.pack_transposed(a);
        product(left, inner, None, (du, a.outputs()), Overlap::NONE);
        left_inner.pack(du, a.outputs(), rows, a.outputs());
    }
    let addend = branch.map(|_| (&*left_inner, &*addend));
    product(left, panels, addend, (dx, w.inputs()), overlap);
    SCRATCH.set(scratch);
}

/// A product that is added to another's sums.
type Addend<'a> = Option<(&'a PairRows, &'a PairPanels)>;

/// `y = a b + a' b'` of all rows, where rows of `y` are `stride` floats apart.
fn product(a: &PairRows, b: &PairPanels, addend: Addend<'_>, (y, stride): (&mut [f32], usize), overlap: Overlap<'_>) {
    let rows = a.rows();
    let fits = y.len() == rows * stride && a.depth() <= b.depth();
    let fits = fits && addend.is_none_or(|(a, b)| a.rows() == rows && a.depth() <= b.depth());
    assert!(fits, "{rows} rows of {} pairs, {} floats", a.depth(), y.len());
    let chunks = row_chunks(rows, ROWS, a.depth().max(1));
    let groups = Vec::from_iter(tiles(b.panels(), PANELS));
    let y = ColumnWriter::with_stride(y, b.outputs(), stride);
    thread_pool::each_of_parts(chunks.len(), groups.len(), |chunk, group| {
        let (mut sums, rows, panels) = (SUMS.take(), &chunks[chunk], &groups[group]);
        multiply((a, b), addend, (rows, panels), &mut sums);
        for (panel, sums) in panels.clone().zip(sums.chunks_exact(rows.len())) {
            rows.clone().zip(sums).for_each(|(row, sums)| y.write(row, panel * PANEL, &sums.0));
        }
        SUMS.set(sums);
    });
    thread_pool::each(overlap.pieces, overlap.piece);
}

/// The sums of `rows` and `panels`, `(panels, rows)` lanes.
fn multiply(
    (a, b): (&PairRows, &PairPanels),
    addend: Addend<'_>,
    (rows, panels): (&Range<usize>, &Range<usize>),
    sums: &mut Vec<Lane>,
) {
    let count = rows.len();
    sums.clear();
    sums.resize(panels.len() * count, NO_SUM);
    let mut add = |a: &PairRows, b: &PairPanels| {
        for depth in tiles(a.depth(), DEPTH) {
            for tile in tiles(count, ROWS) {
                let place = rows.start + tile.start;
                x86::tile(tile.len(), a.from(place, &depth), b.from(panels, &depth), (&mut sums[tile.start..], count));
            }
        }
    };
    add(a, b);
    addend.iter().for_each(|(a, b)| add(a, b));
}

#[cfg(test)]
mod tests;
