//! Tiles of floats for AVX2 and AVX-512: f32 weights, and bf16 weights widened in registers.

use super::bf16::Pair;
use super::full::{Begun, Tile};
use super::strided::Strided;
use super::{Lane, PANEL, Sums};
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
fn store_avx2<const H: usize>(low: &[__m256; H], high: &[__m256; H], sums: &mut [Lane]) {
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
fn store_avx512<const H: usize>(rows: &[__m512; H], sums: &mut [Lane]) {
    for (row, sum) in rows.iter().enumerate() {
        // SAFETY: each row of `sums` is 16 floats aligned to 64 bytes.
        unsafe { _mm512_store_ps(sums[row].0.as_mut_ptr(), *sum) }
    }
}

/// Sums of a tile in registers.
trait Registers<const H: usize> {
    /// Sums of nothing.
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn zero() -> Self;

    /// Reads them.
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn load(sums: &[Lane]) -> Self;

    /// Adds `H` elements, `across` apart from `a` on, times one lane.
    ///
    /// # Safety
    /// The processor must have the instructions, and `a` must hold `H` such elements.
    unsafe fn add(&mut self, a: *const f32, across: usize, lane: &Lane);

    /// Writes them.
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn store(&self, sums: &mut [Lane]);
}

/// Two registers a row, for up to 6 rows.
struct Narrow<const H: usize>([__m256; H], [__m256; H]);

/// One register a row, for up to 14 rows.
struct Wide<const H: usize>([__m512; H]);

impl<const H: usize> Registers<H> for Narrow<H> {
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn zero() -> Self {
        Self([_mm256_setzero_ps(); H], [_mm256_setzero_ps(); H])
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn load(sums: &[Lane]) -> Self {
        let (mut low, mut high) = ([_mm256_setzero_ps(); H], [_mm256_setzero_ps(); H]);
        for row in 0..H {
            // SAFETY: each row of `sums` is 16 floats aligned to 64 bytes.
            unsafe {
                low[row] = _mm256_load_ps(sums[row].0.as_ptr());
                high[row] = _mm256_load_ps(sums[row].0.as_ptr().add(8));
            }
        }
        Self(low, high)
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn add(&mut self, a: *const f32, across: usize, lane: &Lane) {
        // SAFETY: a lane is 16 floats aligned to 64 bytes, and `a` holds `H` elements.
        unsafe {
            let first = _mm256_load_ps(lane.0.as_ptr());
            let second = _mm256_load_ps(lane.0.as_ptr().add(8));
            for row in 0..H {
                let factor = _mm256_set1_ps(*a.add(row * across));
                self.0[row] = _mm256_fmadd_ps(factor, first, self.0[row]);
                self.1[row] = _mm256_fmadd_ps(factor, second, self.1[row]);
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn store(&self, sums: &mut [Lane]) {
        store_avx2(&self.0, &self.1, sums);
    }
}

impl<const H: usize> Registers<H> for Wide<H> {
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn zero() -> Self {
        Self([_mm512_setzero_ps(); H])
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load(sums: &[Lane]) -> Self {
        let mut rows = [_mm512_setzero_ps(); H];
        for (row, sum) in rows.iter_mut().enumerate() {
            // SAFETY: each row of `sums` is 16 floats aligned to 64 bytes.
            *sum = unsafe { _mm512_load_ps(sums[row].0.as_ptr()) };
        }
        Self(rows)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn add(&mut self, a: *const f32, across: usize, lane: &Lane) {
        // SAFETY: a lane is 16 floats aligned to 64 bytes, and `a` holds `H` elements.
        unsafe {
            let weights = _mm512_load_ps(lane.0.as_ptr());
            for (row, sum) in self.0.iter_mut().enumerate() {
                let factor = _mm512_set1_ps(*a.add(row * across));
                *sum = _mm512_fmadd_ps(factor, weights, *sum);
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn store(&self, sums: &mut [Lane]) {
        store_avx512(&self.0, sums);
    }
}

/// Adds the rows whose element `k` lies at `k * along` from `a` on, `across` apart, times `lanes`: four lanes a round,
/// since the steps of a loop take as much of a processor's front as some of the multiply-adds.
macro_rules! add_lanes {
    ($rows:ident, $a:expr, $across:expr, $along:expr, $lanes:expr) => {
        let (rounds, rest) = $lanes.as_chunks::<4>();
        for (round, lanes) in rounds.iter().enumerate() {
            for (k, lane) in lanes.iter().enumerate() {
                $rows.add($a.add((4 * round + k) * $along), $across, lane);
            }
        }
        for (k, lane) in rest.iter().enumerate() {
            $rows.add($a.add((4 * rounds.len() + k) * $along), $across, lane);
        }
    };
}

/// Two tiles over rows as they lie, whose panel comes from memory or lies in the cache, one over rows that were put in
/// the tile's own order, whose places are constants, and one whose rows are the inputs of packed weights.
macro_rules! tiles_of {
    ($features:literal, $registers:ident, $tile:ident, $strided:ident, $near:ident, $ordered:ident, $turned:ident) => {
        /// Adds `H` rows, whatever way they are read, times one panel to `sums`.
        ///
        /// # Safety
        /// The processor must have the instructions, and `a` must hold `H` rows of `lanes.len()` floats.
        #[inline(always)]
        pub(super) unsafe fn $tile<const H: usize>(a: Tile<'_>, lanes: &[Lane], sums: &mut [Lane], begun: Begun) {
            // SAFETY: as the caller's.
            unsafe {
                match a {
                    Tile::Strided(a) => $strided::<H>(a, lanes, sums, begun),
                    Tile::Near(a) => $near::<H>(a, lanes, sums, begun),
                    Tile::Ordered(a) => $ordered::<H>(a, lanes, sums, begun),
                    Tile::Turned { weights, inputs } => $turned::<H>(weights, inputs, lanes, sums, begun),
                }
            }
        }

        /// Adds `H` rows times one panel to `sums`.
        ///
        /// # Safety
        /// The processor must have the instructions, and `a` must hold `H` rows of `lanes.len()` floats.
        #[target_feature(enable = $features)]
        unsafe fn $strided<const H: usize>(a: Strided<'_>, lanes: &[Lane], sums: &mut [Lane], begun: Begun) {
            // SAFETY: as the caller's.
            unsafe {
                let mut rows = if begun == Begun::Yes { $registers::<H>::load(sums) } else { $registers::<H>::zero() };
                for (k, lane) in lanes.iter().enumerate() {
                    prefetch(lane);
                    rows.add(a.values.as_ptr().add(k * a.step), a.row, lane);
                }
                rows.store(sums);
            }
        }

        /// Adds `H` rows times one panel that is in the cache to `sums`.
        ///
        /// # Safety
        /// The processor must have the instructions, and `a` must hold `H` rows of `lanes.len()` floats.
        #[target_feature(enable = $features)]
        unsafe fn $near<const H: usize>(a: Strided<'_>, lanes: &[Lane], sums: &mut [Lane], begun: Begun) {
            // SAFETY: as the caller's.
            unsafe {
                let mut rows = if begun == Begun::Yes { $registers::<H>::load(sums) } else { $registers::<H>::zero() };
                add_lanes!(rows, a.values.as_ptr(), a.row, a.step, lanes);
                rows.store(sums);
            }
        }

        /// Adds `H` rows, `(lanes.len(), H)` in memory, times one panel to `sums`.
        ///
        /// # Safety
        /// The processor must have the instructions, and `a` must hold `H` floats a lane.
        #[target_feature(enable = $features)]
        unsafe fn $ordered<const H: usize>(a: &[f32], lanes: &[Lane], sums: &mut [Lane], begun: Begun) {
            // SAFETY: as the caller's.
            unsafe {
                let mut rows = if begun == Begun::Yes { $registers::<H>::load(sums) } else { $registers::<H>::zero() };
                add_lanes!(rows, a.as_ptr(), 1, H, lanes);
                rows.store(sums);
            }
        }

        /// Adds to `sums` the transpose of `H` inputs of packed weights, over as many outputs as there are lanes, times
        /// one panel. `weights` begins with the first input of the first outputs; 16 outputs are `inputs` lanes long.
        ///
        /// # Safety
        /// The processor must have the instructions, and `weights` must hold `H` lanes from every `inputs`th on, one
        /// time for each 16 of `lanes`.
        #[target_feature(enable = $features)]
        unsafe fn $turned<const H: usize>(
            weights: &[Lane],
            inputs: usize,
            lanes: &[Lane],
            sums: &mut [Lane],
            begun: Begun,
        ) {
            // SAFETY: as the caller's; an input's outputs lie side by side, and the next input's behind them.
            unsafe {
                let mut rows = if begun == Begun::Yes { $registers::<H>::load(sums) } else { $registers::<H>::zero() };
                for (panel, lanes) in lanes.chunks(PANEL).enumerate() {
                    let weights = weights.as_ptr().add(panel * inputs).cast::<f32>();
                    add_lanes!(rows, weights, PANEL, 1, lanes);
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

/// `H` rows (1 to 5) of `depth` inputs times one panel of bf16.
///
/// # Safety
/// The processor must have AVX2 and FMA, `a` must hold `H` rows of `depth` floats, and `pairs` one pair for
/// every two of them, the last one's odd half unused where `depth` is odd.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn tile_bf16_avx2<const H: usize>(a: &[f32], depth: usize, pairs: &[Pair], sums: &mut Sums) {
    let odd_bits = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    let mut low = [_mm256_setzero_ps(); H];
    let mut high = [_mm256_setzero_ps(); H];
    for (pair, words) in pairs.iter().enumerate() {
        prefetch(words);
        // SAFETY: a pair is 16 words aligned to 64 bytes; every `k` below is less than `depth`.
        unsafe {
            let first = _mm256_load_si256(words.0.as_ptr().cast());
            let second = _mm256_load_si256(words.0.as_ptr().add(8).cast());
            let even =
                [_mm256_slli_epi32::<16>(first), _mm256_slli_epi32::<16>(second)].map(|w| _mm256_castsi256_ps(w));
            for row in 0..H {
                let factor = _mm256_set1_ps(*a.get_unchecked(row * depth + 2 * pair));
                low[row] = _mm256_fmadd_ps(factor, even[0], low[row]);
                high[row] = _mm256_fmadd_ps(factor, even[1], high[row]);
            }
            if 2 * pair + 1 == depth {
                break;
            }
            let odd =
                [_mm256_and_si256(first, odd_bits), _mm256_and_si256(second, odd_bits)].map(|w| _mm256_castsi256_ps(w));
            for row in 0..H {
                let factor = _mm256_set1_ps(*a.get_unchecked(row * depth + 2 * pair + 1));
                low[row] = _mm256_fmadd_ps(factor, odd[0], low[row]);
                high[row] = _mm256_fmadd_ps(factor, odd[1], high[row]);
            }
        }
    }
    store_avx2(&low, &high, sums);
}

/// `H` rows (1 to 14) of `depth` inputs times one panel of bf16.
///
/// # Safety
/// The processor must have AVX-512F, `a` must hold `H` rows of `depth` floats, and `pairs` one pair for
/// every two of them, the last one's odd half unused where `depth` is odd.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn tile_bf16_avx512<const H: usize>(a: &[f32], depth: usize, pairs: &[Pair], sums: &mut Sums) {
    let odd_bits = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let mut rows = [_mm512_setzero_ps(); H];
    for (pair, words) in pairs.iter().enumerate() {
        prefetch(words);
        // SAFETY: a pair is 16 words aligned to 64 bytes; every `k` below is less than `depth`.
        unsafe {
            let words = _mm512_load_si512(words.0.as_ptr().cast());
            let even = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words));
            for (row, sum) in rows.iter_mut().enumerate() {
                let factor = _mm512_set1_ps(*a.get_unchecked(row * depth + 2 * pair));
                *sum = _mm512_fmadd_ps(factor, even, *sum);
            }
            if 2 * pair + 1 == depth {
                break;
            }
            let odd = _mm512_castsi512_ps(_mm512_and_si512(words, odd_bits));
            for (row, sum) in rows.iter_mut().enumerate() {
                let factor = _mm512_set1_ps(*a.get_unchecked(row * depth + 2 * pair + 1));
                *sum = _mm512_fmadd_ps(factor, odd, *sum);
            }
        }
    }
    store_avx512(&rows, sums);
}
