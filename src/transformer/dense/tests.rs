//! Promises of the passes that a GPU runs, held on the CPU against the CPU's own: the same code, another device.
use super::*;
use crate::formats::adapter::Adapter;
use crate::formats::spec::{Activation, Projection};
use crate::transformer::Transformer;
use crate::transformer::{
    decode::BLOCK_TOKENS, decode::Batch, decode::Decoder, decode::Forward, decode::PackedAdapter,
};
use crate::transformer::{
    score, score::ActivationPolicy, score::AdapterGradients, score::Packed, score::ScoreAdapter, score::record,
};
use candle_core::{DType, Device, Tensor};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Models and adapters on them: between them every family, tied and not, with windows shorter than the texts.
pub(super) const MODELS: [(&str, &str); 5] = [
    ("tiny_llama", "tiny_lora"),
    ("tiny_llama3", "tiny_llama3_lora"),
    ("tiny_qwen2", "tiny_qwen2_lora"),
    ("tiny_qwen3", "tiny_qwen3_lora"),
    ("tiny_gemma3", "tiny_gemma3_lora"),
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The model as the CPU's kernels want it.
pub(super) fn panels(name: &str) -> Arc<Transformer> {
    crate::transformer::load::load(&golden(name)).unwrap().transformer
}

/// The model as a GPU would hold it, on the CPU.
fn dense(name: &str, dtype: DType) -> Arc<Transformer> {
    dense_on(&Device::Cpu, name, dtype)
}

/// The model as a GPU would hold it, on `device`.
pub(super) fn dense_on(device: &Device, name: &str, dtype: DType) -> Arc<Transformer> {
    let opened = crate::formats::open(&golden(name)).unwrap();
    let layout = Dense { device: device.clone(), dtype };
    Arc::new(Transformer::dense(&opened.spec, opened.weights.as_ref(), layout).unwrap())
}

pub(super) fn adapter(name: &str, model: &Transformer) -> Adapter {
    Adapter::load(&golden(name), model.spec()).unwrap()
}

fn ids(count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 37 + seed * 101 + i * i * 3) % 256) as u32).collect()
}

pub(super) fn farthest(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    // What is no number is as far as can be; a maximum alone would pass over it.
    let off = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
    got.iter().zip(expected).map(off).fold(0.0, f32::max)
}

/// A sequence's part of a step: tokens, tokens cached before them, block table, with the adapter, rows of logits.
type Part<'a> = (&'a [u32], usize, &'a [u32], bool, usize);

/// Logits of every step of a scene: ragged prefills with and without the adapter, a prefill in chunks, decodes, a fork
/// whose last block is copied, and a step that the adapter has for itself.
pub(super) fn scene(model: &Arc<Transformer>, adapter: &Adapter) -> Vec<Vec<f32>> {
    let mut decoder = Decoder::new(model.clone(), 12).unwrap();
    let critic = Arc::new(model.pack(&adapter.clone().into()).unwrap());
    let mut steps = vec![];
    let mut step = |decoder: &mut Decoder, sequences: &[Part<'_>]| {
        let (mut batch, mut logits) = (Batch::default(), vec![]);
        for &(tokens, cached, table, adapted, logit_rows) in sequences {
            batch.push(tokens, cached, table, adapted.then_some(&critic), logit_rows);
        }
        decoder.step(&batch, &mut logits).unwrap();
        assert_eq!(logits.len(), sequences.iter().map(|s| s.4).sum::<usize>() * model.spec().vocab);
        steps.push(logits);
    };
    let (a, b, c) = (ids(40, 1), ids(9, 2), ids(75, 3));
    let (of_a, of_fork, of_b, of_c) = ([5, 2], [5, 3], [7], [0, 9, 4]);
    step(&mut decoder, &[(&a[..37], 0, &of_a, false, 1), (&b[..5], 0, &of_b, true, 1), (&c[..20], 0, &of_c, true, 0)]);
    step(
        &mut decoder,
        &[(&b[5..6], 5, &of_b, true, 1), (&c[20..70], 20, &of_c, true, 50), (&a[37..38], 37, &of_a, false, 1)],
    );
    decoder.copy_blocks(&[(2, 3), (3, 8)]).unwrap();
    step(
        &mut decoder,
        &[
            (&a[38..39], 38, &of_a, false, 1),
            (&b[..1], 38, &of_fork, false, 1),
            (&c[70..71], 70, &of_c, true, 1),
            (&b[6..8], 6, &of_b, true, 2),
        ],
    );
    step(&mut decoder, &[(&c[71..72], 71, &of_c, true, 1), (&b[8..], 8, &of_b, true, 0)]);
    // The copy of a copy serves as well.
    step(&mut decoder, &[(&a[39..], 39, &[5, 8], false, 1)]);
    steps
}

