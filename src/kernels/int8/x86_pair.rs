//! Tiles of the 8-bit product for AVX-512 VNNI over two panels, for many rows.
//!
//! A word of activations is broadcast once for both panels: with one panel there would be as many loads as dot
//! products. Weights and scales are widened once for all rows. Sums are the same operations in the same order as in
//! [`super::x86::tile_vnni`], so both give the same bits.

use super::layout::{BLOCK_INPUTS, Int8Panel, RowBlock, Scales, WeightCodes};
use super::x86::word;
use crate::kernels::column_writer::ColumnWriter;
use crate::kernels::layout::{Lane, Line, NO_SUM, PANEL, tiles};
use crate::kernels::prefetch::prefetch;
use std::arch::x86_64::*;
use std::cell::Cell;

/// Groups of four inputs in a block.
const GROUPS: usize = BLOCK_INPUTS / 4;
/// Rows of the largest tile: its sums take 24 of 32 registers.
pub(super) const PAIR_ROWS: usize = 6;

/// Steps and floors of one block of two panels.
type WideScales = [[Lane; 2]; 2];
thread_local! {
    /// Widened panels; reused.
    static WIDENED: Cell<Widened> = Cell::default();
}

/// Two panels, widened: nibbles to bytes, scales to f32.
#[derive(Default)]
struct Widened {
    /// For each panel, 8 lines a block; empty where the panel has bytes itself.
    codes: [Vec<WeightCodes>; 2],
    /// For each block.
    scales: Vec<WideScales>,
    unit: f32,
}

/// Writes the product of `rows` rows of `a` and two panels of as many blocks to the rows of `y` from `place.0` and its
/// columns from `place.1` on. The panels `next` are fetched meanwhile.
///
/// # Panics
/// Where lengths do not fit.
///
/// # Safety
/// The processor must have AVX-512F and AVX-512 VNNI.
pub(super) unsafe fn product(
    rows: usize,
    a: &[RowBlock],
    (panels, next): ([Int8Panel<'_>; 2], Option<[Int8Panel<'_>; 2]>),
    y: &ColumnWriter<'_>,
    (first_row, column): (usize, usize),
) {
    let depth = panels[0].scales.len();
    let lines = panels.map(|panel| panel.lines());
    assert!(
        a.len() == rows * depth && panels[1].scales.len() == depth && lines[0] == lines[1],
        "{rows} rows of a pair"
    );
    let mut widened = WIDENED.take();
    // SAFETY: the caller's promise.
    unsafe { widened.fill(panels) };
    let codes = if lines[0] == GROUPS {
        panels.map(|panel| panel.codes)
    } else {
        [widened.codes[0].as_slice(), widened.codes[1].as_slice()]
    };
    for tile in tiles(rows, PAIR_ROWS) {
        let a = &a[tile.start * depth..tile.end * depth];
        let place = (first_row + tile.start, column);
        for Int8Panel { codes, scales, .. } in next.into_iter().flatten() {
            let part = |len: usize| len * tile.start / rows..len * tile.end / rows;
            prefetch(&codes[part(codes.len())]);
            prefetch(&scales[part(scales.len())]);
        }
        // SAFETY: the processor has the instructions; `a` has as many rows as matched, of `depth` blocks, and so many
        // blocks have the codes and scales of both panels.
        unsafe {
            match tile.len() {
                1 => tile_vnni::<1>(a, codes, &widened, y, place),
                2 => tile_vnni::<2>(a, codes, &widened, y, place),
                3 => tile_vnni::<3>(a, codes, &widened, y, place),
                4 => tile_vnni::<4>(a, codes, &widened, y, place),
                5 => tile_vnni::<5>(a, codes, &widened, y, place),
                _ => tile_vnni::<PAIR_ROWS>(a, codes, &widened, y, place),
            }
        }
    }
    WIDENED.set(widened);
}

