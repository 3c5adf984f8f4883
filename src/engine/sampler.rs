//! Sampling: from a row of logits to a token and its log-probability.
//!
//! Knows one row of logits at a time; no sequence, no model. The order of filters is that of transformers: temperature,
//! top-k, top-p over what top-k kept, then min-p. The rest is renormalised and drawn from by inverse CDF over ids in
//! order. The reported log-probability is that of exactly this distribution. A row's result depends only on that row and
//! its uniform number.

use super::exp::{self, CHUNK};
use super::logit_filter::{LogitFilter, Threshold};
pub use super::sampling_config::SamplingConfig;
use crate::kernels::thread_pool;
pub(crate) use crate::transformer::decode::Drawn as Draw;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One token to sample.
pub(crate) struct Task<'a> {
    /// Its row of logits.
    pub(crate) row: usize,
    pub(crate) config: &'a SamplingConfig,
    /// A number in `[0, 1)`, see [`uniform`].
    pub(crate) uniform: f64,
}

/// Space that is used again from step to step, by one thread.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    sums: Vec<f64>,
    cut: LogitFilter,
}

/// The `position`-th number of the stream of `(seed, index)`: uniform in `[0, 1)`. It is computed from
/// the three alone, so that no preemption can shift a stream.
pub(crate) fn uniform(seed: u64, index: u64, position: u64) -> f64 {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&index.to_le_bytes());
    let mut stream = ChaCha8Rng::from_seed(key);
    stream.set_word_pos(2 * u128::from(position));
    (stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Logits below which waking a second thread costs more than it gives.
const PARALLEL_MIN: usize = 1 << 15;

/// Samples all `tasks` from `logits`, rows of `vocab`; none for a row that holds NaN, infinity or
/// nothing above minus infinity.
pub(crate) fn draw_all(
    logits: &[f32],
    vocab: usize,
    tasks: &[Task<'_>],
    scratch: &mut Vec<Scratch>,
) -> Vec<Option<Draw>> {
    let threads = if tasks.len() * vocab < PARALLEL_MIN { 1 } else { thread_pool::threads() };
    if scratch.len() < threads {
        scratch.resize_with(threads, Scratch::default);
    }
    let mut draws = vec![None; tasks.len()];
    let share = tasks.len().div_ceil(threads).max(1);
    let shares = tasks.chunks(share).zip(draws.chunks_mut(share)).zip(scratch);
    let mut shares: Vec<_> = shares.map(|((tasks, draws), scratch)| (tasks, draws, scratch)).collect();
    thread_pool::each_mut(&mut shares, |_, (tasks, draws, scratch)| {
        for (task, drawn) in tasks.iter().zip(draws.iter_mut()) {
            let logits = &logits[task.row * vocab..(task.row + 1) * vocab];
            *drawn = draw(logits, task.config, task.uniform, scratch);
        }
    });
    draws
}

/// Samples one row.
pub(crate) fn draw(logits: &[f32], config: &SamplingConfig, uniform: f64, scratch: &mut Scratch) -> Option<Draw> {
    let greedy = config.temperature <= 0.0;
    let (max, inverse) = (exp::max(logits), if greedy { 1.0 } else { 1.0 / config.temperature });
    let Scratch { sums, cut } = scratch;
    sums.clear();
    let cuts = !greedy && config.filters();
    if cuts {
        exp::weights(logits, max, inverse, &mut cut.weights, sums);
    } else {
        exp::sums(logits, max, inverse, sums);
    }
    let mut total: f64 = sums.iter().sum();
    if !total.is_finite() || total <= 0.0 {
        return None;
    }
    let id = if greedy {
        logits.iter().position(|&logit| logit == max)?
    } else if cuts {
        let Threshold { weight, id } = cut.threshold(config, total);
        sums.clear();
        exp::sums_above(&cut.weights, weight, id as usize + 1, sums);
        total = sums.iter().sum();
        let stays = |at: usize| cut.weights[at] > weight || (cut.weights[at] == weight && at <= id as usize);
        pick(uniform * total, sums, logits.len(), |at| if stays(at) { f64::from(cut.weights[at]) } else { 0.0 })
    } else {
        pick(uniform * total, sums, logits.len(), |at| f64::from(exp::weight(logits[at], max, inverse)))
    };
    let scaled = f64::from((logits[id] - max) * inverse);
    Some(Draw { id: id as u32, log_prob: (scaled - total.ln()) as f32 })
}

/// Inverse CDF over `len` ids by their weights, `sums` being those of the chunks: first the chunk, then the id
/// in it. Where rounding leaves none, the last of weight.
fn pick(target: f64, sums: &[f64], len: usize, weight: impl Fn(usize) -> f64) -> usize {
    let (mut sum, mut found) = (0.0, (0, 0.0));
    for (chunk, &weight) in sums.iter().enumerate().filter(|&(_, &weight)| weight > 0.0) {
        found = (chunk, sum);
        sum += weight;
        if sum > target {
            break;
        }
    }
    let (chunk, mut sum) = found;
    let first = chunk * CHUNK;
    let mut last = first;
    for id in first..len.min((chunk + 1) * CHUNK) {
        let weight = weight(id);
        if weight > 0.0 {
            last = id;
            sum += weight;
        }
        if sum > target {
            break;
        }
    }
    last
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(temperature: f32, top_k: usize, top_p: f32, min_p: f32) -> SamplingConfig {
        SamplingConfig { temperature, top_k, top_p, min_p, ..SamplingConfig::greedy(1) }
    }

    fn row(len: usize, seed: u64, spread: f64) -> Vec<f32> {
        (0..len).map(|i| ((uniform(seed, 0, i as u64) - 0.5) * spread) as f32).collect()
    }

    /// The distribution by the book: f64, a full sort, and each cut as its definition says.
    fn expected(logits: &[f32], config: &SamplingConfig) -> Vec<f64> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |l: f32| (f64::from(l - max) / f64::from(config.temperature)).exp();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        if config.top_k > 0 {
            order.truncate(config.top_k);
        }
        let total: f64 = order.iter().map(|&i| weight(logits[i])).sum();
        if config.top_p < 1.0 {
            let mut sum = 0.0;
            let last = order.iter().position(|&i| {
                sum += weight(logits[i]) / total;
                sum >= f64::from(config.top_p)
            });
            order.truncate(last.map_or(order.len(), |last| last + 1));
        }
        order.retain(|&i| weight(logits[i]) >= f64::from(config.min_p));
        let total: f64 = order.iter().map(|&i| weight(logits[i])).sum();
        let mut p = vec![0.0; logits.len()];
        order.iter().for_each(|&i| p[i] = weight(logits[i]) / total);
        p
    }

    #[test]
    fn what_is_drawn_follows_the_distribution_that_is_reported() {
        let logits = row(700, 3, 8.0);
        for config in [
            config(1.0, 0, 1.0, 0.0),
            config(0.5, 0, 1.0, 0.0),
            config(1.3, 20, 1.0, 0.0),
            config(1.0, 0, 0.6, 0.0),
            config(1.0, 0, 1.0, 0.2),
            config(0.9, 50, 0.8, 0.1),
        ] {
            let p = expected(&logits, &config);
            let (mut scratch, draws) = (Scratch::default(), 40_000);
            let mut counts = vec![0u32; p.len()];
            for t in 0..draws {
                let draw = draw(&logits, &config, uniform(7, 1, t), &mut scratch).unwrap();
                counts[draw.id as usize] += 1;
                let real = p[draw.id as usize].ln();
                assert!((f64::from(draw.log_prob) - real).abs() < 1e-5, "{config:?}: {draw:?}, expected {real}");
            }
            // Pearson's chi-square, cells with fewer than 5 expected draws pooled; the bound is 5 sigma.
            let (mut chi, mut cells, mut rest) = (0.0, 0.0, (0.0, 0.0));
            for (&p, &count) in p.iter().zip(&counts) {
                let mean = p * draws as f64;
                if mean >= 5.0 {
                    chi += (f64::from(count) - mean).powi(2) / mean;
                    cells += 1.0;
                } else {
                    rest = (rest.0 + mean, rest.1 + f64::from(count));
                }
            }
            if rest.0 >= 5.0 {
                chi += (rest.1 - rest.0).powi(2) / rest.0;
                cells += 1.0;
            }
            let freedom: f64 = cells - 1.0;
            assert!(chi < freedom + 5.0 * (2.0 * freedom).sqrt(), "{config:?}: chi-square {chi} of {freedom}");
        }
    }

    proptest! {
        #[test]
        fn every_cut_is_what_its_definition_says(
            seed in 0u64..1000, len in 1usize..900, spread in 0.1f64..60.0, temperature in 0.2f32..2.0,
            top_k in prop_oneof![Just(0usize), 1usize..1000], top_p in prop_oneof![Just(1.0f32), 0.01f32..1.0],
            min_p in prop_oneof![Just(0.0f32), 0.001f32..1.0], at in 0.0f64..1.0,
        ) {
            let logits = row(len, seed, spread);
            let config = config(temperature, top_k, top_p, min_p);
            let p = expected(&logits, &config);
            let got = draw(&logits, &config, at, &mut Scratch::default()).unwrap();
            let real = p[got.id as usize].ln();
            // A cut may fall on the other side of one id within rounding; its mass is then below 1e-5 of the rest
            // or the id lies on the threshold itself.
            prop_assert!((f64::from(got.log_prob) - real).abs() < 1e-4, "{:?}, expected {}", got, real);
            let before: f64 = p[..got.id as usize].iter().sum();
            prop_assert!(before - 1e-5 <= at && at <= before + p[got.id as usize] + 1e-5);
        }
    }

    #[test]
    fn greedy_takes_the_lowest_of_the_likeliest_and_reports_the_models_own_log_prob() {
        let logits = [0.0, 2.0, 1.0, 2.0];
        let draw = draw(&logits, &SamplingConfig::greedy(1), 0.99, &mut Scratch::default()).unwrap();
        let sum: f64 = logits.iter().map(|&l: &f32| f64::from(l).exp()).sum();
        assert_eq!(draw.id, 1);
        assert!((f64::from(draw.log_prob) - (2.0 - sum.ln())).abs() < 1e-6);
    }

    #[test]
    fn ids_of_no_probability_are_never_drawn() {
        let mut logits = vec![f32::NEG_INFINITY; 1000];
        (logits[300], logits[301]) = (1.0, 1.0);
        for config in [config(1.0, 0, 1.0, 0.0), config(1.0, 10, 1.0, 0.0), config(1.0, 0, 0.999_999, 0.0)] {
            for (at, id) in [(0.0, 300), (0.499, 300), (0.501, 301), (1.0 - f64::EPSILON / 2.0, 301)] {
                let draw = draw(&logits, &config, at, &mut Scratch::default()).unwrap();
                assert_eq!((draw.id, draw.log_prob), (id, -std::f32::consts::LN_2));
            }
        }
    }

    #[test]
    fn a_row_that_is_no_distribution_gives_no_token() {
        for bad in [f32::NAN, f32::INFINITY] {
            for place in [0, 17, 299] {
                let mut logits = row(300, 1, 4.0);
                logits[place] = bad;
                for config in [SamplingConfig::greedy(1), config(1.0, 0, 1.0, 0.0), config(1.0, 5, 0.9, 0.1)] {
                    assert_eq!(draw(&logits, &config, 0.5, &mut Scratch::default()), None);
                }
            }
        }
        let nothing = [f32::NEG_INFINITY; 20];
        assert_eq!(draw(&nothing, &SamplingConfig::greedy(1), 0.5, &mut Scratch::default()), None);
    }

    #[test]
    fn draws_of_a_stream_are_its_numbers_in_order_and_streams_differ() {
        let mut key = [0; 32];
        (key[0], key[8]) = (5, 2);
        let mut stream = ChaCha8Rng::from_seed(key);
        for t in 0..100 {
            assert_eq!(uniform(5, 2, t), (stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64);
        }
        assert_ne!(uniform(5, 2, 0), uniform(5, 3, 0));
        assert_ne!(uniform(5, 2, 0), uniform(6, 2, 0));
    }

    #[test]
    fn a_row_is_sampled_the_same_among_others() {
        let (vocab, config) = (500, config(0.8, 40, 0.95, 0.01));
        let logits: Vec<f32> = (0..32).flat_map(|r| row(vocab, r, 10.0)).collect();
        let tasks: Vec<Task<'_>> =
            (0..32).map(|row| Task { row, config: &config, uniform: uniform(1, row as u64, 0) }).collect();
        let all = draw_all(&logits, vocab, &tasks, &mut Vec::new());
        for (task, got) in tasks.iter().zip(all) {
            let row = &logits[task.row * vocab..(task.row + 1) * vocab];
            assert_eq!(got, draw(row, task.config, task.uniform, &mut Scratch::default()));
        }
    }
}
