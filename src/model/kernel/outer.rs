//! Products over the rows of two matrices, `x^T u`: what the gradients of a low-rank branch are made of.

use super::full::{tile, transpose};
use super::isa::Isa;
use super::ordered::{Ordered, order};
use super::strided::Strided;
use super::{Columns, Lane, NO_SUM, PANEL, PARALLEL_MIN, prefetch, team, tiles};
use std::cell::Cell;
use std::ops::Range;

/// Panels of `x` that a thread takes at a time: a row's lie side by side in memory.
const PANELS: usize = 4;
/// Rows that tiles go at a time: 16 columns of them stay in the first cache.
const DEPTH: usize = 256;

/// Rows between the one that is read and the one that is asked for: they lie far apart.
const AHEAD: usize = 8;

/// Some columns of a row-major matrix.
#[derive(Clone)]
pub(crate) struct Slice<'a> {
    pub(crate) values: &'a [f32],
    /// Floats of a row.
    pub(crate) width: usize,
    /// Those that count.
    pub(crate) columns: Range<usize>,
}

/// What a thread works with, used again.
#[derive(Default)]
struct Scratch {
    /// Columns of `x`, panel by panel: as they lie, a row's are too far from the next row's for the cache.
    lanes: Vec<Lane>,
    /// Sums of these panels, by column of `u`.
    sums: Vec<Lane>,
}

thread_local! {
    /// Columns of `u` as tiles read them.
    static ORDERED: Cell<Vec<f32>> = Cell::default();
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// `x^T u`, `(columns of x, columns of u)` in row-major order. Each sum is one chain in the order of the rows.
///
/// # Panics
/// Where the columns are not the matrices', or the matrices have not the same number of rows.
pub(crate) fn outer(x: &Slice<'_>, u: &Slice<'_>) -> Vec<f32> {
    let (columns, count) = (x.columns.len(), u.columns.len());
    let mut out = vec![0.0; columns * count];
    let (to, isa) = (Columns::new(&mut out, count), Isa::detect());
    each_panel(x, u, |first, sums| {
        for (sums, left) in sums.chunks(PANEL).zip((0..).step_by(PANEL)) {
            let (mut square, mut turned) = ([NO_SUM; PANEL], [NO_SUM; PANEL]);
            square[..sums.len()].copy_from_slice(sums);
            transpose(isa, &square, &mut turned);
            (first..columns).zip(&turned).for_each(|(column, lane)| to.write(column, left, &lane.0));
        }
    });
    out
}

/// The transpose of [`outer`], `(columns of u, columns of x)`.
///
/// # Panics
/// As [`outer`].
pub(crate) fn outer_turned(x: &Slice<'_>, u: &Slice<'_>) -> Vec<f32> {
    let mut out = vec![0.0; x.columns.len() * u.columns.len()];
    let to = Columns::new(&mut out, x.columns.len());
    each_panel(x, u, |first, sums| sums.iter().enumerate().for_each(|(row, sums)| to.write(row, first, &sums.0)));
    out
}

/// `put(first, sums)` for each 16 columns of `x`, counted from the first that counts: a column of `u` a lane. On several
/// threads where it pays.
fn each_panel(x: &Slice<'_>, u: &Slice<'_>, put: impl Fn(usize, &[Lane]) + Sync) {
    let (depth, columns, count) = (x.values.len() / x.width, x.columns.len(), u.columns.len());
    let fits = u.values.len() == depth * u.width && x.columns.end <= x.width && u.columns.end <= u.width;
    assert!(fits, "columns of {depth} rows of {} and of {}", x.width, u.width);
    let (isa, mut ordered) = (Isa::detect(), ORDERED.take());
    order(isa, Strided::columns(&u.values[u.columns.start..], u.width), count, depth, &mut ordered);
    let u = Ordered::new(&ordered, depth);
    let group = |group: usize| {
        let mut scratch = SCRATCH.take();
        let Scratch { lanes, sums } = &mut scratch;
        let first = group * PANELS * PANEL;
        let part = x.columns.start + first..x.columns.end.min(x.columns.start + first + PANELS * PANEL);
        let panels = part.len().div_ceil(PANEL);
        sums.clear();
        sums.resize(panels * count, NO_SUM);
        lanes.resize(panels * DEPTH, NO_SUM);
        for rows in (0..depth).step_by(DEPTH).map(|first| first..depth.min(first + DEPTH)) {
            for (row, index) in rows.clone().enumerate() {
                let of = |row: usize| &x.values[row * x.width..][part.clone()];
                prefetch(of((index + AHEAD).min(depth - 1)));
                let (whole, rest) = of(index).as_chunks::<PANEL>();
                for (values, lanes) in whole.iter().zip(lanes.chunks_exact_mut(DEPTH)) {
                    lanes[row].0 = *values;
                }
                if !rest.is_empty() {
                    lanes[whole.len() * DEPTH + row].0[..rest.len()].copy_from_slice(rest);
                }
            }
            for (lanes, sums) in lanes.chunks_exact(DEPTH).zip(sums.chunks_exact_mut(count)) {
                for columns in tiles(count, isa.rows()) {
                    tile(isa, columns.len(), u.tile(&columns, &rows), &lanes[..rows.len()], &mut sums[columns]);
                }
            }
        }
        sums.chunks_exact(count).zip((first..).step_by(PANEL)).for_each(|(sums, first)| put(first, sums));
        SCRATCH.set(scratch);
    };
    let groups = columns.div_ceil(PANELS * PANEL);
    if depth * columns * count < PARALLEL_MIN {
        (0..groups).for_each(group)
    } else {
        team::each(groups, group)
    }
    ORDERED.set(ordered);
}
