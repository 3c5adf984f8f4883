//! Weights in f32: what the learner differentiates through, forward and backward over the same panels.

use super::isa::Isa;
use super::pages::filled;
use super::strided::Strided;
use super::team::Filler;
use super::{Columns, Lane, Line, NO_SUM, NO_SUMS, PANEL, each_panel, sweep, tiles};

/// Rows from which threads share out the rows instead of the outputs.
const SWEEP_MIN: usize = 96;

/// A matrix `W` of `(outputs, inputs)` in panels of 16 outputs.
#[derive(Clone)]
pub struct PackedMatrix {
    /// `panels x inputs` lanes; outputs past the last are zero.
    pub(super) lanes: Vec<Lane>,
    outputs: usize,
    inputs: usize,
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix({} x {})", self.outputs, self.inputs)
    }
}

impl PackedMatrix {
    /// Packs row-major matrices of `(outputs_i, inputs)`, one below the other.
    ///
    /// # Panics
    /// Where a part's length is no multiple of `inputs`.
    pub fn new(parts: &[&[f32]], inputs: usize) -> Self {
        assert!(inputs > 0, "whole rows only");
        let mut packed = Self::zeros(parts.iter().map(|part| part.len() / inputs).sum(), inputs);
        packed.refill(parts);
        packed
    }

    /// A matrix of zeros.
    pub(crate) fn zeros(outputs: usize, inputs: usize) -> Self {
        let lanes = filled(usize::div_ceil(outputs, PANEL) * inputs, Line([0.0; PANEL]));
        Self { lanes, outputs, inputs }
    }

    /// Takes the values of matrices that together have the same size, in the memory that is there.
    ///
    /// # Panics
    /// Where they have not.
    pub(crate) fn refill(&mut self, parts: &[&[f32]]) {
        let (inputs, floats) = (self.inputs, parts.iter().map(|part| part.len()).sum::<usize>());
        let whole = parts.iter().all(|part| part.len().is_multiple_of(inputs));
        assert!(whole && floats == self.outputs * inputs, "whole rows only, and as many as {self:?} has");
        let rows = parts.iter().flat_map(|part| part.chunks_exact(inputs));
        for (row, values) in rows.enumerate() {
            let panel = &mut self.lanes[row / PANEL * inputs..][..inputs];
            for (lane, &value) in panel.iter_mut().zip(values) {
                lane.0[row % PANEL] = value;
            }
        }
    }

    /// Takes `values`, rows of `width` of them, times `scale` at row `first` and column `left` and behind; the rest stays.
    ///
    /// # Panics
    /// Where they do not lie in the matrix.
    pub(crate) fn refill_block(&mut self, (first, left): (usize, usize), values: &[f32], width: usize, scale: f32) {
        let fits = left + width <= self.inputs && first + values.len() / width <= self.outputs;
        assert!(fits && values.len().is_multiple_of(width), "{} values at {first}, {left} of {self:?}", values.len());
        for (row, values) in (first..).zip(values.chunks_exact(width)) {
            let lanes = &mut self.lanes[row / PANEL * self.inputs + left..][..width];
            lanes.iter_mut().zip(values).for_each(|(lane, value)| lane.0[row % PANEL] = scale * value);
        }
    }

