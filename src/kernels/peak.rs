//! The processor's peak rate: fused multiply-adds on registers alone, on every thread.
//!
//! Knows no weights. The loop has more independent sums than the units have stages, so it measures the bound of a
//! matrix product.

use super::isa::Isa;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Independent sums: two units with a latency of four need eight; a few more hide the loop.
const SUMS: usize = 12;
/// Rounds of one measurement on one thread.
const ROUNDS: usize = 1 << 20;
/// Measurements, of which the best counts: other processes disturb the others.
const MEASUREMENTS: usize = 8;

/// Floating-point operations a second in f32 of all of rayon's threads together; a multiply-add counts as two. Takes
/// some hundred milliseconds.
pub fn flops_per_second() -> f64 {
    let measure = || {
        let beta = Instant::now();
        let lanes: usize = rayon::broadcast(|_| spin()).into_iter().sum();
        let operations = 2.0 * (lanes * SUMS * ROUNDS) as f64;
        operations / beta.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
    };
    (0..MEASUREMENTS).map(|_| measure()).fold(0.0, f64::max)
}

/// Does [`ROUNDS`] multiply-adds on each of [`SUMS`] registers. Returns the lanes of a register.
fn spin() -> usize {
    match Isa::detect() {
        Isa::Portable => spin_portable(),
        // SAFETY: the processor has AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { spin_avx2() },
        // SAFETY: the processor has AVX-512F.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Vnni => unsafe { spin_avx512() },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn spin_avx512() -> usize {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    let (factor, addend) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(1.0)));
    let mut sums = [_mm512_set1_ps(1.0); SUMS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, addend);
        }
    }
    black_box(sums.map(|sum| _mm512_reduce_add_ps(sum)));
    16
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn spin_avx2() -> usize {
    use std::arch::x86_64::{_mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps};
    let (factor, addend) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(1.0)));
    let mut sums = [_mm256_set1_ps(1.0); SUMS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, addend);
        }
    }
    black_box(sums.map(|sum| _mm256_cvtss_f32(sum)));
    8
}

/// Separate multiplications and additions: without the instruction, a fused one is a call.
fn spin_portable() -> usize {
    const LANES: usize = 4;
    let (factor, addend) = (black_box(0.5f32), black_box(1.0f32));
    let mut sums = [[1.0f32; LANES]; SUMS];
    for _ in 0..ROUNDS {
        for sum in sums.as_flattened_mut() {
            *sum = *sum * factor + addend;
        }
    }
    black_box(sums);
    LANES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_one_that_a_processor_can_have() {
        let per_thread = flops_per_second() / rayon::current_num_threads() as f64;
        // From a shared old core to 64 operations a cycle at 6 GHz.
        assert!((1e8..4e11).contains(&per_thread), "{per_thread}");
    }
}
