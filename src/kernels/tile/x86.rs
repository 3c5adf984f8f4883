//! Float tiles for AVX2 and AVX-512.

use crate::kernels::layout::{Lane, PANEL};
use crate::kernels::operands::{Beta, Lhs, RhsPanels, Strided};
use crate::kernels::prefetch::{prefetch_ahead, prefetch_later};
use std::arch::x86_64::*;

/// Writes sums held as two registers a row.
#[target_feature(enable = "avx2,fma")]
pub(in crate::kernels) fn store_avx2<const H: usize>(low: &[__m256; H], high: &[__m256; H], sums: &mut [Lane]) {
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
pub(in crate::kernels) fn store_avx512<const H: usize>(rows: &[__m512; H], sums: &mut [Lane]) {
    for (row, sum) in rows.iter().enumerate() {
        // SAFETY: each row of `sums` is 16 floats aligned to 64 bytes.
        unsafe { _mm512_store_ps(sums[row].0.as_mut_ptr(), *sum) }
    }
}

/// Sums of `H` rows and `P` panels in registers; in memory, a panel's sums are `stride` lanes after the previous one's.
trait Registers<const H: usize, const P: usize>: Sized {
    /// Zero sums.
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn zero() -> Self;

    /// Reads them.
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn load(sums: &[Lane], stride: usize) -> Self;

    /// Adds `H` elements, `across` floats apart from `a` on, times `P` lanes, `stride` lanes apart from `lane` on.
    ///
    /// # Safety
    /// The processor must have the instructions, and elements and lanes must be valid for reads.
    unsafe fn add(&mut self, a: *const f32, across: usize, lane: *const Lane, stride: usize);

    /// Writes them.
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn store(&self, sums: &mut [Lane], stride: usize);

    /// The sums that a tile starts with.
    ///
    /// # Safety
    /// The processor must have the instructions.
    #[inline(always)]
    unsafe fn begin(sums: &[Lane], stride: usize, beta: Beta) -> Self {
        // SAFETY: the caller's promise.
        unsafe { if beta == Beta::One { Self::load(sums, stride) } else { Self::zero() } }
    }
}

/// Two registers a row, for up to 6 rows of one panel.
struct Avx2Sums<const H: usize, const P: usize>([[__m256; H]; P], [[__m256; H]; P]);

/// One register a row and panel, for up to 8 rows of three panels or 12 of one.
struct Avx512Sums<const H: usize, const P: usize>([[__m512; H]; P]);

impl<const H: usize, const P: usize> Registers<H, P> for Avx2Sums<H, P> {
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn zero() -> Self {
        Self([[_mm256_setzero_ps(); H]; P], [[_mm256_setzero_ps(); H]; P])
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn load(sums: &[Lane], stride: usize) -> Self {
        let (mut low, mut high) = ([[_mm256_setzero_ps(); H]; P], [[_mm256_setzero_ps(); H]; P]);
        for panel in 0..P {
            let sums = &sums[panel * stride..][..H];
            for row in 0..H {
                // SAFETY: each row of `sums` is 16 floats aligned to 64 bytes.
                unsafe {
                    low[panel][row] = _mm256_load_ps(sums[row].0.as_ptr());
                    high[panel][row] = _mm256_load_ps(sums[row].0.as_ptr().add(8));
                }
            }
        }
        Self(low, high)
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn add(&mut self, a: *const f32, across: usize, lane: *const Lane, stride: usize) {
        // SAFETY: a lane is 16 floats aligned to 64 bytes; elements and lanes are valid by the caller's promise.
        unsafe {
            let (mut first, mut second) = ([_mm256_setzero_ps(); P], [_mm256_setzero_ps(); P]);
            for panel in 0..P {
                let lane = lane.add(panel * stride).cast::<f32>();
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
    unsafe fn store(&self, sums: &mut [Lane], stride: usize) {
        for panel in 0..P {
            store_avx2(&self.0[panel], &self.1[panel], &mut sums[panel * stride..][..H]);
        }
    }
}

#[expect(
    clippy::needless_range_loop,
    reason = "loops over constants alone are unrolled early enough to stay in registers"
)]
impl<const H: usize, const P: usize> Registers<H, P> for Avx512Sums<H, P> {
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn zero() -> Self {
        Self([[_mm512_setzero_ps(); H]; P])
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load(sums: &[Lane], stride: usize) -> Self {
        let mut rows = [[_mm512_setzero_ps(); H]; P];
        for panel in 0..P {
            let sums = &sums[panel * stride..][..H];
            for row in 0..H {
                // SAFETY: each row of `sums` is 16 floats aligned to 64 bytes.
                rows[panel][row] = unsafe { _mm512_load_ps(sums[row].0.as_ptr()) };
            }
        }
        Self(rows)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn add(&mut self, a: *const f32, across: usize, lane: *const Lane, stride: usize) {
        // SAFETY: a lane is 16 floats aligned to 64 bytes; elements and lanes are valid by the caller's promise.
        unsafe {
            let mut weights = [_mm512_setzero_ps(); P];
            for panel in 0..P {
                weights[panel] = _mm512_load_ps(lane.add(panel * stride).cast());
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
    unsafe fn store(&self, sums: &mut [Lane], stride: usize) {
        for panel in 0..P {
            store_avx512(&self.0[panel], &mut sums[panel * stride..][..H]);
        }
    }
}

/// Adds rows, whose element `k` is at `k * along` from `a` on and which are `across` apart, times `depth` lanes of
/// panels. Unrolled by four, since a loop's own instructions take as much decoding as some of the multiply-adds.
macro_rules! add_lanes {
    ($rows:ident, ($a:expr, $across:expr, $along:expr), ($lane:expr, $stride:expr), $depth:expr, $next:ident) => {
        for round in 0..$depth / 4 {
            if let Some((line, rest)) = $next.split_first() {
                prefetch_later(line);
                $next = rest;
            }
            for k in 4 * round..4 * round + 4 {
                $rows.add($a.add(k * $along), $across, $lane.add(k), $stride);
            }
        }
        for k in $depth / 4 * 4..$depth {
            $rows.add($a.add(k * $along), $across, $lane.add(k), $stride);
        }
    };
}

/// The tiles of one instruction set, one for each kind of [`Lhs`]: two over strided rows, with panels from memory or
/// from the cache; one over packed rows, whose strides are constants; one whose rows are the inputs of packed weights.
macro_rules! tiles_of {
    ($features:literal, $registers:ident, $tile:ident, $strided:ident, $cached:ident, $packed:ident, $transposed:ident) => {
        /// Multiplies `H` rows of any kind by `P` panels; a panel's sums are `stride` lanes after the previous one's.
        ///
        /// # Safety
        /// The processor must have the instructions, there must be `P` panels, and `a` must hold `H` rows as deep.
        #[inline(always)]
        pub(super) unsafe fn $tile<const H: usize, const P: usize>(
            a: Lhs<'_>,
            panels: RhsPanels<'_>,
            (sums, stride): (&mut [Lane], usize),
            beta: Beta,
        ) {
            // SAFETY: the caller's promise.
            unsafe {
                match a {
                    Lhs::Strided(a) => $strided::<H, P>(a, panels, sums, stride, beta),
                    Lhs::Cached(a) => $cached::<H, P>(a, panels, sums, stride, beta),
                    Lhs::PackedRows { rows, next } => $packed::<H, P>(rows, next, panels, sums, stride, beta),
                    Lhs::Transposed { weights, inputs, next } => {
                        $transposed::<H, P>((weights, inputs), next, panels, sums, stride, beta);
                    }
                }
            }
        }

        /// Multiplies `H` strided rows by panels from memory.
        ///
        /// # Safety
        /// As for the tile of any kind.
        #[target_feature(enable = $features)]
        unsafe fn $strided<const H: usize, const P: usize>(
            a: Strided<'_>,
            panels: RhsPanels<'_>,
            sums: &mut [Lane],
            stride: usize,
            beta: Beta,
        ) {
            // SAFETY: the caller's promise.
            unsafe {
                let mut rows = $registers::<H, P>::begin(sums, stride, beta);
                for k in 0..panels.depth {
                    let lane = panels.lanes.as_ptr().add(k);
                    prefetch_ahead(&*lane);
                    rows.add(a.values.as_ptr().add(k * a.step), a.row, lane, panels.stride);
                }
                rows.store(sums, stride);
            }
        }

        /// Multiplies `H` strided rows by panels in the cache.
        ///
        /// # Safety
        /// As for the tile of any kind.
        #[target_feature(enable = $features)]
        unsafe fn $cached<const H: usize, const P: usize>(
            a: Strided<'_>,
            panels: RhsPanels<'_>,
            sums: &mut [Lane],
            stride: usize,
            beta: Beta,
        ) {
            // SAFETY: the caller's promise.
            unsafe {
                let mut next: &[Lane] = &[];
                let mut rows = $registers::<H, P>::begin(sums, stride, beta);
                let (values, lane) = (a.values.as_ptr(), panels.lanes.as_ptr());
                add_lanes!(rows, (values, a.row, a.step), (lane, panels.stride), panels.depth, next);
                rows.store(sums, stride);
            }
        }

        /// Multiplies `H` packed rows, `(depth, H)`, by panels.
        ///
        /// # Safety
        /// As for the tile of any kind.
        #[target_feature(enable = $features)]
        unsafe fn $packed<const H: usize, const P: usize>(
            a: &[f32],
            mut next: &[Lane],
            panels: RhsPanels<'_>,
            sums: &mut [Lane],
            stride: usize,
            beta: Beta,
        ) {
            // SAFETY: the caller's promise.
            unsafe {
                let mut rows = $registers::<H, P>::begin(sums, stride, beta);
                let lane = panels.lanes.as_ptr();
                add_lanes!(rows, (a.as_ptr(), 1, H), (lane, panels.stride), panels.depth, next);
                rows.store(sums, stride);
            }
        }

        /// Multiplies `H` inputs of packed weights, over as many outputs as panels have lanes, by the panels. `weights`
        /// begins with the first input of the first outputs; 16 outputs take `inputs` lanes.
        ///
        /// # Safety
        /// As for the tile of any kind; `weights` must hold `H` lanes at each multiple of `inputs`, one multiple for each
        /// 16 lanes of a panel.
        #[target_feature(enable = $features)]
        unsafe fn $transposed<const H: usize, const P: usize>(
            (weights, inputs): (&[Lane], usize),
            mut next: &[Lane],
            panels: RhsPanels<'_>,
            sums: &mut [Lane],
            stride: usize,
            beta: Beta,
        ) {
            // SAFETY: the caller's promise; an input's outputs are neighbours, followed by the next input's.
            unsafe {
                let mut rows = $registers::<H, P>::begin(sums, stride, beta);
                let (mut weights, mut lane, mut left) = (weights.as_ptr(), panels.lanes.as_ptr(), panels.depth);
                while left > 0 {
                    let depth = PANEL.min(left);
                    add_lanes!(rows, (weights.cast::<f32>(), PANEL, 1), (lane, panels.stride), depth, next);
                    (weights, lane, left) = (weights.wrapping_add(inputs), lane.add(depth), left - depth);
                }
                rows.store(sums, stride);
            }
        }
    };
}

tiles_of!("avx2,fma", Avx2Sums, tile_avx2, strided_avx2, cached_avx2, packed_avx2, transposed_avx2);
tiles_of!("avx512f", Avx512Sums, tile_avx512, strided_avx512, cached_avx512, packed_avx512, transposed_avx512);