    /// Rows of the matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        std::mem::size_of_val(self.lanes.as_slice())
    }

    /// Copies row `row` into `out`: the embedding of a token.
    ///
    /// # Panics
    /// Where `row` or the length of `out` is not the matrix's.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.outputs && out.len() == self.inputs, "row {row} of {self:?}");
        let panel = &self.lanes[row / PANEL * self.inputs..][..self.inputs];
        for (out, lane) in out.iter_mut().zip(panel) {
            *out = lane.0[row % PANEL];
        }
    }

    /// `y = x W^T`: `x` is `(rows, inputs)`, `y` becomes `(rows, outputs)`, both row-major.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        let rows = x.len() / self.inputs;
        if rows >= SWEEP_MIN {
            return sweep::forward(self, None, x, &mut [], y);
        }
        assert!(x.len() == rows * self.inputs && y.len() == rows * self.outputs, "x and y of {self:?}");
        let (y, isa, x) = (Columns::new(y, self.outputs), Isa::detect(), Strided::rows(x, self.inputs));
        each_panel(self.outputs, rows * self.inputs * self.outputs, |panel| {
            let put = &mut |row, sums: &_| y.write(row, panel * PANEL, sums);
            product(isa, (x, Tile::Strided), rows, self.panel(panel), put);
        });
    }

    /// `dx = dy W`: `dy` is `(rows, outputs)`, `dx` becomes `(rows, inputs)`, both row-major.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32]) {
        sweep::backward(self, None, dy, [&mut [], dx], Filler::NONE);
    }

    /// Panel `panel` of `W`: 16 outputs, one lane an input.
    pub(super) fn panel(&self, panel: usize) -> &[Lane] {
        &self.lanes[panel * self.inputs..][..self.inputs]
    }

    /// What lies from input `input` of `panel` on: 16 outputs are as many lanes as the matrix has inputs.
    pub(super) fn lanes_from(&self, panel: usize, input: usize) -> &[Lane] {
        &self.lanes[panel * self.inputs + input..]
    }
}

/// Rows as a tile reads them.
#[derive(Clone, Copy)]
pub(super) enum Tile<'a> {
    /// As they lie; the panel comes from memory, and is asked for on the way.
    Strided(Strided<'a>),
    /// As they lie; the panel is in the cache.
    Near(Strided<'a>),
    /// `(depth, rows)`. On the way the lanes `next` are asked for, as many as there is time for.
    Ordered { rows: &'a [f32], next: &'a [Lane] },
    /// Inputs of packed weights: element `k` of a row is the weight of output `k`. 16 outputs are `inputs` lanes long. `next`
    /// as above.
    Turned { weights: &'a [Lane], inputs: usize, next: &'a [Lane] },
}

impl Tile<'_> {
    /// Whether there are `height` rows of `depth` elements.
    fn holds(self, height: usize, depth: usize) -> bool {
        match self {
            Self::Strided(values) | Self::Near(values) => values.holds(height, depth),
            Self::Ordered { rows, .. } => rows.len() == height * depth,
            Self::Turned { weights, inputs, .. } => {
                depth == 0 || (depth.div_ceil(PANEL) - 1) * inputs + height <= weights.len()
            }
        }
    }
}

/// The first `rows` rows of `a`, read as `read` says, times one panel as deep, handed on row by row.
pub(super) fn product<'a>(
    isa: Isa,
    (a, read): (Strided<'a>, fn(Strided<'a>) -> Tile<'a>),
    rows: usize,
    lanes: &[Lane],
    put: &mut impl FnMut(usize, &[f32; PANEL]),
) {
    let mut sums = NO_SUMS;
    for rows in tiles(rows, isa.rows()) {
        tile(isa, rows.len(), read(a.below(rows.start)), lanes, (&mut sums, Begun::No));
        for (row, sums) in rows.zip(&sums) {
            put(row, &sums.0);
        }
    }
}

/// Whether a tile adds to sums that are there, or begins them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    Yes,
    No,
}

/// Adds `height` rows, each as deep as there are lanes, times one panel: `sums[r][c] += sum_k a[r][k] * lanes[k][c]`, or puts
/// that there where sums are not begun.
#[inline(always)]
pub(super) fn tile(isa: Isa, height: usize, a: Tile<'_>, lanes: &[Lane], (sums, begun): (&mut [Lane], Begun)) {
    assert!(
        (1..=isa.rows().min(sums.len())).contains(&height) && a.holds(height, lanes.len()),
        "a tile of {height} rows"
    );
    // Nearly all tiles are as high as can be: choosing among all heights takes longer than some of them.
    #[cfg(target_arch = "x86_64")]
    {
        if isa == Isa::Avx2 && height == 6 {
            // SAFETY: the processor has the instructions, and `a` holds `height` rows as deep as the panel.
            return unsafe { super::x86::tile_avx2::<6, 1>(a, [lanes], [sums], begun) };
        }
        if isa.is_wide() && height == 12 {
            // SAFETY: as above.
            return unsafe { super::x86::tile_avx512::<12, 1>(a, [lanes], [sums], begun) };
        }
    }
    lower_tile(isa, height, a, lanes, (sums, begun));
}

