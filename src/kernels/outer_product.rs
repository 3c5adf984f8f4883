//! Sums of outer products over the rows of two matrices, `x^T u`: the gradients of a LoRA branch.

use super::column_writer::ColumnWriter;
use super::isa::Isa;
use super::layout::{Lane, NO_SUM, PANEL, tiles};
use super::operands::{Beta, RhsPanels, Strided};
use super::packed_rows::{PackedRows, pack_tiles, panel_groups};
use super::parallel::PARALLEL_MIN;
use super::prefetch::prefetch;
use super::thread_pool;
use super::tile::tile;
use super::transpose16::transpose_lanes;
use std::cell::{Cell, RefCell};
use std::ops::Range;

/// Panels of `x` that a thread takes at a time: those of a row are neighbours in memory.
const PANELS: usize = 6;
/// Rows in one step of the tiles: 16 of their columns stay in the first-level cache.
const DEPTH: usize = 256;
/// Rows between the one that is read and the one that is prefetched.
const PREFETCH_ROWS: usize = 8;

/// Some columns of a row-major matrix.
#[derive(Clone)]
pub(crate) struct ColumnSlice<'a> {
    pub(crate) values: &'a [f32],
    /// Floats of a row.
    pub(crate) width: usize,
    /// The columns that count.
    pub(crate) columns: Range<usize>,
}

/// A thread's buffers, reused.
#[derive(Default)]
struct Scratch {
    /// Columns of `x`, panel by panel: unpacked, rows are too far apart for the cache.
    lanes: Vec<Lane>,
    /// Sums of these panels, by column of `u`.
    sums: Vec<Lane>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
    /// Buffers of `u` from earlier products.
    static PACKED_BUFFERS: RefCell<Vec<Vec<f32>>> = RefCell::default();
}

/// `x^T u`, computed piece by piece. Each sum is one chain in the order of the rows.
pub(crate) struct OuterProduct<'a> {
    isa: Isa,
    x: ColumnSlice<'a>,
    /// Columns of `u`, packed.
    u: Vec<f32>,
    /// Columns of `u` that count, and rows.
    count: usize,
    depth: usize,
    /// One output; equal shares of the rows if transposed.
    out: Vec<ColumnWriter<'a>>,
    is_transposed: bool,
}

impl Drop for OuterProduct<'_> {
    fn drop(&mut self) {
        PACKED_BUFFERS.with_borrow_mut(|free| free.push(std::mem::take(&mut self.u)));
    }
}

impl<'a> OuterProduct<'a> {
    /// `x^T u`, written to `out` as `(columns of x, columns of u)` row-major.
    ///
    /// # Panics
    /// Where columns are out of range, the matrices differ in rows, or `out` has another size.
    pub(crate) fn new(x: &ColumnSlice<'a>, u: &ColumnSlice<'_>, out: &'a mut [f32]) -> Self {
        Self::with(x, u, [out].into_iter(), false)
    }

    /// The transpose `u^T x`, `(columns of u, columns of x)`, written to `out` by equal shares of its rows.
    ///
    /// # Panics
    /// As [`OuterProduct::new`].
    pub(crate) fn transposed(x: &ColumnSlice<'a>, u: &ColumnSlice<'_>, out: &'a mut [Vec<f32>]) -> Self {
        Self::with(x, u, out.iter_mut().map(Vec::as_mut_slice), true)
    }

