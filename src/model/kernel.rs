//! Packed linear layers: `y = x W^T` and its transpose `dx = dy W`, over one copy of the weights.
//!
//! A weight is laid out once, at load, in panels of 16 output columns, input-major, so that the
//! micro-kernel reads it front to back. Every output is one chain of fused multiply-adds in the order of
//! the inputs, whatever the number of rows: a row's result does not depend on who shares its batch, to
//! the last bit. The only `unsafe` of the crate that touches weights lives here.

use rayon::prelude::*;

/// Output columns of one panel: two AVX2 registers of f32.
const PANEL: usize = 16;
/// Rows of one AVX2 tile: with two registers a row and two of weights, 14 of its 16 are in use.
const AVX2_ROWS: usize = 6;
/// Rows of one AVX-512 tile: one register a row and one of weights; more rows than 14 gain nothing.
const AVX512_ROWS: usize = 14;
/// Multiply-adds below which waking a second thread costs more than it gives.
const PARALLEL_MIN: usize = 1 << 17;

/// 16 weights that share an input, one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Lane([f32; PANEL]);

/// A matrix `W` of `(outputs, inputs)` in panels of 16 outputs.
#[derive(Clone)]
pub struct PackedMatrix {
    /// `panels x inputs` lanes; outputs past the last are zero.
    lanes: Vec<Lane>,
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
        assert!(inputs > 0 && parts.iter().all(|part| part.len().is_multiple_of(inputs)), "whole rows only");
        let outputs = parts.iter().map(|part| part.len() / inputs).sum();
        let mut lanes = vec![Lane([0.0; PANEL]); usize::div_ceil(outputs, PANEL) * inputs];
        let rows = parts.iter().flat_map(|part| part.chunks_exact(inputs));
        for (row, values) in rows.enumerate() {
            let panel = &mut lanes[row / PANEL * inputs..][..inputs];
            for (lane, &value) in panel.iter_mut().zip(values) {
                lane.0[row % PANEL] = value;
            }
        }
        Self { lanes, outputs, inputs }
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
        assert!(x.len() == rows * self.inputs && y.len() == rows * self.outputs, "x and y of {self:?}");
        let y = Columns::new(y, self.outputs);
        self.each_panel(rows, self.outputs, |panel| {
            let lanes = &self.lanes[panel * self.inputs..][..self.inputs];
            product(x, self.inputs, rows, lanes, &y, panel * PANEL);
        });
    }

    /// `dx = dy W`: `dy` is `(rows, outputs)`, `dx` becomes `(rows, inputs)`, both row-major.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32]) {
        let rows = dy.len() / self.outputs;
        assert!(dy.len() == rows * self.outputs && dx.len() == rows * self.inputs, "dy and dx of {self:?}");
        let dx = Columns::new(dx, self.inputs);
        self.each_panel(rows, self.inputs, |block| {
            let lanes = self.transposed_panel(block * PANEL);
            product(dy, self.outputs, rows, &lanes, &dx, block * PANEL);
        });
    }

    /// Inputs `first .. first + 16` as a panel of `W^T`: one lane an output.
    fn transposed_panel(&self, first: usize) -> Vec<Lane> {
        let width = PANEL.min(self.inputs - first);
        let mut lanes = vec![Lane([0.0; PANEL]); self.outputs.next_multiple_of(PANEL)];
        for (panel, out) in lanes.chunks_exact_mut(PANEL).enumerate() {
            let tile = &self.lanes[panel * self.inputs + first..][..width];
            for (column, lane) in tile.iter().enumerate() {
                for (out, value) in out.iter_mut().zip(lane.0) {
                    out.0[column] = value;
                }
            }
        }
        lanes.truncate(self.outputs);
        lanes
    }

    /// Runs `work` for each panel of `columns` result columns, on several threads where it pays.
    fn each_panel(&self, rows: usize, columns: usize, work: impl Fn(usize) + Send + Sync) {
        let panels = usize::div_ceil(columns, PANEL);
        if rows * self.outputs * self.inputs < PARALLEL_MIN || rayon::current_num_threads() == 1 {
            (0..panels).for_each(work);
        } else {
            // A few pieces a thread: enough to even out, few enough to keep the hand-over cheap.
            let piece = usize::div_ceil(panels, 4 * rayon::current_num_threads());
            (0..panels).into_par_iter().with_min_len(piece).for_each(work);
        }
    }
}