impl Widened {
    /// Widens `panels`.
    ///
    /// # Safety
    /// The processor must have AVX-512F and F16C.
    #[target_feature(enable = "avx512f,f16c,avx2")]
    unsafe fn fill(&mut self, panels: [Int8Panel<'_>; 2]) {
        self.unit = panels[0].unit;
        self.scales.resize(panels[0].scales.len(), [[NO_SUM; 2]; 2]);
        for (index, panel) in panels.into_iter().enumerate() {
            for (wide, Scales { step, floor }) in self.scales.iter_mut().zip(panel.scales) {
                // SAFETY: both hold 16 words of 16 bits; lanes are 16 floats aligned to 64 bytes.
                unsafe {
                    let load = |words: &[u16; PANEL]| _mm256_loadu_si256(words.as_ptr().cast());
                    let lanes = [_mm512_cvtph_ps(load(step)), _mm512_cvtph_ps(load(floor))];
                    for (wide, lane) in wide[index].iter_mut().zip(lanes) {
                        _mm512_store_ps(wide.0.as_mut_ptr(), lane);
                    }
                }
            }
            if panel.lines() == GROUPS {
                continue;
            }
            let low_bits = _mm512_set1_epi32(0x0f0f_0f0f);
            self.codes[index].resize(2 * panel.codes.len(), Line([0; 64]));
            for (nibbles, bytes) in panel.codes.iter().zip(self.codes[index].as_chunks_mut::<2>().0) {
                // SAFETY: lines are 64 bytes aligned to 64.
                unsafe {
                    let codes = _mm512_load_si512(nibbles.0.as_ptr().cast());
                    let high = _mm512_and_si512(_mm512_srli_epi32::<4>(codes), low_bits);
                    _mm512_store_si512(bytes[0].0.as_mut_ptr().cast(), _mm512_and_si512(codes, low_bits));
                    _mm512_store_si512(bytes[1].0.as_mut_ptr().cast(), high);
                }
            }
        }
    }
}

/// `R` rows (1 to 6) times two panels.
///
/// # Safety
/// The processor must have AVX-512F and AVX-512 VNNI; `a` must hold `R` rows of as many blocks as there are scales, and
/// both panels of `codes` 8 lines a block.
#[target_feature(enable = "avx512f,avx512vnni,fma,avx2")]
unsafe fn tile_vnni<const R: usize>(
    a: &[RowBlock],
    codes: [&[WeightCodes]; 2],
    Widened { scales, unit, .. }: &Widened,
    y: &ColumnWriter<'_>,
    (first_row, column): (usize, usize),
) {
    let depth = scales.len();
    let mut rows = [[_mm512_setzero_ps(); 2]; R];
    for (block, scales) in scales.iter().enumerate() {
        let mut integers = [[_mm512_setzero_si512(); 2]; R];
        for group in 0..GROUPS {
            // SAFETY: both panels have 8 lines of 64 bytes, aligned to 64, for each block.
            let codes = codes.map(|codes| unsafe {
                _mm512_load_si512(codes.get_unchecked(block * GROUPS + group).0.as_ptr().cast())
            });
            for (row, integers) in integers.iter_mut().enumerate() {
                // SAFETY: `a` holds `R` rows of `depth` blocks.
                let a = _mm512_set1_epi32(word(unsafe { a.get_unchecked(row * depth + block) }, group));
                for (integer, codes) in integers.iter_mut().zip(codes) {
                    *integer = _mm512_dpbusd_epi32(*integer, codes, a);
                }
            }
        }
        for (row, (sums, integers)) in rows.iter_mut().zip(integers).enumerate() {
            // SAFETY: `a` holds `R` rows of `depth` blocks.
            let a = unsafe { a.get_unchecked(row * depth + block) };
            for ((so_far, integer), scales) in sums.iter_mut().zip(integers).zip(scales) {
                // SAFETY: a lane is 16 floats aligned to 64 bytes.
                let [step, floor] = scales.each_ref().map(|lane| unsafe { _mm512_load_ps(lane.0.as_ptr()) });
                let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(integer), step);
                let product = _mm512_fmadd_ps(floor, _mm512_set1_ps(a.sum), scaled);
                *so_far = _mm512_fmadd_ps(_mm512_set1_ps(a.step), product, *so_far);
            }
        }
    }
    let unit = _mm512_set1_ps(*unit);
    for (row, sums) in rows.into_iter().enumerate() {
        for (panel, sum) in sums.into_iter().enumerate() {
            let mut lane = NO_SUM;
            // SAFETY: a lane is 16 floats aligned to 64 bytes.
            unsafe { _mm512_store_ps(lane.0.as_mut_ptr(), _mm512_mul_ps(sum, unit)) }
            y.write(first_row + row, column + panel * PANEL, &lane.0);
        }
    }
}
