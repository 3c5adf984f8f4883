//! Rows as the right side of a product, and what adds up there: `dx^T = W^T dy^T`, since `W^T` can be read from the
//! panels of `W` as the left side.

use super::ahead::Ahead;
use super::full::{PackedMatrix, Tile, tile, transpose};
use super::isa::Isa;
use super::{Lane, NO_SUM, PANEL, tiles};
use std::ops::Range;

/// Outputs of `W` that rows meet at a time.
pub(super) const OUTPUTS: usize = 256;
/// Inputs of so many outputs that stay in the second cache while rows pass by.
const INPUTS: usize = 48;

/// Rows in panels of 16, each `(depth, 16)`; rows past the last are zero.
#[derive(Default)]
pub(super) struct Right {
    lanes: Vec<Lane>,
    depth: usize,
    rows: usize,
}

impl Right {
    /// Becomes `rows` rows of `depth` elements, whatever they are.
    pub(super) fn shape(&mut self, depth: usize, rows: usize) {
        (self.depth, self.rows) = (depth, rows);
        let lanes = rows.div_ceil(PANEL) * depth;
        if self.lanes.len() < lanes {
            self.lanes.resize(lanes, NO_SUM);
        }
    }

    /// Becomes `rows` rows of `depth` zeros.
    pub(super) fn clear(&mut self, depth: usize, rows: usize) {
        self.shape(depth, rows);
        self.panels_mut().for_each(|lanes| lanes.fill(NO_SUM));
    }

    /// Elements of all rows, panel by panel.
    pub(super) fn panels(&self) -> impl Iterator<Item = &[Lane]> + Clone {
        self.lanes.chunks_exact(self.depth.max(1)).take(self.rows.div_ceil(PANEL))
    }

    fn panels_mut(&mut self) -> impl Iterator<Item = &mut [Lane]> {
        self.lanes.chunks_exact_mut(self.depth.max(1)).take(self.rows.div_ceil(PANEL))
    }

    /// Becomes the first `depth` elements of rows that are `width` apart.
    pub(super) fn fill(&mut self, isa: Isa, values: &[f32], width: usize, depth: usize, rows: usize) {
        self.shape(depth, rows);
        turn_rows(isa, (values, width), rows, self.panels_mut());
    }

    /// Becomes `rows` rows from panels of 16 elements, `(panels, rows)` lanes.
    pub(super) fn fill_turned(&mut self, isa: Isa, lanes: &[Lane], rows: usize) {
        self.shape(lanes.len() / rows * PANEL, rows);
        for (panel, to) in self.panels_mut().enumerate() {
            let count = PANEL.min(rows - panel * PANEL);
            for (turned, lanes) in to.as_chunks_mut::<PANEL>().0.iter_mut().zip(lanes.chunks_exact(rows)) {
                turn(isa, &lanes[panel * PANEL..][..count], turned);
            }
        }
    }

    /// Multiplies each row by its factor.
    pub(super) fn scale_rows(&mut self, factors: impl Iterator<Item = f32>) {
        let factors: Vec<f32> = factors.collect();
        for (factors, lanes) in factors.chunks(PANEL).zip(self.panels_mut()) {
            if factors.iter().all(|factor| *factor == 1.0) {
                continue;
            }
            for lane in lanes {
                lane.0.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
            }
        }
    }

    /// `put(row, first element, values)` for each row and each 16 of its elements, the last ones followed by zeros.
    pub(super) fn read(&self, isa: Isa, mut put: impl FnMut(usize, usize, &[f32; PANEL])) {
        for (panel, lanes) in self.panels().enumerate() {
            for (lanes, first) in lanes.chunks(PANEL).zip((0..).step_by(PANEL)) {
                let mut turned = [NO_SUM; PANEL];
                turn(isa, lanes, &mut turned);
                for (row, lane) in (panel * PANEL..self.rows).zip(&turned) {
                    put(row, first, &lane.0);
                }
            }
        }
    }

    /// Writes the rows to columns of `out`, whose rows are `width` apart, from column `first` on.
    pub(super) fn read_to(&self, isa: Isa, out: &mut [f32], (width, first): (usize, usize)) {
        let depth = self.depth;
        self.read(isa, |row, element, values| {
            let count = PANEL.min(depth - element);
            copy(&values[..count], &mut out[row * width + first + element..][..count]);
        });
    }

