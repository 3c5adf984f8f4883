//! Tiles of floats for AVX2 and AVX-512.

use super::full::{Begun, Tile};
use super::strided::Strided;
use super::{Lane, PANEL};
use std::arch::x86_64::*;

/// Cache lines between the one in use and the one asked for from memory.
pub(super) const AHEAD: usize = 48;

/// Asks for a line some way past `line`. A hint: it may name an address past the panel, and never faults.
#[inline(always)]
pub(super) fn prefetch<T>(line: &T) {
    // SAFETY: a prefetch reads nothing that a program could see, whatever the address; SSE is always there.
    unsafe { _mm_prefetch::<_MM_HINT_T0>((&raw const *line).wrapping_add(AHEAD).cast()) }
}

/// Asks for the lines of `values`.
pub(crate) fn prefetch_all<T>(values: &[T]) {
    for line in values.chunks(64 / size_of::<T>().clamp(1, 64)) {
        // SAFETY: a prefetch reads nothing that a program could see; SSE is always there.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
    }
}

/// Asks for the line of `value` as far as the second cache.
#[inline(always)]
pub(super) fn prefetch_later<T>(value: *const T) {
    // SAFETY: a prefetch reads nothing that a program could see, whatever the address; SSE is always there.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(value.cast()) }
}

/// Writes sums held as two registers a row.
#[target_feature(enable = "avx2,fma")]
pub(super) fn store_avx2<const H: usize>(low: &[__m256; H], high: &[__m256; H], sums: &mut [Lane]) {
    for row in 0..H {
        // SAFETY: each row of `sums` is 16 floats aligned to 64 bytes.
        unsafe {
            _mm256_store_ps(sums[row].0.as_mut_ptr(), low[row]);
            _mm256_store_ps(sums[row].0.as_mut_ptr().add(8), high[row]);
        }
    }
}

/// Writes sums held as one register a row.
#[target_feature(enable = "avx512f")]
pub(super) fn store_avx512<const H: usize>(rows: &[__m512; H], sums: &mut [Lane]) {
    for (row, sum) in rows.iter().enumerate() {
        // SAFETY: each row of `sums` is 16 floats aligned to 64 bytes.
        unsafe { _mm512_store_ps(sums[row].0.as_mut_ptr(), *sum) }
    }
}

/// Sums of `H` rows and `P` panels in registers.
trait Registers<const H: usize, const P: usize>: Sized {
    /// Sums of nothing.
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn zero() -> Self;

    /// Reads them.
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn load(sums: &[&mut [Lane]; P]) -> Self;

    /// Adds `H` elements, `across` apart from `a` on, times `lane` of the first panel and lane `k` of each other.
    ///
    /// # Safety
    /// The processor must have the instructions, `a` must hold `H` such elements, and each panel that lane.
    unsafe fn add(&mut self, a: *const f32, across: usize, lane: &Lane, panels: &[*const Lane; P], k: usize);

    /// Writes them.
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn store(&self, sums: [&mut [Lane]; P]);

    /// What a tile adds to.
    ///
    /// # Safety
    /// The processor must have the instructions.
    #[inline(always)]
    unsafe fn begin(sums: &[&mut [Lane]; P], begun: Begun) -> Self {
        // SAFETY: as the caller's.
        unsafe { if begun == Begun::Yes { Self::load(sums) } else { Self::zero() } }
    }
}

/// Two registers a row, for up to 6 rows of one panel.
struct Narrow<const H: usize, const P: usize>([[__m256; H]; P], [[__m256; H]; P]);

/// One register a row and panel, for up to 12 rows of two panels.
struct Wide<const H: usize, const P: usize>([[__m512; H]; P]);

