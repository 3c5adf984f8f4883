//! Benchmarks of single components. Each prints its time and a lower bound measured in the same run.
//!
//! The bound is the time of the arithmetic at the processor's measured peak, or of the memory reads at the speed of a
//! plain sum, whichever is larger.
#![allow(clippy::print_stdout)]

use criterion::Criterion;
use rco_node::engine::probe::{Pool, Sampling, Scheduling, key};
use rco_node::engine::sampler::SamplingConfig;
use rco_node::formats::rotary::Rotary;
use rco_node::formats::{spec::Family, spec::ModelSpec};
use rco_node::kernels::{KvKind, PassPrecisions, Precision, Weight, peak};
use rco_node::transformer::probe::Attention;
use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The sizes of SmolLM2-135M.
fn spec() -> ModelSpec {
    ModelSpec {
        vocab: 49_152,
        family: Family::Llama,
        layer_spec: Family::Llama.layer_spec(),
        embedding_scale: 1.0,
        score_scale: 0.125,
        residual_scale: 1.0,
        logit_divisor: 1.0,
        unrotated: vec![],
        sliding: None,
        hidden: 576,
        intermediate: 1536,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        rotary: Rotary::new(100_000.0, 64),
        norm_epsilon: 1e-5,
        context_tokens: 8192,
        tied: true,
    }
}

fn wave(count: usize, pace: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * pace).sin()).collect()
}

/// Seconds of the fastest of 20 runs of `work`.
fn fastest(mut work: impl FnMut()) -> f64 {
    let once = |work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64()
    };
    (0..20).map(|_| once(&mut work)).fold(f64::INFINITY, f64::min)
}

/// Seconds to read `floats` on one thread.
fn reading(floats: usize) -> f64 {
    let values = wave(floats, 0.1);
    fastest(|| {
        let mut lanes = [0.0f32; 32];
        for chunk in values.as_chunks::<32>().0 {
            lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane += value);
        }
        black_box(lanes);
    })
}

/// Measures `work` and prints its best mean and the lower bound, `floor` (seconds).
fn bench(criterion: &mut Criterion, name: &str, floor: f64, mut work: impl FnMut()) {
    let best = Cell::new(f64::INFINITY);
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|rounds| {
            let started = Instant::now();
            (0..rounds).for_each(|_| work());
            let elapsed = started.elapsed();
            best.set(best.get().min(elapsed.as_secs_f64() / rounds as f64));
            elapsed
        });
    });
    // Not finite if a filter on the command line skipped it.
    if best.get().is_finite() {
        let (micros, floor) = (best.get() * 1e6, floor * 1e6);
        println!("{name:<40} {micros:>10.2} us   floor {floor:>10.2} us   {:>6.2} x", micros / floor);
    }
}

fn main() {
    let criterion = Criterion::default().warm_up_time(Duration::from_millis(300)).sample_size(20);
    let criterion = &mut criterion.measurement_time(Duration::from_secs(2)).configure_from_args();
    let threads = rayon::current_num_threads() as f64;
    let peak = peak::flops_per_second();
    let spec = spec();

    for rows in [1, 32, 256] {
        let (inputs, outputs) = (spec.hidden, 2 * spec.intermediate);
        let weights = wave(inputs * outputs, 0.7);
        let (x, mut y) = (wave(rows * inputs, 0.3), vec![0.0; rows * outputs]);
        let arithmetic = 2.0 * (rows * inputs * outputs) as f64 / peak;
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let weight = Weight::new(&[&weights], inputs, PassPrecisions::decode_only(precision));
            let floor = arithmetic.max(reading(weight.decode_bytes() / size_of::<f32>()) / threads);
            let name = format!("linear/{precision}/{outputs}x{inputs}/{rows} rows");
            bench(criterion, &name, floor, || rayon::scope(|_| weight.decode(&x, &mut y)));
        }
    }
    for (kv, bytes) in [(KvKind::Bf16, 2), (KvKind::Int8, 1)] {
        for (sequences, context) in [(32, 128), (32, 1024), (4, 4096)] {
            let mut attention = Attention::new(&spec, sequences, context, kv);
            // Keys and values of `bytes` each.
            let floats = 2 * bytes * sequences * context * spec.kv_heads * spec.head_dim / size_of::<f32>();
            let arithmetic = 4.0 * (sequences * context * spec.heads * spec.head_dim) as f64 / peak;
            let floor = arithmetic.max(reading(floats) / threads);
            bench(criterion, &format!("attention/{kv:?}/{sequences} x {context}"), floor, || attention.attend());
        }
    }
    for (name, spread, top_p) in [("whole", 8.0, 1.0), ("top-p", 8.0, 0.95), ("top-p of flat rows", 1e-3, 0.95)] {
        let logits: Vec<f32> = wave(64 * spec.vocab, 1.7).into_iter().map(|value| value * spread).collect();
        let config = SamplingConfig { temperature: 0.7, top_p, ..SamplingConfig::greedy(1) };
        let mut sampling = Sampling::new(logits, spec.vocab, config);
        let floor = reading(64 * spec.vocab) / threads;
        bench(criterion, &format!("sampler/64 rows/{name}"), floor, || assert_eq!(sampling.draw(), 64));
    }
    for sequences in [32, 256] {
        let mut scheduling = Scheduling::new(sequences, 512);
        // Each sequence's block table is read once and passed to the model.
        let floor = reading(sequences * 16);
        bench(criterion, &format!("scheduler/a step of {sequences}"), floor, || scheduling.step());
    }
    let mut pool = Pool::new(4096);
    let ids = std::array::from_fn(|at| at as u32);
    let hashing = fastest(|| {
        for _ in 0..100 {
            black_box(key(black_box(&ids)));
        }
    }) / 100.0;
    bench(criterion, "block pool/a turn of 4096", hashing, || pool.turn());
    criterion.final_summary();
}