    /// Adds `dy W`, over `outputs` of `W`, a multiple of 16 the first: elements of the rows from `first` on are `inputs`
    /// of the result, `dy` has the panels of as many rows, of these outputs alone.
    pub(super) fn add<'d>(
        &mut self,
        isa: Isa,
        w: &PackedMatrix,
        (inputs, first): (Range<usize>, usize),
        outputs: Range<usize>,
        dy: impl Iterator<Item = &'d [Lane]> + Clone,
    ) {
        for block in blocks(inputs.clone(), outputs) {
            let first = first + block.inputs.start - inputs.start;
            self.add_block(isa, w, &block, first, dy.clone());
        }
    }

    /// [`Right::add`] of one block.
    pub(super) fn add_block<'d>(
        &mut self,
        isa: Isa,
        w: &PackedMatrix,
        Block { inputs, outputs, next }: &Block,
        first: usize,
        dy: impl Iterator<Item = &'d [Lane]>,
    ) {
        let steps = self.rows.div_ceil(PANEL) * inputs.len().div_ceil(isa.rows());
        let mut ahead = Ahead::new(w, next.0.clone(), next.1.clone(), steps);
        for (sums, dy) in self.panels_mut().zip(dy) {
            let sums = &mut sums[first..][..inputs.len()];
            for tile_inputs in tiles(inputs.len(), isa.rows()) {
                ahead.step();
                let weights = w.lanes_from(outputs.start / PANEL, inputs.start + tile_inputs.start);
                let turned = Tile::Turned { weights, inputs: w.inputs() };
                tile(isa, tile_inputs.len(), turned, dy, &mut sums[tile_inputs]);
            }
        }
    }
}

/// Inputs of some outputs of a matrix that meet rows together.
pub(super) struct Block {
    pub(super) inputs: Range<usize>,
    outputs: Range<usize>,
    /// Panels and their inputs that come next.
    next: (Range<usize>, Range<usize>),
}

/// Inputs `inputs` and outputs `outputs` of a matrix, block by block.
pub(super) fn blocks(inputs: Range<usize>, outputs: Range<usize>) -> impl Iterator<Item = Block> {
    let panels = outputs.start / PANEL..outputs.end.div_ceil(PANEL);
    let (start, count) = (inputs.start, inputs.len());
    let mut ranges = tiles(count, INPUTS).map(move |block| start + block.start..start + block.end).peekable();
    let first = ranges.peek().cloned().unwrap_or_default();
    std::iter::from_fn(move || {
        let inputs = ranges.next()?;
        // Behind the last inputs come the first ones of the next outputs.
        let next = match ranges.peek() {
            Some(next) => (panels.clone(), next.clone()),
            None => (panels.end..panels.end + panels.len(), first.clone()),
        };
        Some(Block { inputs, outputs: outputs.clone(), next })
    })
}

/// Turns rows that are `width` apart into panels of 16, each `(depth, 16)`; rows past the last become zero.
pub(super) fn turn_rows<'p>(
    isa: Isa,
    (values, width): (&[f32], usize),
    rows: usize,
    panels: impl Iterator<Item = &'p mut [Lane]>,
) {
    for (lanes, first_row) in panels.zip((0..).step_by(PANEL)) {
        for (lanes, first) in lanes.chunks_mut(PANEL).zip((0..).step_by(PANEL)) {
            let (mut square, mut turned) = ([NO_SUM; PANEL], [NO_SUM; PANEL]);
            for (lane, row) in square.iter_mut().zip(first_row..rows) {
                copy(&values[row * width + first..][..lanes.len()], &mut lane.0[..lanes.len()]);
            }
            transpose(isa, &square, &mut turned);
            lanes.copy_from_slice(&turned[..lanes.len()]);
        }
    }
}

/// Transposes up to 16 lanes; those that are not there are zero.
pub(super) fn turn(isa: Isa, lanes: &[Lane], to: &mut [Lane; PANEL]) {
    let mut square = [NO_SUM; PANEL];
    square[..lanes.len()].copy_from_slice(lanes);
    transpose(isa, &square, to);
}

/// Copies `from`; a whole panel is one store, the general copy a call.
pub(super) fn copy(from: &[f32], to: &mut [f32]) {
    match (<&[f32; PANEL]>::try_from(from), <&mut [f32; PANEL]>::try_from(&mut *to)) {
        (Ok(from), Ok(to)) => *to = *from,
        _ => to.copy_from_slice(from),
    }
}