/// A row-major result whose column ranges are written from several threads.
struct Columns<'a> {
    start: *mut f32,
    len: usize,
    width: usize,
    _result: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: `write` is the only access, and each panel of columns is written by one thread only.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    fn new(result: &'a mut [f32], width: usize) -> Self {
        Self { start: result.as_mut_ptr(), len: result.len(), width, _result: std::marker::PhantomData }
    }

    /// Writes `values` to row `row` from column `first` on; what lies past the last column is dropped.
    fn write(&self, row: usize, first: usize, values: &[f32; PANEL]) {
        let count = PANEL.min(self.width - first);
        let offset = row * self.width + first;
        assert!(offset + count <= self.len, "row {row}, column {first} lies in the result");
        // SAFETY: the range was just checked, and no other panel writes these columns.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.start.add(offset), count) }
    }
}

/// `rows` rows of `a` (each `depth` long) times one panel of `depth` lanes, into 16 columns of `out`.
fn product(a: &[f32], depth: usize, rows: usize, lanes: &[Lane], out: &Columns<'_>, column: usize) {
    assert!(a.len() == rows * depth && lanes.len() == depth, "a panel as deep as the rows");
    // Tiles of nearly equal height: 32 rows are 6+6+5+5+5+5, not five sixes and a straggler of two.
    let isa = Isa::detect();
    let tiles = usize::div_ceil(rows, isa.rows());
    let mut row = 0;
    for tile in 0..tiles {
        let height = (rows - row).div_ceil(tiles - tile);
        let sums = isa.tile(height, &a[row * depth..][..height * depth], lanes);
        for (offset, sums) in sums[..height].iter().enumerate() {
            out.write(row + offset, column, sums);
        }
        row += height;
    }
}

/// Sums of one tile, `[row][column]`.
type Sums = [[f32; PANEL]; AVX512_ROWS];

/// The instructions that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if has_avx2_fma() {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Rows of its largest tile.
    fn rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => AVX512_ROWS,
            _ => AVX2_ROWS,
        }
    }

    /// `height` rows, each as deep as there are lanes, times one panel: `sums[r][c] = sum_k a[r][k] * lanes[k][c]`.
    fn tile(self, height: usize, a: &[f32], lanes: &[Lane]) -> Sums {
        assert!((1..=self.rows()).contains(&height) && a.len() == height * lanes.len(), "a tile of {height} rows");
        let mut sums = [[0.0; PANEL]; AVX512_ROWS];
        macro_rules! by_height {
            ($isa:ident, $tile:ident: $($h:literal)+) => {
                match height {
                    // SAFETY: the processor has the instructions, and `a` is `height` rows as deep as the panel.
                    $($h => unsafe { $isa::$tile::<$h>(a, lanes, &mut sums) },)+
                    _ => unreachable!("the height was just checked"),
                }
            };
        }
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => by_height!(x86, tile_avx512: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => by_height!(x86, tile_avx2: 1 2 3 4 5 6),
            Self::Portable => portable_tile(height, a, lanes, &mut sums),
        }
        sums
    }
}

/// The same product without intrinsics.
fn portable_tile(height: usize, a: &[f32], lanes: &[Lane], sums: &mut Sums) {
    for (k, lane) in lanes.iter().enumerate() {
        for (row, sums) in sums.iter_mut().enumerate().take(height) {
            let factor = a[row * lanes.len() + k];
            for (sum, weight) in sums.iter_mut().zip(lane.0) {
                *sum += factor * weight;
            }
        }
    }
}