#[test]
fn writing_gives_the_logits_of_the_cpus_own_kernels_for_every_family() {
    for (name, lora) in MODELS {
        let (panels, dense) = (panels(name), dense(name, DType::F32));
        let adapter = adapter(lora, &panels);
        let with = scene(&panels, &adapter);
        for (index, (got, expected)) in scene(&dense, &adapter).iter().zip(&with).enumerate() {
            let off = farthest(got, expected);
            assert!(off < 5e-5, "{name}, step {index}: {off}");
        }
        let off =
            Adapter { config: crate::formats::adapter::LoraConfig { alpha: 0.0, ..adapter.config.clone() }, ..adapter };
        assert!(farthest(&scene(&dense, &off)[0], &with[0]) > 1e-3, "{name}: the adapter changes nothing");
    }
}

/// The log-probabilities of one row of logits.
pub(super) fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|x| (x - top).exp()).sum();
    logits.iter().map(|x| x - top - sum.ln()).collect()
}

#[test]
fn in_bf16_the_log_probs_stay_near() {
    for (name, lora) in MODELS {
        let (panels, dense) = (panels(name), dense(name, DType::BF16));
        let (adapter, vocab) = (adapter(lora, &panels), panels.spec().vocab);
        assert!(dense.bytes() < panels.bytes() * 2 / 3, "half as large, but for the norms");
        for (got, expected) in scene(&dense, &adapter).iter().zip(scene(&panels, &adapter)) {
            for (got, expected) in got.chunks_exact(vocab).zip(expected.chunks_exact(vocab)) {
                let off = farthest(&log_softmax(got), &log_softmax(expected));
                assert!(off < 0.2 && off > 0.0, "{name}: {off}");
            }
        }
    }
}

/// Log-probs of three texts behind one prefix and of one behind a single token, and the gradients of a weighted sum of them.
pub(super) fn scored(model: &Transformer, adapter: &Adapter, policy: ActivationPolicy) -> (Vec<f32>, AdapterGradients) {
    let (prefix, texts) = (ids(23, 5), [ids(7, 6), ids(31, 7), ids(1, 8)]);
    let packed = [
        Packed { prefix: &prefix, texts: texts.iter().map(Vec::as_slice).collect() },
        Packed { prefix: &prefix[..1], texts: vec![&texts[0]] },
    ];
    let score_adapter = ScoreAdapter::new(model, adapter).unwrap();
    let recorded =
        record(model, score::ScoreBatch { packed: &packed, temperature: 0.7 }, &score_adapter, policy).unwrap();
    let found = recorded.scored.log_probs.clone();
    let weights: Vec<f32> = (0..found.len()).map(|i| (i as f32 * 0.37).sin()).collect();
    (found, recorded.backward(&weights).unwrap())
}

#[test]
fn scoring_gives_the_log_probs_and_gradients_of_the_cpus_own_operations() {
    for (name, lora) in MODELS {
        let (panels, dense) = (panels(name), dense(name, DType::F32));
        let adapter = adapter(lora, &panels);
        let scored = |model| scored(model, &adapter, ActivationPolicy::KeepAll);
        let ((log_probs, gradients), (expected, of_panels)) = (scored(&dense), scored(&panels));
        let off = farthest(&log_probs, &expected);
        assert!(off < 1e-5, "{name}: log-probs off by {off}");
        assert!(
            gradients.factors.keys().eq(adapter.factors.keys()) && of_panels.factors.keys().eq(adapter.factors.keys())
        );
        for (((_, projection), got), expected) in gradients.factors.iter().zip(of_panels.factors.values()) {
            for (got, expected) in [(&got.a, &expected.a), (&got.b, &expected.b)] {
                let largest = expected.iter().fold(0.0f32, |top, x| top.max(x.abs()));
                let off = farthest(got, expected) / largest;
                assert!(largest > 0.0 && off < 1e-5, "{name}, {projection}: {off} of {largest}");
            }
        }
    }
}

