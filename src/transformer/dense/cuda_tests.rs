//! The passes on a GPU against the same passes on the CPU. `scripts/cuda-emulate` runs them where there is none.
use super::attention;
use super::layout::Dense;
use super::qkv::RotatedQkv;
use super::tests::{MODELS, adapter, dense_on, farthest, log_softmax, panels, scene, scored};
use crate::formats::WeightReader;
use crate::formats::adapter::{Adapter, Factors, LoraConfig};
use crate::formats::spec::{ModelSpec, Projection};
use crate::transformer::Transformer;
use crate::transformer::decode::RowSampling;
use crate::transformer::device::{self, DeviceChoice};
use crate::transformer::gpu_costs::memory::{Recording, score_activations};
use crate::transformer::score::{ActivationPolicy, Packed, ScoreAdapter, ScoreBatch, record};
use candle_core::{D, DType, Device, Result, Tensor};

fn gpu() -> Device {
    DeviceChoice::Cuda(0).open().expect("a GPU, or scripts/cuda-emulate")
}

/// Values from -1 to 1 that are exact in bf16, the same on every device.
fn values(shape: &[usize], device: &Device, dtype: DType) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| ((i * 37 + i * i * 11) % 255) as f32 / 128.0 - 1.0).collect();
    Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
}

/// Operations in the forms that the passes use: strided inputs, rows that are no multiple of a vector or a warp.
fn operations(device: &Device, dtype: DType) -> Result<Vec<(&'static str, Tensor)>> {
    let x = values(&[5, 3, 70], device, dtype)?;
    let rows = values(&[15, 70], device, dtype)?;
    let ids = Tensor::new(&[4u32, 0, 4, 2], device)?;
    let places = Tensor::new(&[7u32, 3, 9, 1], device)?.unsqueeze(1)?.broadcast_as((4, 70))?.contiguous()?;
    let written = rows.copy()?;
    written.scatter_set(&places, &rows.narrow(0, 1, 4)?.contiguous()?, 0)?;
    let picks = Tensor::new(&[69u32, 0, 33, 7, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12], device)?.unsqueeze(1)?;
    let batches = values(&[2, 3, 9, 16], device, dtype)?;
    Ok(vec![
        ("matmul", rows.matmul(&values(&[33, 70], device, dtype)?.t()?)?),
        ("matmul of a batch", batches.matmul(&batches.transpose(2, 3)?.contiguous()?)?),
        ("index_select", x.index_select(&ids, 0)?),
        ("index_add", x.index_add(&ids, &x.narrow(0, 0, 4)?.contiguous()?, 0)?),
        ("scatter_set", written),
        ("gather", rows.gather(&picks, 1)?),
        ("cat", Tensor::cat(&[x.narrow(2, 0, 11)?, x.narrow(2, 40, 30)?], 2)?),
        ("contiguous", x.permute((2, 0, 1))?.contiguous()?),
        ("sum of many", x.sum_keepdim(D::Minus1)?),
        ("sum of few", x.sum_keepdim(1)?),
        ("sum of strided", x.transpose(1, 2)?.sum_keepdim(1)?),
        ("max", x.max_keepdim(D::Minus1)?),
        ("mean", x.sqr()?.mean_keepdim(D::Minus1)?),
        ("broadcast", x.broadcast_mul(&rows.narrow(0, 0, 1)?.squeeze(0)?)?.broadcast_sub(&x.max_keepdim(D::Minus1)?)?),
        ("unary", ((x.exp()? + x.silu()?)? + x.tanh()?)?),
        ("affine", x.affine(0.5, -0.25)?),
        ("attention in tiles", tiled(device, dtype)?.0),
        ("gradient of attention in tiles", tiled(device, dtype)?.1),
        ("cast", x.to_dtype(DType::BF16)?.to_dtype(DType::F32)?.to_dtype(DType::F16)?),
    ])
}

/// Attention of 23 rows in tiles of 5, and the gradients of queries, keys and values side by side. Always in f32.
fn tiled(device: &Device, dtype: DType) -> Result<(Tensor, Tensor)> {
    let heads = |heads: usize| values(&[23, heads, 8], device, DType::F32);
    let qkv = RotatedQkv { q: heads(6)?, k: heads(2)?, v: (heads(2)? * 0.5)? };
    let hidden = |i: usize| if i % 23 > i / 23 { f32::NEG_INFINITY } else { 0.0 };
    let mask = Tensor::from_vec((0..23 * 23).map(hidden).collect::<Vec<f32>>(), (1, 23, 23), device)?;
    let out = attention::attend_in_tiles(&qkv, &mask, 0.3, 5)?;
    let gradient = attention::gradient(&qkv, &mask, 0.3, 5, &values(&[23, 48], device, DType::F32)?)?;
    let all = Tensor::cat(&[gradient.q, gradient.k, gradient.v], 1)?;
    Ok((out.to_dtype(dtype)?, all.to_dtype(dtype)?))
}