/// Whether the fast paths of this processor's kernels can run.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx2_fma() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lane, Sums};
    use std::arch::x86_64::*;

    /// Lanes between the one in use and the one asked for from memory.
    const AHEAD: usize = 24;

    /// `H` rows (1 to 6) times one panel.
    ///
    /// # Safety
    /// The processor must have AVX2 and FMA, and `a` must hold `H` rows of `lanes.len()` floats.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn tile_avx2<const H: usize>(a: &[f32], lanes: &[Lane], sums: &mut Sums) {
        let depth = lanes.len();
        let mut low = [_mm256_setzero_ps(); H];
        let mut high = [_mm256_setzero_ps(); H];
        for (k, lane) in lanes.iter().enumerate() {
            // A hint: it may name an address past the panel, and never faults.
            _mm_prefetch::<_MM_HINT_T0>((&raw const *lane).wrapping_add(AHEAD).cast());
            // SAFETY: a lane is 16 floats aligned to 64 bytes; `k < depth`, and `a` holds `H * depth` floats.
            unsafe {
                let first = _mm256_load_ps(lane.0.as_ptr());
                let second = _mm256_load_ps(lane.0.as_ptr().add(8));
                for row in 0..H {
                    let factor = _mm256_set1_ps(*a.get_unchecked(row * depth + k));
                    low[row] = _mm256_fmadd_ps(factor, first, low[row]);
                    high[row] = _mm256_fmadd_ps(factor, second, high[row]);
                }
            }
        }
        for row in 0..H {
            // SAFETY: each row of `sums` holds 16 floats.
            unsafe {
                _mm256_storeu_ps(sums[row].as_mut_ptr(), low[row]);
                _mm256_storeu_ps(sums[row].as_mut_ptr().add(8), high[row]);
            }
        }
    }

    /// `H` rows (1 to 14) times one panel.
    ///
    /// # Safety
    /// The processor must have AVX-512F, and `a` must hold `H` rows of `lanes.len()` floats.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn tile_avx512<const H: usize>(a: &[f32], lanes: &[Lane], sums: &mut Sums) {
        let depth = lanes.len();
        let mut rows = [_mm512_setzero_ps(); H];
        for (k, lane) in lanes.iter().enumerate() {
            // A hint: it may name an address past the panel, and never faults.
            _mm_prefetch::<_MM_HINT_T0>((&raw const *lane).wrapping_add(AHEAD).cast());
            // SAFETY: a lane is 16 floats aligned to 64 bytes; `k < depth`, and `a` holds `H * depth` floats.
            unsafe {
                let weights = _mm512_load_ps(lane.0.as_ptr());
                for (row, sum) in rows.iter_mut().enumerate() {
                    let factor = _mm512_set1_ps(*a.get_unchecked(row * depth + k));
                    *sum = _mm512_fmadd_ps(factor, weights, *sum);
                }
            }
        }
        for (row, sum) in rows.iter().enumerate() {
            // SAFETY: each row of `sums` holds 16 floats.
            unsafe { _mm512_storeu_ps(sums[row].as_mut_ptr(), *sum) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        let next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    /// `(rows, depth) x (depth, columns)` in f64; `b` is read through `at(depth, column)`.
    fn plain(a: &[f32], rows: usize, depth: usize, columns: usize, at: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let entry = |row: usize, column: usize| {
            (0..depth).map(|k| f64::from(a[row * depth + k]) * f64::from(at(k, column))).sum::<f64>() as f32
        };
        (0..rows * columns).map(|i| entry(i / columns, i % columns)).collect()
    }

    fn assert_close(got: &[f32], expected: &[f32], depth: usize) {
        let tolerance = 1e-6 * depth as f32 + 1e-6;
        for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
            assert!((got - expected).abs() <= tolerance, "element {i}: {got} against {expected}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn both_products_equal_the_plain_ones(
            rows in 1usize..40, outputs in 1usize..70, inputs in 1usize..70, seed in any::<u64>(),
        ) {
            let (w, x, dy) = (values(outputs * inputs, seed), values(rows * inputs, !seed), values(rows * outputs, seed ^ 7));
            let packed = PackedMatrix::new(&[&w], inputs);
            let mut y = vec![f32::NAN; rows * outputs];
            packed.forward(&x, &mut y);
            assert_close(&y, &plain(&x, rows, inputs, outputs, |k, n| w[n * inputs + k]), inputs);
            let mut dx = vec![f32::NAN; rows * inputs];
            packed.backward(&dy, &mut dx);
            assert_close(&dx, &plain(&dy, rows, outputs, inputs, |n, k| w[n * inputs + k]), outputs);
        }

        #[test]
        fn a_row_does_not_depend_on_its_batch(rows in 2usize..70, seed in any::<u64>()) {
            let (outputs, inputs) = (200, 96);
            let packed = PackedMatrix::new(&[&values(outputs * inputs, seed)], inputs);
            let x = values(rows * inputs, !seed);
            let (mut together, mut alone) = (vec![0.0; rows * outputs], vec![0.0; outputs]);
            packed.forward(&x, &mut together);
            for row in 0..rows {
                packed.forward(&x[row * inputs..][..inputs], &mut alone);
                prop_assert!(together[row * outputs..][..outputs].iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_tile() {
        let inputs = 77;
        let packed = PackedMatrix::new(&[&values(inputs * PANEL, 3)], inputs);
        let x = values(AVX2_ROWS * inputs, 4);
        for height in 1..=AVX2_ROWS {
            let tile = |isa: Isa| isa.tile(height, &x[..height * inputs], &packed.lanes);
            let portable = tile(Isa::Portable);
            let best = tile(Isa::detect());
            assert_close(best.as_flattened(), portable.as_flattened(), inputs);
            #[cfg(target_arch = "x86_64")]
            if has_avx2_fma() {
                // Fused in the same order: the same to the last bit, so that a run does not depend on its machine.
                assert_eq!(tile(Isa::Avx2), best);
            }
        }
    }

    #[test]
    fn parts_lie_one_below_the_other_and_rows_come_back() {
        let (first, second) = (values(3 * 5, 1), values(20 * 5, 2));
        let packed = PackedMatrix::new(&[&first, &second], 5);
        let mut row = [0.0; 5];
        packed.row(2, &mut row);
        assert_eq!(row, first[10..15]);
        packed.row(3 + 19, &mut row);
        assert_eq!(row, second[95..100]);
    }
}