#[test]
fn adapters_of_some_projections_have_the_gradients_of_the_cpus_own_operations() {
    let (panels, dense) = (panels("tiny_qwen2"), dense("tiny_qwen2", DType::F32));
    let whole = adapter("tiny_qwen2_lora", &panels);
    for targets in [vec![Projection::QProj, Projection::VProj], vec![Projection::DownProj], vec![Projection::UpProj]] {
        let mut some = whole.clone();
        some.factors.retain(|(_, projection), _| targets.contains(projection));
        some.config.targets = targets;
        let (log_probs, expected) = scored(&panels, &some, ActivationPolicy::KeepAll);
        for policy in [ActivationPolicy::KeepAll, ActivationPolicy::Recompute] {
            let (own, gradients) = scored(&dense, &some, policy);
            assert!(farthest(&own, &log_probs) < 1e-5);
            assert!(gradients.factors.keys().eq(some.factors.keys()));
            for ((place, got), expected) in gradients.factors.iter().zip(expected.factors.values()) {
                for (got, expected) in [(&got.a, &expected.a), (&got.b, &expected.b)] {
                    let largest = expected.iter().fold(0.0f32, |top, x| top.max(x.abs()));
                    assert!(farthest(got, expected) / largest < 1e-5, "{place:?}");
                }
            }
        }
    }
}

#[test]
fn logits_in_pieces_give_the_log_probs_and_gradients_of_all_at_once() {
    let values = |rows: usize, width: usize, seed: usize| {
        let value = |i: usize| ((i * 37 + seed * 101 + i * i * 11) % 255) as f32 / 64.0 - 2.0;
        Tensor::from_vec((0..rows * width).map(value).collect::<Vec<_>>(), (rows, width), &Device::Cpu).unwrap()
    };
    let host = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (x, head) = (values(5, 8, 1), values(30, 8, 2));
    let ids = Tensor::new(&[0u32, 29, 4, 4, 17], &Device::Cpu).unwrap();
    let dy = Tensor::new(&[1.0f32, -0.5, 2.0, 0.25, -3.0], &Device::Cpu).unwrap();
    let of = |at_once| {
        let log_probs = |x: &Tensor| graph::log_probs(x, &head, &ids, 0.9, at_once);
        let gradient = graph::gradient_of(&x, |x| Ok(vec![(log_probs(x)?, dy.clone())])).unwrap();
        (host(log_probs(&x).unwrap()), host(gradient))
    };
    let whole = of(5);
    for at_once in [1, 2, 4] {
        let (log_probs, gradient) = of(at_once);
        assert!(farthest(&log_probs, &whole.0) < 1e-5 && farthest(&gradient, &whole.1) < 1e-5, "{at_once}");
    }
}

#[test]
fn layers_that_are_computed_again_give_the_same_gradients() {
    for (name, lora) in MODELS {
        let dense = dense(name, DType::F32);
        let mut adapter = adapter(lora, &dense);
        let kept = scored(&dense, &adapter, ActivationPolicy::KeepAll);
        assert_eq!(scored(&dense, &adapter, ActivationPolicy::Recompute), kept, "{name}");
        // Where the first layers have no factors, the others' gradients are the same, and theirs are not there.
        adapter.factors.iter_mut().filter(|((layer, _), _)| *layer == 0).for_each(|(_, pair)| pair.b.fill(0.0));
        let (_, mut whole) = scored(&dense, &adapter, ActivationPolicy::KeepAll);
        let of_first = |place: &(usize, Projection)| place.0 == 0;
        adapter.factors.retain(|place, _| !of_first(place));
        whole.factors.retain(|place, _| !of_first(place));
        assert!(!whole.factors.is_empty());
        for policy in [ActivationPolicy::KeepAll, ActivationPolicy::Recompute] {
            assert_eq!(scored(&dense, &adapter, policy).1, whole, "{name}");
        }
    }
}

