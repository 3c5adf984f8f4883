//! The arithmetic against what the code itself says of models that are there.

use super::memory::{Recording, adapter_floats, device_adapter_floats, kv_token, score_activations, weights};
use super::passes::{Attention, ScoreShape, Step, decode, decode_layer, score, score_gradient};
use crate::formats::adapter::{Adapter, LoraConfig};
use crate::formats::spec::{ModelSpec, Projection};
use crate::kernels::attention::BLOCK_TOKENS;
use crate::transformer::Transformer;
use crate::transformer::dense::{Dense, decode::DenseDecoder};
use crate::transformer::score::ActivationPolicy;
use candle_core::{DType, Device};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn spec(name: &str) -> ModelSpec {
    crate::formats::open(&golden(name)).unwrap().spec
}

fn lora() -> LoraConfig {
    LoraConfig { rank: 4, alpha: 8.0, rslora: false, targets: Projection::ALL.to_vec() }
}

fn step(sequences: usize, rows: usize, attention: Attention) -> Step<'static> {
    Step { sequences, rows, context: 64, logits: sequences, adapted: None, attention }
}

#[test]
fn weights_keys_and_adapters_are_as_large_as_those_that_are_loaded() {
    for name in ["tiny_llama", "tiny_llama_tied", "tiny_qwen2", "tiny_qwen3", "tiny_gemma3"] {
        let opened = crate::formats::open(&golden(name)).unwrap();
        let layout = Dense { device: Device::Cpu, dtype: DType::BF16 };
        let loaded = Transformer::dense(&opened.spec, opened.weights.as_ref(), layout).unwrap();
        assert_eq!(weights(&opened.spec), loaded.bytes(), "{name}");
        let block = DenseDecoder::block_bytes(&opened.spec, DType::BF16);
        assert_eq!(kv_token(&opened.spec) * BLOCK_TOKENS, block, "{name}");
    }
    let spec = spec("tiny_llama");
    let adapter = Adapter::load(&golden("tiny_lora"), &spec).unwrap();
    assert_eq!(adapter_floats(&spec, &adapter.config) * size_of::<f32>(), adapter.bytes());
    let opened = crate::formats::open(&golden("tiny_llama")).unwrap();
    let layout = Dense { device: Device::Cpu, dtype: DType::F32 };
    let dense = Transformer::dense(&opened.spec, opened.weights.as_ref(), layout).unwrap();
    let packed = dense.pack(&adapter.clone().into()).unwrap();
    assert_eq!(device_adapter_floats(&spec, &adapter.config) * size_of::<f32>(), packed.bytes());
}

/// As the emulator counts them (`scripts/cuda-emulate`): norm, conversion, product, heads, attention, product, sum; norm,
/// conversion, product, gate, conversion, product, sum. Plain attention: rows, their conversion, gather 4, attention 7, and
/// the conversion of what it gives.
#[test]
fn launches_are_those_of_the_code() {
    let of = |name, step: &Step<'_>| decode_layer(&spec(name), step).launches();
    assert_eq!(of("tiny_llama", &step(1, 1, Attention::Flash)), 14.0);
    assert_eq!(of("tiny_llama", &step(8, 1, Attention::Flash)), 14.0);
    assert_eq!(of("tiny_llama", &step(1, 1, Attention::Plain)), 27.0);
    assert_eq!(of("tiny_llama", &step(1, 8, Attention::Plain)), 29.0, "two more: queries and results");
    assert_eq!(of("tiny_qwen2", &step(1, 1, Attention::Flash)), 15.0, "a bias");
    assert_eq!(of("tiny_qwen3", &step(1, 1, Attention::Flash)), 14.0, "heads are normalised where they are made");
    let llama = spec("tiny_llama");
    let flash = step(1, 1, Attention::Flash);
    // Six uploads, embeddings 4, norm, logits' index and rows, product 2, draws 4.
    let all = decode(&llama, &flash).launches();
    assert_eq!(all, 14.0 * llama.layers as f64 + 6.0 + 4.0 + 1.0 + 2.0 + 2.0 + 4.0);
    let lora = lora();
    // For each of four linears two products and a sum; attention's output is converted.
    let alone = decode_layer(&llama, &Step { adapted: Some((&lora, 1)), ..flash }).launches();
    assert_eq!(alone, 14.0 + 4.0 * 3.0 + 1.0);
    let mixed = decode_layer(&llama, &Step { adapted: Some((&lora, 3)), ..step(8, 1, Attention::Flash) }).launches();
    assert_eq!(mixed, alone + 4.0 * 2.0);
}

#[test]
fn a_step_multiplies_two_per_weight_and_token_and_reads_each_weight_once() {
    let spec = spec("tiny_llama");
    let linears = spec.tensors().into_iter().filter(|(name, shape)| shape.len() == 2 && !name.contains("embed"));
    let weights: usize = linears.map(|(_, shape)| shape[0] * shape[1]).sum();
    let of = |sequences| decode(&spec, &step(sequences, 1, Attention::Flash));
    let flops = |sequences| of(sequences).list.iter().map(|one| one.flops).sum::<f64>();
    let bytes = |sequences| of(sequences).list.iter().map(|one| one.bytes).sum::<f64>();
    let attended = (4 * spec.layers * spec.heads * spec.head_dim * 64) as f64;
    assert_eq!(flops(3), 3.0 * (2.0 * weights as f64 + attended));
    let once = 3.0 * bytes(2) - 2.0 * bytes(3);
    assert!((once - 2.0 * weights as f64).abs() < 1.0, "{once} bytes of {weights} weights");
}

#[test]
fn a_gradient_costs_more_than_the_pass_and_memory_grows_faster_than_rows() {
    let (spec, lora) = (spec("tiny_qwen2"), lora());
    let shape = ScoreShape { rows: 96, targets: 32, lora: Some(&lora) };
    let flops = |list: &super::operations::Operations| list.list.iter().map(|one| one.flops).sum::<f64>();
    let (forward, backward) = (score(&spec, &shape), score_gradient(&spec, &shape, ActivationPolicy::KeepAll));
    assert!(flops(&backward) > flops(&forward) && backward.launches() > 2.0 * forward.launches());
    assert_eq!(backward.host_floats, device_adapter_floats(&spec, &lora) as f64);
    let again = score_gradient(&spec, &shape, ActivationPolicy::Recompute);
    assert!(flops(&again) > flops(&backward) && flops(&again) < flops(&backward) + flops(&forward));
    let of = |lora, rows, policy| score_activations(&spec, &Recording { lora, rows, targets: 32, policy });
    let bytes = |rows| of(&lora, rows, ActivationPolicy::KeepAll);
    assert!(bytes(2048) > 2 * bytes(1024), "the mask grows with the square of the rows");
    assert!(of(&lora, 256, ActivationPolicy::Recompute) < bytes(256), "one layer's graph instead of all");
    let some = LoraConfig { targets: vec![Projection::QProj, Projection::VProj], ..lora.clone() };
    assert!(of(&some, 256, ActivationPolicy::KeepAll) < bytes(256), "fewer factors, smaller gradients");
}