#[test]
fn operations_give_the_cpus_numbers() {
    for (dtype, limit) in [(DType::F32, 2e-6), (DType::BF16, 1e-2)] {
        let (on_gpu, on_cpu) = (operations(&gpu(), dtype).unwrap(), operations(&Device::Cpu, dtype).unwrap());
        for ((name, got), (_, expected)) in on_gpu.iter().zip(&on_cpu) {
            assert_eq!((got.dims(), got.dtype()), (expected.dims(), expected.dtype()), "{name}");
            let host = |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let (got, expected) = (host(got), host(expected));
            let largest = expected.iter().fold(1.0f32, |top, x| top.max(x.abs()));
            let off = farthest(&got, &expected) / largest;
            assert!(off <= limit, "{name}, {dtype:?}: {off}");
        }
    }
}

#[test]
fn tokens_are_drawn_from_distributions_alone() {
    let sampling =
        |temperature, top_k, top_p| RowSampling { row: 0, uniform: 0.5, temperature, top_k, top_p, min_p: 0.0 };
    let samplings = [sampling(1.0, 0, 1.0), sampling(0.0, 0, 1.0), sampling(1.0, 5, 0.9)];
    let ids = |row: Vec<f32>| -> Vec<Option<u32>> {
        let logits = Tensor::from_vec(row.clone(), (1, row.len()), &gpu()).unwrap();
        super::cuda::draw(&logits, &samplings).unwrap().into_iter().map(|drawn| drawn.map(|drawn| drawn.id)).collect()
    };
    for bad in [f32::NAN, f32::INFINITY] {
        for place in [0, 77, 299] {
            let mut row = vec![0.5; 300];
            row[place] = bad;
            assert_eq!(ids(row), [None; 3]);
        }
    }
    assert_eq!(ids(vec![f32::NEG_INFINITY; 20]), [None; 3]);
    // Of equals those of lower ids stay: the fifth of five is kept by top-p as well.
    assert_eq!(ids(vec![1.0; 1000]), [Some(500), Some(0), Some(2)]);
    let mut two = vec![f32::NEG_INFINITY; 1000];
    (two[300], two[301]) = (1.0, 1.0);
    assert_eq!(ids(two), [Some(301), Some(300), Some(301)]);
}

#[test]
fn more_memory_than_the_gpu_has_is_an_error_and_no_more() {
    let gpu = gpu();
    assert!(Tensor::zeros(1usize << 44, DType::F32, &gpu).is_err());
    let free = crate::transformer::device::available_bytes(&gpu).unwrap();
    let held = Tensor::zeros(1usize << 20, DType::F32, &gpu).unwrap();
    assert!(held.sum_all().unwrap().to_scalar::<f32>().unwrap() == 0.0);
    assert!(free > 0);
}

#[test]
fn writing_in_f32_gives_the_logits_of_the_cpus_own_kernels() {
    for (name, lora) in MODELS {
        let (panels, dense) = (panels(name), dense_on(&gpu(), name, DType::F32));
        let adapter = adapter(lora, &panels);
        for (index, (got, expected)) in scene(&dense, &adapter).iter().zip(scene(&panels, &adapter)).enumerate() {
            let off = farthest(got, &expected);
            assert!(off < 5e-5, "{name}, step {index}: {off}");
        }
    }
}

#[test]
fn writing_in_bf16_gives_the_log_probs_of_the_same_pass_on_the_cpu() {
    for (name, lora) in MODELS {
        let (on_cpu, on_gpu) = (dense_on(&Device::Cpu, name, DType::BF16), dense_on(&gpu(), name, DType::BF16));
        let (adapter, vocab) = (adapter(lora, &on_cpu), on_cpu.spec().vocab);
        let mut worst = 0.0f32;
        for (got, expected) in scene(&on_gpu, &adapter).iter().zip(scene(&on_cpu, &adapter)) {
            for (got, expected) in got.chunks_exact(vocab).zip(expected.chunks_exact(vocab)) {
                worst = worst.max(farthest(&log_softmax(got), &log_softmax(expected)));
            }
        }
        println!("{name}: {worst}");
        // Random weights give almost flat distributions, and sums have other orders: as the test of bf16 on the CPU.
        assert!(worst < 0.2, "{name}: {worst}");
    }
}

