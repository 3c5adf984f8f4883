//! The rate at which all threads read memory that no cache holds.
//!
//! Knows no weights. Each thread sums its own part of a large buffer front to back, as a matrix product reads weights.

use super::huge_pages;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Words that are summed independently, so that reading does not wait for additions.
const SUMS: usize = 32;
/// Measurements, of which the best counts: other processes disturb the others.
const MEASUREMENTS: usize = 5;

/// Bytes a second that all of rayon's threads together read of a buffer of `bytes`, which should be far larger than the
/// processor's caches.
pub fn bytes_per_second(bytes: usize) -> f64 {
    let threads = rayon::current_num_threads();
    let share = (bytes / size_of::<u64>() / threads).max(SUMS);
    let words = huge_pages::filled(share * threads, 1_u64);
    let measure = || {
        let begun = Instant::now();
        rayon::broadcast(|thread| black_box(sum(&words[thread.index() * share..][..share])));
        size_of_val(&words[..]) as f64 / begun.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
    };
    (0..MEASUREMENTS).map(|_| measure()).fold(0.0, f64::max)
}

fn sum(words: &[u64]) -> u64 {
    let mut sums = [0_u64; SUMS];
    for chunk in words.as_chunks::<SUMS>().0 {
        sums.iter_mut().zip(chunk).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_one_that_memory_can_have() {
        let rate = bytes_per_second(1 << 24);
        assert!((1e7..1e13).contains(&rate), "{rate}");
        assert!(bytes_per_second(0) > 0.0);
    }
}