    fn with(
        x: &ColumnSlice<'a>,
        u: &ColumnSlice<'_>,
        out: impl ExactSizeIterator<Item = &'a mut [f32]>,
        is_transposed: bool,
    ) -> Self {
        let (depth, columns, count) = (x.values.len() / x.width, x.columns.len(), u.columns.len());
        let fits = u.values.len() == depth * u.width && x.columns.end <= x.width && u.columns.end <= u.width;
        let share = columns * count / out.len();
        let whole = |out: &'a mut [f32]| {
            assert!(fits && out.len() == share, "columns of {depth} rows of {} and of {}", x.width, u.width);
            ColumnWriter::new(out, if is_transposed { columns } else { count })
        };
        let out: Vec<_> = out.map(whole).collect();
        let (isa, mut packed) = (Isa::detect(), PACKED_BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default());
        pack_tiles(isa, Strided::columns(&u.values[u.columns.start..], u.width), count, depth, &mut packed);
        Self { isa, x: x.clone(), u: packed, count, depth, out, is_transposed }
    }

    /// Number of pieces.
    pub(crate) fn pieces(&self) -> usize {
        self.x.columns.len().div_ceil(PANELS * PANEL)
    }

    /// Computes all pieces, on several threads if there is enough work.
    pub(crate) fn run(&self) {
        if self.depth * self.x.columns.len() * self.count < PARALLEL_MIN {
            (0..self.pieces()).for_each(|piece| self.piece(piece));
        } else {
            thread_pool::each(self.pieces(), |piece| self.piece(piece));
        }
    }

    /// Computes piece `piece`; no other thread may compute the same piece.
    pub(crate) fn piece(&self, piece: usize) {
        let (x, u, first) = (&self.x, PackedRows::new(&self.u, self.depth), piece * PANELS * PANEL);
        let part = x.columns.start + first..x.columns.end.min(x.columns.start + first + PANELS * PANEL);
        let panels = part.len().div_ceil(PANEL);
        let mut scratch = SCRATCH.take();
        let Scratch { lanes, sums } = &mut scratch;
        sums.clear();
        sums.resize(panels * self.count, NO_SUM);
        lanes.resize(panels * DEPTH, NO_SUM);
        for rows in (0..self.depth).step_by(DEPTH).map(|first| first..self.depth.min(first + DEPTH)) {
            for (row, index) in rows.clone().enumerate() {
                let of = |row: usize| &x.values[row * x.width..][part.clone()];
                prefetch(of((index + PREFETCH_ROWS).min(self.depth - 1)));
                let (whole, rest) = of(index).as_chunks::<PANEL>();
                for (values, lanes) in whole.iter().zip(lanes.chunks_exact_mut(DEPTH)) {
                    lanes[row].0 = *values;
                }
                if !rest.is_empty() {
                    lanes[whole.len() * DEPTH + row].0[..rest.len()].copy_from_slice(rest);
                }
            }
            let all = RhsPanels { lanes, depth: rows.len(), stride: DEPTH, count: panels };
            for panels in panel_groups(self.isa, 0..panels) {
                let sums = &mut sums[panels.start * self.count..];
                for columns in tiles(self.count, self.isa.rows()) {
                    let (height, u) = (columns.len(), u.tile(&columns, &rows, &[]));
                    let to = (&mut sums[columns.start..], self.count);
                    tile(self.isa, height, u, all.slice(&panels), to, Beta::One);
                }
            }
        }
        for (sums, first) in sums.chunks_exact(self.count).zip((first..).step_by(PANEL)) {
            self.write(first, sums);
        }
        SCRATCH.set(scratch);
    }

    /// Writes the sums of 16 columns of `x` from `first` on; each lane is a column of `u`.
    fn write(&self, first: usize, sums: &[Lane]) {
        if self.is_transposed {
            let shares = self.out.iter().zip(sums.chunks_exact(self.count / self.out.len()));
            let rows = shares.flat_map(|(out, sums)| sums.iter().enumerate().map(move |(row, sums)| (out, row, sums)));
            return rows.for_each(|(out, row, sums)| out.write(row, first, &sums.0));
        }
        let mut transposed = [NO_SUM; PANEL];
        for (sums, left) in sums.chunks(PANEL).zip((0..).step_by(PANEL)) {
            transpose_lanes(self.isa, sums, &mut transposed);
            (first..self.x.columns.len())
                .zip(&transposed)
                .for_each(|(row, lane)| self.out[0].write(row, left, &lane.0));
        }
    }
}