/// A panel, and the sums of a tile with it.
pub(super) type Summed<'a> = (&'a [Lane], &'a mut [Lane]);

/// A [`tile`], and one of another panel as deep where there is a `twin`: with enough registers for both, elements of rows are
/// read once.
#[inline(always)]
pub(super) fn twin_tile(
    isa: Isa,
    height: usize,
    a: Tile<'_>,
    (lanes, sums): Summed<'_>,
    twin: Option<Summed<'_>>,
    begun: Begun,
) {
    let Some((other, others)) = twin else { return tile(isa, height, a, lanes, (sums, begun)) };
    #[cfg(target_arch = "x86_64")]
    if isa.is_wide() {
        let fits = (1..=isa.rows().min(sums.len()).min(others.len())).contains(&height);
        let fits = fits && lanes.len() == other.len() && a.holds(height, lanes.len());
        assert!(fits, "a tile of {height} rows and two panels");
        if height == 12 {
            // SAFETY: the processor has the instructions, and `a` holds `height` rows as deep as both panels.
            return unsafe { super::x86::tile_avx512::<12, 2>(a, [lanes, other], [sums, others], begun) };
        }
        return lower_twin_tile(height, a, [lanes, other], ([sums, others], begun));
    }
    tile(isa, height, a, lanes, (sums, begun));
    tile(isa, height, a, other, (others, begun));
}

/// Calls a tile of a height that is known when it runs.
#[cfg(target_arch = "x86_64")]
macro_rules! by_height {
    ($height:ident, $tile:ident<$panels:literal>: $($h:literal)+, $a:expr, $lanes:expr, $sums:expr, $begun:expr) => {
        match $height {
            // SAFETY: the processor has the instructions, and `a` holds `height` rows as deep as the panels.
            $($h => unsafe { super::x86::$tile::<$h, $panels>($a, $lanes, $sums, $begun) },)+
            _ => unreachable!("the height was just checked"),
        }
    };
}

/// A [`twin_tile`] of AVX-512 that is not as high as can be; the sizes fit.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn lower_twin_tile(height: usize, a: Tile<'_>, lanes: [&[Lane]; 2], (sums, begun): ([&mut [Lane]; 2], Begun)) {
    by_height!(height, tile_avx512<2>: 1 2 3 4 5 6 7 8 9 10 11, a, lanes, sums, begun);
}

/// A [`tile`] that is not as high as can be, or of any height without intrinsics; the sizes fit.
#[inline(never)]
fn lower_tile(isa: Isa, height: usize, a: Tile<'_>, lanes: &[Lane], (sums, begun): (&mut [Lane], Begun)) {
    #[cfg(target_arch = "x86_64")]
    {
        if isa.is_wide() {
            return by_height!(height, tile_avx512<1>: 1 2 3 4 5 6 7 8 9 10 11, a, [lanes], [sums], begun);
        }
        if isa == Isa::Avx2 {
            return by_height!(height, tile_avx2<1>: 1 2 3 4 5, a, [lanes], [sums], begun);
        }
    }
    if begun == Begun::No {
        sums[..height].fill(NO_SUM);
    }
    match a {
        Tile::Strided(a) | Tile::Near(a) => {
            portable_tile(height, lanes, sums, |row, k| a.values[row * a.row + k * a.step])
        }
        Tile::Ordered { rows, .. } => portable_tile(height, lanes, sums, |row, k| rows[k * height + row]),
        Tile::Turned { weights, inputs, .. } => {
            portable_tile(height, lanes, sums, |row, k| weights[k / PANEL * inputs + row].0[k % PANEL]);
        }
    }
}

/// The same product without intrinsics, over elements `at(row, k)`.
fn portable_tile(height: usize, lanes: &[Lane], sums: &mut [Lane], at: impl Fn(usize, usize) -> f32) {
    for (k, lane) in lanes.iter().enumerate() {
        for (row, sums) in sums.iter_mut().enumerate().take(height) {
            let factor = at(row, k);
            for (sum, weight) in sums.0.iter_mut().zip(lane.0) {
                *sum += factor * weight;
            }
        }
    }
}