#[expect(
    clippy::needless_range_loop,
    reason = "loops over constants alone are unrolled early enough to stay in registers"
)]
impl<const H: usize, const P: usize> Registers<H, P> for Narrow<H, P> {
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn zero() -> Self {
        Self([[_mm256_setzero_ps(); H]; P], [[_mm256_setzero_ps(); H]; P])
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn load(sums: &[&mut [Lane]; P]) -> Self {
        let (mut low, mut high) = ([[_mm256_setzero_ps(); H]; P], [[_mm256_setzero_ps(); H]; P]);
        for panel in 0..P {
            for row in 0..H {
                // SAFETY: each row of `sums` is 16 floats aligned to 64 bytes.
                unsafe {
                    low[panel][row] = _mm256_load_ps(sums[panel][row].0.as_ptr());
                    high[panel][row] = _mm256_load_ps(sums[panel][row].0.as_ptr().add(8));
                }
            }
        }
        Self(low, high)
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn add(&mut self, a: *const f32, across: usize, lane: &Lane, panels: &[*const Lane; P], k: usize) {
        // SAFETY: a lane is 16 floats aligned to 64 bytes, and `a` holds `H` elements.
        unsafe {
            let (mut first, mut second) = ([_mm256_setzero_ps(); P], [_mm256_setzero_ps(); P]);
            for panel in 0..P {
                let lane = if panel == 0 { lane.0.as_ptr() } else { panels[panel].add(k).cast() };
                (first[panel], second[panel]) = (_mm256_load_ps(lane), _mm256_load_ps(lane.add(8)));
            }
            for row in 0..H {
                let factor = _mm256_set1_ps(*a.add(row * across));
                for panel in 0..P {
                    self.0[panel][row] = _mm256_fmadd_ps(factor, first[panel], self.0[panel][row]);
                    self.1[panel][row] = _mm256_fmadd_ps(factor, second[panel], self.1[panel][row]);
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn store(&self, sums: [&mut [Lane]; P]) {
        for panel in 0..P {
            store_avx2(&self.0[panel], &self.1[panel], sums[panel]);
        }
    }
}

#[expect(
    clippy::needless_range_loop,
    reason = "loops over constants alone are unrolled early enough to stay in registers"
)]
impl<const H: usize, const P: usize> Registers<H, P> for Wide<H, P> {
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn zero() -> Self {
        Self([[_mm512_setzero_ps(); H]; P])
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load(sums: &[&mut [Lane]; P]) -> Self {
        let mut rows = [[_mm512_setzero_ps(); H]; P];
        for panel in 0..P {
            for row in 0..H {
                // SAFETY: each row of `sums` is 16 floats aligned to 64 bytes.
                rows[panel][row] = unsafe { _mm512_load_ps(sums[panel][row].0.as_ptr()) };
            }
        }
        Self(rows)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn add(&mut self, a: *const f32, across: usize, lane: &Lane, panels: &[*const Lane; P], k: usize) {
        // SAFETY: a lane is 16 floats aligned to 64 bytes, and `a` holds `H` elements.
        unsafe {
            let mut weights = [_mm512_setzero_ps(); P];
            for panel in 0..P {
                weights[panel] = _mm512_load_ps(if panel == 0 { lane.0.as_ptr() } else { panels[panel].add(k).cast() });
            }
            for row in 0..H {
                let factor = _mm512_set1_ps(*a.add(row * across));
                for panel in 0..P {
                    self.0[panel][row] = _mm512_fmadd_ps(factor, weights[panel], self.0[panel][row]);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn store(&self, sums: [&mut [Lane]; P]) {
        for panel in 0..P {
            store_avx512(&self.0[panel], sums[panel]);
        }
    }
}

/// Adds the rows whose element `k` lies at `k * along` from `a` on, `across` apart, times the lanes of the first panel and as
/// many of the others: four lanes a round, since the steps of a loop take as much of a processor's front as some of the
/// multiply-adds.
macro_rules! add_lanes {
    ($rows:ident, $a:expr, $across:expr, $along:expr, $first:expr, $panels:expr, $next:ident) => {
        let (rounds, rest) = $first.as_chunks::<4>();
        for (round, lanes) in rounds.iter().enumerate() {
            if let Some((line, rest)) = $next.split_first() {
                prefetch_later(line);
                $next = rest;
            }
            for (k, lane) in lanes.iter().enumerate() {
                $rows.add($a.add((4 * round + k) * $along), $across, lane, $panels, 4 * round + k);
            }
        }
        for (k, lane) in rest.iter().enumerate() {
            $rows.add($a.add((4 * rounds.len() + k) * $along), $across, lane, $panels, 4 * rounds.len() + k);
        }
    };
}

/// Where panels begin.
#[inline(always)]
fn starts<const P: usize>(lanes: &[&[Lane]; P]) -> [*const Lane; P] {
    let mut starts = [std::ptr::null(); P];
    for panel in 0..P {
        starts[panel] = lanes[panel].as_ptr();
    }
    starts
}

/// Two tiles over rows as they lie, whose panels come from memory or lie in the cache, one over rows that were put in
/// the tile's own order, whose places are constants, and one whose rows are the inputs of packed weights.
macro_rules! tiles_of {
    ($features:literal, $registers:ident, $tile:ident, $strided:ident, $near:ident, $ordered:ident, $turned:ident) => {
        /// Adds `H` rows, whatever way they are read, times each of `P` panels to its sums.
        ///
        /// # Safety
        /// The processor must have the instructions, the panels must be equally deep, and `a` must hold `H` rows as deep.
        #[inline(always)]
        pub(super) unsafe fn $tile<const H: usize, const P: usize>(
            a: Tile<'_>,
            lanes: [&[Lane]; P],
            sums: [&mut [Lane]; P],
            begun: Begun,
        ) {
            // SAFETY: as the caller's.
            unsafe {
                match a {
                    Tile::Strided(a) => $strided::<H, P>(a, lanes, sums, begun),
                    Tile::Near(a) => $near::<H, P>(a, lanes, sums, begun),
                    Tile::Ordered { rows, next } => $ordered::<H, P>(rows, next, lanes, sums, begun),
                    Tile::Turned { weights, inputs, next } => {
                        $turned::<H, P>((weights, inputs), next, lanes, sums, begun);
                    }
                }
            }
        }

        /// Adds `H` rows times panels to sums.
        ///
        /// # Safety
        /// As for the tile of any kind.
        #[target_feature(enable = $features)]
        unsafe fn $strided<const H: usize, const P: usize>(
            a: Strided<'_>,
            lanes: [&[Lane]; P],
            sums: [&mut [Lane]; P],
            begun: Begun,
        ) {
            // SAFETY: as the caller's.
            unsafe {
                let mut rows = $registers::<H, P>::begin(&sums, begun);
                let panels = starts(&lanes);
                for (k, lane) in lanes[0].iter().enumerate() {
                    prefetch(lane);
                    rows.add(a.values.as_ptr().add(k * a.step), a.row, lane, &panels, k);
                }
                rows.store(sums);
            }
        }

        /// Adds `H` rows times panels that are in the cache to sums.
        ///
        /// # Safety
        /// As for the tile of any kind.
        #[target_feature(enable = $features)]
        unsafe fn $near<const H: usize, const P: usize>(
            a: Strided<'_>,
            lanes: [&[Lane]; P],
            sums: [&mut [Lane]; P],
            begun: Begun,
        ) {
            // SAFETY: as the caller's.
            unsafe {
                let mut next: &[Lane] = &[];
                let mut rows = $registers::<H, P>::begin(&sums, begun);
                add_lanes!(rows, a.values.as_ptr(), a.row, a.step, lanes[0], &starts(&lanes), next);
                rows.store(sums);
            }
        }

        /// Adds `H` rows, `(depth, H)` in memory, times panels to sums.
        ///
        /// # Safety
        /// As for the tile of any kind.
        #[target_feature(enable = $features)]
        unsafe fn $ordered<const H: usize, const P: usize>(
            a: &[f32],
            mut next: &[Lane],
            lanes: [&[Lane]; P],
            sums: [&mut [Lane]; P],
            begun: Begun,
        ) {
            // SAFETY: as the caller's.
            unsafe {
                let mut rows = $registers::<H, P>::begin(&sums, begun);
                add_lanes!(rows, a.as_ptr(), 1, H, lanes[0], &starts(&lanes), next);
                rows.store(sums);
            }
        }

        /// Adds to sums the transpose of `H` inputs of packed weights, over as many outputs as panels have lanes, times the
        /// panels. `weights` begins with the first input of the first outputs; 16 outputs are `inputs` lanes long.
        ///
        /// # Safety
        /// As for the tile of any kind: `weights` must hold `H` lanes from every `inputs`th on, one time for each 16 lanes of
        /// a panel.
        #[target_feature(enable = $features)]
        unsafe fn $turned<const H: usize, const P: usize>(
            (weights, inputs): (&[Lane], usize),
            mut next: &[Lane],
            lanes: [&[Lane]; P],
            sums: [&mut [Lane]; P],
            begun: Begun,
        ) {
            // SAFETY: as the caller's; an input's outputs lie side by side, and the next input's behind them.
            unsafe {
                let mut rows = $registers::<H, P>::begin(&sums, begun);
                let mut panels = starts(&lanes);
                for (panel, first) in lanes[0].chunks(PANEL).enumerate() {
                    let weights = weights.as_ptr().add(panel * inputs).cast::<f32>();
                    add_lanes!(rows, weights, PANEL, 1, first, &panels, next);
                    for panel in 1..P {
                        panels[panel] = panels[panel].wrapping_add(PANEL);
                    }
                }
                rows.store(sums);
            }
        }
    };
}

tiles_of!("avx2,fma", Narrow, tile_avx2, strided_avx2, near_avx2, ordered_avx2, turned_avx2);
tiles_of!("avx512f", Wide, tile_avx512, strided_avx512, near_avx512, ordered_avx512, turned_avx512);

/// Transposes a square of 16 by 16 floats, whose rows are as many floats apart as is said beside where they begin.
///
/// # Safety
/// The processor must have AVX2, both places must hold a square, and they must not overlap.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn transpose_avx2((from, from_width): (*const f32, usize), (to, to_width): (*mut f32, usize)) {
    for (above, left) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
        // SAFETY: these are eights of the squares' rows.
        unsafe {
            let row = |i: usize| _mm256_loadu_ps(from.add((above + i) * from_width + left));
            // Pairs of neighbouring rows interleaved, then pairs of pairs, then halves.
            let pairs = |i: usize| [_mm256_unpacklo_ps(row(i), row(i + 1)), _mm256_unpackhi_ps(row(i), row(i + 1))];
            let quads = |i: usize| {
                let ([a, b], [c, d]) = (pairs(i), pairs(i + 2));
                [
                    _mm256_shuffle_ps::<0x44>(a, c),
                    _mm256_shuffle_ps::<0xee>(a, c),
                    _mm256_shuffle_ps::<0x44>(b, d),
                    _mm256_shuffle_ps::<0xee>(b, d),
                ]
            };
            let (upper, lower) = (quads(0), quads(4));
            for i in 0..4 {
                let halves = [
                    _mm256_permute2f128_ps::<0x20>(upper[i], lower[i]),
                    _mm256_permute2f128_ps::<0x31>(upper[i], lower[i]),
                ];
                _mm256_storeu_ps(to.add((left + i) * to_width + above), halves[0]);
                _mm256_storeu_ps(to.add((left + 4 + i) * to_width + above), halves[1]);
            }
        }
    }
}