#[test]
fn scoring_gives_the_log_probs_and_gradients_of_the_same_pass_on_the_cpu() {
    for (dtype, limit) in [(DType::F32, 1e-5), (DType::BF16, 5e-2)] {
        for (name, lora) in MODELS {
            let (on_cpu, on_gpu) = (dense_on(&Device::Cpu, name, dtype), dense_on(&gpu(), name, dtype));
            let adapter = adapter(lora, &on_cpu);
            let scored = |model| scored(model, &adapter, ActivationPolicy::Recompute);
            let ((log_probs, gradients), (expected, of_cpu)) = (scored(&on_gpu), scored(&on_cpu));
            let off = farthest(&log_probs, &expected);
            println!("{name} {dtype:?}: log-probs {off}");
            assert!(off < limit, "{name}, {dtype:?}: log-probs off by {off}");
            assert!(gradients.factors.keys().eq(adapter.factors.keys()));
            let mut worst = 0.0f32;
            for (got, expected) in gradients.factors.values().zip(of_cpu.factors.values()) {
                for (got, expected) in [(&got.a, &expected.a), (&got.b, &expected.b)] {
                    let largest = expected.iter().fold(0.0f32, |top, x| top.max(x.abs()));
                    worst = worst.max(farthest(got, expected) / largest);
                }
            }
            println!("{name} {dtype:?}: gradients {worst}");
            assert!(worst < limit, "{name}, {dtype:?}: gradients off by {worst}");
        }
    }
}

/// A model of any size: every weight is 0.
struct Zeros;

impl WeightReader for Zeros {
    fn get(&self, _: &str, shape: &[usize]) -> crate::formats::Result<Vec<f32>> {
        Ok(vec![0.0; shape.iter().product()])
    }
    fn has(&self, _: &str) -> bool {
        true
    }
    fn is_four_bit(&self, _: &str) -> bool {
        false
    }
}

/// The most that recording a pass and its gradient allocate, beside what was there: by count and as planned.
fn counted_and_planned(spec: &ModelSpec, lengths: [usize; 3], policy: ActivationPolicy) -> [usize; 2] {
    let gpu = gpu();
    let model = Transformer::dense(spec, &Zeros, Dense { device: gpu.clone(), dtype: DType::BF16 }).unwrap();
    let config = LoraConfig { rank: 4, alpha: 8.0, rslora: false, targets: Projection::ALL.to_vec() };
    let factors = |(layer, projection): (usize, Projection)| {
        let (inputs, outputs) = projection.sizes(spec);
        let pair = Factors { a: vec![0.0; config.rank * inputs], b: vec![0.0; outputs * config.rank] };
        ((layer, projection), pair)
    };
    let places = (0..spec.layers).flat_map(|layer| Projection::ALL.map(|projection| (layer, projection)));
    let adapter = Adapter::new(config.clone(), places.map(factors).collect());
    let [prefix, text, count] = lengths;
    let (prefix, text) = (vec![1u32; prefix], vec![1u32; text]);
    let packed = [Packed { prefix: &prefix, texts: vec![&text; count] }];
    let score_adapter = ScoreAdapter::new(&model, &adapter).unwrap();
    // What loading freed is given back first.
    gpu.synchronize().unwrap();
    device::reset_peak(&gpu);
    let before = device::peak_bytes(&gpu).unwrap();
    let recorded = record(&model, ScoreBatch { packed: &packed, temperature: 1.0 }, &score_adapter, policy).unwrap();
    let targets = text.len() * count;
    recorded.backward(&vec![1.0; targets]).unwrap();
    let recording = Recording { lora: &config, rows: prefix.len() + targets, targets, policy };
    [device::peak_bytes(&gpu).unwrap() - before, score_activations(spec, &recording)]
}

#[test]
#[ignore = "counts the device's memory, so it runs by itself: scripts/cuda-emulate"]
fn recorded_passes_take_the_memory_that_is_planned() {
    let golden = |name: &str| panels(name).spec().clone();
    let llama = golden("tiny_llama");
    let shapes = [
        ("long", llama.clone(), [250, 30, 8]),
        ("wide feed-forward", ModelSpec { intermediate: 1500, ..llama.clone() }, [60, 20, 4]),
        ("large vocabulary", ModelSpec { vocab: 20_000, ..llama.clone() }, [60, 20, 4]),
        ("many targets", ModelSpec { vocab: 3_000, ..llama.clone() }, [20, 90, 4]),
        ("deep", ModelSpec { layers: 12, ..llama.clone() }, [60, 20, 4]),
        ("wide", ModelSpec { hidden: 512, ..llama }, [60, 20, 4]),
        ("biases", golden("tiny_qwen2"), [60, 20, 4]),
        ("norms of heads", golden("tiny_qwen3"), [60, 20, 4]),
        ("windows", golden("tiny_gemma3"), [250, 30, 8]),
    ];
    let mut wrong = vec![];
    for (name, spec, lengths) in shapes {
        for policy in [ActivationPolicy::KeepAll, ActivationPolicy::Recompute] {
            let [counted, planned] = counted_and_planned(&spec, lengths, policy);
            let ratio = planned as f64 / counted as f64;
            println!("{name}, {policy:?}: {counted} bytes, planned {planned}: {ratio:.3}");
            if !(1.0..1.05).contains(&ratio) {
                wrong.push((name, policy, ratio));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
