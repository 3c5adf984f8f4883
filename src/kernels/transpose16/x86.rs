//! Transposition of 16 by 16 floats for AVX2.

use std::arch::x86_64::*;

/// Transposes a square of 16 by 16 floats; each address comes with the floats from one row to the next.
///
/// # Safety
/// The processor must have AVX2, both places must hold a square, and they must not overlap.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn transpose_avx2((from, from_width): (*const f32, usize), (to, to_width): (*mut f32, usize)) {
    for (above, left) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
        // SAFETY: each is eight floats of a row of one of the squares.
        unsafe {
            let row = |i: usize| _mm256_loadu_ps(from.add((above + i) * from_width + left));
            // Interleave pairs of neighbouring rows, then pairs of pairs, then halves.
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