#[test]
fn norms_gates_and_log_probs_have_the_tensor_librarys_gradients() {
    let values = |rows: usize, width: usize, seed: usize| {
        let value = |i: usize| ((i * 37 + seed * 101 + i * i * 11) % 255) as f32 / 16.0 - 8.0;
        let values: Vec<f32> = (0..rows * width).map(value).collect();
        Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap()
    };
    let host = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (x, dy) = (values(5, 14, 1), values(5, 7, 2));
    for activation in [Activation::Silu, Activation::GeluTanh] {
        let expected = graph::gradient_of(&x, |x| Ok(vec![(ops::gated(x, activation)?, dy.clone())])).unwrap();
        let off = farthest(&host(ops::gated_gradient(&x, activation, &dy).unwrap()), &host(expected));
        assert!(off < 1e-4, "{activation:?}: {off}");
    }
    let (weight, dx) = (values(1, 14, 3).squeeze(0).unwrap(), values(5, 14, 4));
    let expected = graph::gradient_of(&x, |x| Ok(vec![(ops::norm(x, &weight, 1e-2)?, dx.clone())])).unwrap();
    let off = farthest(&host(ops::norm_gradient(&x, &weight, 1e-2, &dx).unwrap()), &host(expected));
    assert!(off < 1e-5, "{off}");
    let ids = Tensor::new(&[0u32, 13, 4, 4, 9], &Device::Cpu).unwrap();
    let dy = dy.narrow(1, 3, 1).unwrap().squeeze(1).unwrap();
    let expected = graph::gradient_of(&x, |x| Ok(vec![(ops::picked_log_softmax(x, &ids, 1.4)?, dy.clone())])).unwrap();
    let off = farthest(&host(ops::picked_log_softmax_gradient(&x, &ids, 1.4, &dy).unwrap()), &host(expected));
    assert!(off < 1e-5, "{off}");
}

#[test]
fn both_passes_agree_in_bf16_as_well() {
    let model = dense("tiny_llama", DType::BF16);
    let adapter = adapter("tiny_lora", &model);
    let (prompt, text) = (ids(23, 5), ids(31, 7));
    let score_adapter = ScoreAdapter::new(&model, &adapter).unwrap();
    let packed = [Packed { prefix: &prompt, texts: vec![&text] }];
    let batch = score::ScoreBatch { packed: &packed, temperature: 1.0 };
    let scored = score::score(&model, batch, Some(&score_adapter)).unwrap().log_probs;
    let mut decoder = Decoder::new(model.clone(), 2).unwrap();
    let critic = Arc::new(model.pack(&adapter.into()).unwrap());
    let (mut next, mut cached) = (prompt.as_slice(), 0);
    for (id, scored) in text.iter().zip(scored) {
        let (mut batch, mut logits) = (Batch::default(), vec![]);
        batch.push(next, cached, &[1, 0], Some(&critic), 1);
        decoder.step(&batch, &mut logits).unwrap();
        let written = crate::kernels::ops::log_prob(&logits, *id, 1.0);
        assert!((written - scored).abs() < 0.1, "{written} against {scored}");
        (cached, next) = (cached + next.len(), std::slice::from_ref(id));
    }
    assert!(cached + 1 > BLOCK_TOKENS, "more than one block");
}

#[test]
fn keys_and_values_of_another_type_than_the_device_has_are_refused() {
    let dense = dense("tiny_llama", DType::F32);
    for (kv, accepted) in [("auto", true), ("f32", true), ("bf16", false), ("int8", false)] {
        let decoder = Decoder::with_kv(dense.clone(), kv.parse().unwrap(), 1);
        assert_eq!(decoder.is_ok(), accepted, "{kv}");
        if let Err(error) = decoder {
            assert_eq!(error.to_string(), format!("engine.kv: expected auto or f32 on cpu, got {kv}"));
        }
    }
}

#[test]
fn an_adapter_for_other_weights_is_refused() {
    let (panels, dense) = (panels("tiny_llama"), dense("tiny_llama", DType::F32));
    let adapter = adapter("tiny_lora", &panels);
    for (model, other) in [(&panels, &dense), (&dense, &panels)] {
        let foreign = Arc::new(other.pack(&adapter.clone().into()).unwrap());
        let mut batch = Batch::default();
        batch.push(&[1, 2], 0, &[0], Some(&foreign), 1);
        let refused = Decoder::new(model.clone(), 1).unwrap().step(&batch, &mut vec![]).unwrap_err();
        assert!(refused.to_string().contains("adapter"), "{refused}");
    }
    assert!(matches!(
        PackedAdapter::new(&adapter, panels.spec()).layout::<LinearFactors>(),
        Err(crate::transformer::error::Error::OtherBackend)
    ));
    let refused = crate::transformer::full_weights::FullWeights::copy_of(&dense).unwrap_err().to_string();
    assert!(refused.contains("learner.mode full") && refused.contains("CPU"), "{refused}");
    let whole = crate::transformer::full_weights::FullWeights::copy_of(&panels).unwrap();
    assert!(matches!(dense.pack(&whole.into()), Err(crate::transformer::error::Error::CpuOnly { .. })));
}
