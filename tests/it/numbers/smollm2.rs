//! The real model against transformers in f32: tokenizer, log-probs, greedy text, both passes.

use crate::numbers::passes::log_probs;
use crate::support::models::{
    Numbers, farthest, golden, quickstart, smollm2, smollm2_in, smollm2_opened, smollm2_with,
};
use candle_core::Device;
use rco_node::engine::{Engine, EngineConfig, Request, sampler::SamplingConfig};
use rco_node::formats::adapter::{Adapter, Factors};
use rco_node::kernels::{KvPrecision, MatmulPrecision, PassPrecisions, Precision};
use rco_node::learner::LearnerConfig;
use rco_node::transformer::Transformer;
use rco_node::transformer::score::{ActivationPolicy, Packed, ScoreAdapter, ScoreBatch, record};
use rco_node::transformer::{decode::BLOCK_TOKENS, decode::Batch, decode::Decoder, decode::Forward};
use std::sync::Arc;

const PROMPTS: usize = 20;

#[test]
fn the_real_model_gives_the_log_probs_and_the_greedy_text_of_transformers() {
    let (model, numbers) = (smollm2(), Numbers::read("smollm2.safetensors"));
    let prompts: Vec<String> = serde_json::from_slice(&std::fs::read(golden("smollm2_prompts.json")).unwrap()).unwrap();
    assert_eq!(prompts.len(), PROMPTS);
    let config = quickstart::<EngineConfig>("engine");
    let decoder = Decoder::sized(model.transformer.clone(), config.kv, config.kv_cache_mib).unwrap();
    let mut engine = Engine::new(decoder, model.tokenizer.clone(), config);
    let mut requests = vec![];
    let mut farthest_off: f32 = 0.0;
    for (i, prompt) in prompts.iter().enumerate() {
        let ids = numbers.u32(&format!("ids.{i}"));
        let text = format!("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n");
        assert_eq!(model.tokenizer.encode(&text).unwrap(), ids, "prompt {i}");
        let after = next_log_probs(&ids);
        let top: Vec<f32> = numbers.u32(&format!("top_ids.{i}")).iter().map(|&id| after[id as usize]).collect();
        let grid: Vec<f32> = after.iter().step_by(97).copied().collect();
        let off = farthest(&top, &numbers.f32(&format!("top_logprobs.{i}")))
            .max(farthest(&grid, &numbers.f32(&format!("grid_logprobs.{i}"))));
        assert!(off < 1e-3, "prompt {i}: {off}");
        farthest_off = farthest_off.max(off);
        requests.push(Request::new(ids, 1, SamplingConfig::greedy(32), vec![], 0));
    }
    let order: Vec<_> = requests.into_iter().map(|request| engine.submit(request).unwrap()).collect();
    let mut same = 0;
    while !engine.is_idle() {
        engine.step().unwrap();
        for (id, completions) in engine.take_finished() {
            let i = order.iter().position(|&request| request == id).unwrap();
            same += usize::from(completions[0].ids == numbers.u32(&format!("greedy.{i}")));
        }
    }
    assert!(same >= 19, "greedy text is the same for {same} of {PROMPTS} prompts");
    // Not silent, so that a drift is seen long before it fails.
    eprintln!("largest difference of a log-prob {farthest_off:.2e}; greedy text the same for {same} of {PROMPTS}");
}

#[test]
fn on_the_real_model_the_score_pass_agrees_with_decode_and_with_transformers() {
    let (model, numbers) = (smollm2(), Numbers::read("smollm2.safetensors"));
    for i in 0..4 {
        let (ids, text) = (numbers.u32(&format!("ids.{i}")), numbers.u32(&format!("greedy.{i}")));
        let packed = [Packed { prefix: &ids, texts: vec![&text] }];
        let scored = log_probs(model, &packed, None);
        let off = farthest(&scored, &numbers.f32(&format!("scored_logprobs.{i}")));
        assert!(off < 1e-3, "prompt {i}: {off}");
    }
}

/// Mean KL divergence from f32, in nats a position, over real prompts and the texts behind them.
#[test]
fn narrow_weights_write_by_almost_the_distribution_of_f32() {
    let numbers = Numbers::read("smollm2.safetensors");
    let texts: Vec<Vec<u32>> = (0..PROMPTS)
        .map(|i| [numbers.u32(&format!("ids.{i}")), numbers.u32(&format!("greedy.{i}"))].concat())
        .collect();
    let [bf16, int8] = [Precision::Bf16, Precision::Int8].map(|precision| smollm2_in(precision).transformer);
    let full = &smollm2().transformer;
    let limits = [
        ("bf16", &bf16, KvPrecision::Auto, 2e-4),
        ("int8", &int8, KvPrecision::Auto, 5e-3),
        ("int8 with kv in int8", &int8, KvPrecision::Int8, 7e-3),
        ("f32 with kv in bf16", full, KvPrecision::Bf16, 2e-4),
        ("f32 with kv in int8", full, KvPrecision::Int8, 1.5e-3),
    ];
    let longest = texts.iter().map(Vec::len).max().unwrap();
    let blocks = longest.div_ceil(BLOCK_TOKENS) as u32;
    let decoder =
        |model: &Arc<Transformer>, kv| Decoder::with_kv(model.clone(), kv, PROMPTS * blocks as usize).unwrap();
    let mut decoders = vec![decoder(full, KvPrecision::F32)];
    decoders.extend(limits.iter().map(|(_, model, kv, _)| decoder(model, *kv)));
    let tables: Vec<Vec<u32>> = (0..PROMPTS as u32).map(|i| (i * blocks..(i + 1) * blocks).collect()).collect();
    let (mut sums, mut count, mut batch) = (vec![0.0; limits.len()], 0, Batch::default());
    for position in 0..longest {
        batch.clear();
        for (text, table) in texts.iter().zip(&tables) {
            if let Some(id) = text.get(position..=position) {
                batch.push(id, position, &table[..position / BLOCK_TOKENS + 1], None, 1);
            }
        }
        let mut log_probs = vec![];
        for decoder in &mut decoders {
            let mut logits = vec![];
            decoder.step(&batch, &mut logits).unwrap();
            log_probs.push(logits.chunks_exact(decoder.vocab()).map(log_softmax).collect::<Vec<_>>());
        }
        count += batch.spans.len();
        for (sum, narrow) in sums.iter_mut().zip(&log_probs[1..]) {
            *sum += log_probs[0].iter().zip(narrow).map(|(full, narrow)| divergence(full, narrow)).sum::<f64>();
        }
    }
    for ((what, _, _, limit), sum) in limits.into_iter().zip(sums) {
        let mean = sum / count as f64;
        eprintln!("{what}: mean KL to f32 {mean:.2e} nats over {count} positions");
        assert!(mean < limit, "{what}: {mean:.2e}");
    }
}

/// The same behind a long context, in chunks of a prefill: what keys and values of fewer bits change by themselves.
#[test]
fn narrow_keys_and_values_behind_a_long_context_change_little() {
    const CHUNK: usize = 100;
    let numbers = Numbers::read("smollm2.safetensors");
    let texts = (0..PROMPTS).flat_map(|i| [numbers.u32(&format!("ids.{i}")), numbers.u32(&format!("greedy.{i}"))]);
    let ids: Vec<u32> = texts.flatten().collect();
    let table: Vec<u32> = (0..ids.len().div_ceil(BLOCK_TOKENS) as u32).rev().collect();
    let limits = [(KvPrecision::Bf16, 2e-4), (KvPrecision::Int8, 1.5e-3)];
    let kinds = [KvPrecision::F32, limits[0].0, limits[1].0];
    let mut decoders = kinds.map(|kv| Decoder::with_kv(smollm2().transformer.clone(), kv, table.len()).unwrap());
    let (mut sums, mut batch, mut cached) = ([0.0; 2], Batch::default(), 0);
    for chunk in ids.chunks(CHUNK) {
        batch.clear();
        batch.push(chunk, cached, &table[..(cached + chunk.len()).div_ceil(BLOCK_TOKENS)], None, chunk.len());
        cached += chunk.len();
        let [full, narrow @ ..] = decoders.each_mut().map(|decoder| {
            let mut logits = vec![];
            decoder.step(&batch, &mut logits).unwrap();
            logits.chunks_exact(decoder.vocab()).map(log_softmax).collect::<Vec<_>>()
        });
        for (sum, narrow) in sums.iter_mut().zip(&narrow) {
            *sum += full.iter().zip(narrow).map(|(full, narrow)| divergence(full, narrow)).sum::<f64>();
        }
    }
    for ((kv, limit), sum) in limits.into_iter().zip(sums) {
        let mean = sum / cached as f64;
        eprintln!("keys and values in {kv}: mean KL to f32 {mean:.2e} nats over {cached} positions of one text");
        assert!(mean > 0.0 && mean < limit, "{kv}: {mean:.2e}");
    }
}

/// Whatever the cache keeps: a text that is prefilled at once, in chunks, beside another or token by token has the same
/// logits, to the last bit; so has one behind a copied block.
#[test]
fn chunks_neighbours_and_copies_change_no_bit_of_the_real_model() {
    let numbers = Numbers::read("smollm2.safetensors");
    let ids: Vec<u32> = (0..2).flat_map(|i| numbers.u32(&format!("ids.{i}"))).take(70).collect();
    let int8 = smollm2_in(Precision::Int8).transformer;
    for kv in [KvPrecision::Bf16, KvPrecision::Int8] {
        let run = |chunk: usize, copied: bool, beside: bool| {
            let mut decoder = Decoder::with_kv(int8.clone(), kv, 8).unwrap();
            let (mut table, mut logits, mut cached) = (vec![5u32, 1, 3], vec![], 0);
            for part in ids.chunks(chunk) {
                if copied && cached > 40 && table[1] == 1 {
                    decoder.copy_blocks(&[(1, 2)]).unwrap();
                    table[1] = 2;
                }
                let mut batch = Batch::default();
                batch.push(part, cached, &table, None, 1);
                if beside {
                    batch.push(&ids[..1], 0, &[7], None, 1);
                }
                decoder.step(&batch, &mut logits).unwrap();
                cached += part.len();
            }
            logits.truncate(decoder.vocab());
            logits
        };
        let whole = run(ids.len(), false, false);
        for (chunk, copied, beside) in [(1, false, false), (1, true, true), (9, true, false), (33, false, true)] {
            let same = run(chunk, copied, beside) == whole;
            assert!(same, "{kv}: chunks of {chunk}, copied {copied}, beside another {beside}");
        }
    }
}

#[test]
fn a_models_memory_is_planned_before_it_is_loaded() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let held = smollm2_in(precision).transformer.bytes() as f64;
        let planned = smollm2_opened().bytes(&Device::Cpu, PassPrecisions::decode_only(precision)) as f64;
        assert!((planned / held - 1.0).abs() < 1e-3, "{precision}: planned {planned}, held {held}");
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - top).exp()).sum();
    logits.iter().map(|&x| f64::from(x - top) - sum.ln()).collect()
}

/// KL divergence of two rows of log-probs.
fn divergence(from: &[f64], to: &[f64]) -> f64 {
    from.iter().zip(to).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// Log-probs of the token after `ids`, by the decode pass.
fn next_log_probs(ids: &[u32]) -> Vec<f32> {
    let blocks: Vec<u32> = (0..ids.len().div_ceil(BLOCK_TOKENS) as u32).collect();
    let mut decoder = Decoder::new(smollm2().transformer.clone(), blocks.len()).unwrap();
    let (mut batch, mut logits) = (Batch::default(), vec![]);
    batch.push(ids, 0, &blocks, None, 1);
    decoder.step(&batch, &mut logits).unwrap();
    log_softmax(&logits).into_iter().map(|log_prob| log_prob as f32).collect()
}

/// What a learner's pass computes of the real model: log-probs, and the gradients of all factors one behind the other.
fn learned(precisions: PassPrecisions, texts: &[(Vec<u32>, Vec<u32>)]) -> (Vec<f32>, Vec<f32>) {
    let model = smollm2_with(precisions).transformer;
    let config: LearnerConfig = quickstart("learner");
    let spec = model.spec();
    // As after some steps: neither factor is 0.
    let wave = |count: usize, seed: usize| (0..count).map(|at| 0.02 * ((at * 7 + seed) as f32 * 0.61).sin()).collect();
    let places = (0..spec.layers).flat_map(|layer| config.lora.targets.iter().map(move |target| (layer, *target)));
    let factors = places.map(|(layer, target)| {
        let (inputs, outputs) = target.sizes(spec);
        let rank = config.lora.rank;
        ((layer, target), Factors { a: wave(rank * inputs, layer), b: wave(outputs * rank, layer + 40) })
    });
    let adapter = ScoreAdapter::new(&model, &Adapter::new(config.lora.clone(), factors.collect())).unwrap();
    let packed: Vec<_> = texts.iter().map(|(prefix, text)| Packed { prefix, texts: vec![text] }).collect();
    let batch = ScoreBatch { packed: &packed, temperature: 1.0 };
    let recorded = record(&model, batch, &adapter, ActivationPolicy::KeepAll).unwrap();
    let log_probs = recorded.scored.log_probs.clone();
    // Texts are pushed up and down, as critiques of one response are.
    let signs =
        texts.iter().enumerate().flat_map(|(i, (_, text))| vec![if i % 2 == 0 { 1.0 } else { -1.0 }; text.len()]);
    let gradients = recorded.backward(&signs.collect::<Vec<f32>>()).unwrap();
    (log_probs, gradients.factors.into_values().flat_map(|Factors { a, b }| [a, b].concat()).collect())
}

#[test]
fn a_learner_in_less_than_f32_computes_almost_what_it_does_in_f32() {
    let numbers = Numbers::read("smollm2.safetensors");
    let text = |i| (numbers.u32(&format!("ids.{i}")), numbers.u32(&format!("greedy.{i}")));
    let texts: Vec<_> = (0..6).map(text).collect();
    let (log_probs, gradients) = learned(PassPrecisions::F32, &texts);
    let norm = |values: &[f32]| values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    for (base, matmul, log_prob_max, gradient_max) in [
        (Precision::Bf16, MatmulPrecision::F32, 0.02, 0.02),
        (Precision::Int8, MatmulPrecision::F32, 0.05, 0.05),
        (Precision::F32, MatmulPrecision::Bf16, 0.03, 0.03),
        (Precision::Int8, MatmulPrecision::Bf16, 0.05, 0.05),
    ] {
        let (got, got_gradients) = learned(PassPrecisions { matmul, ..PassPrecisions::both(base, base) }, &texts);
        let off: Vec<f32> = got.iter().zip(&log_probs).map(|(got, exact)| got - exact).collect();
        let (mean, most) = (norm(&off) / (off.len() as f64).sqrt(), farthest(&got, &log_probs));
        let off: Vec<f32> = got_gradients.iter().zip(&gradients).map(|(got, exact)| got - exact).collect();
        let gradient = norm(&off) / norm(&gradients);
        eprintln!(
            "base {base}, matmul {}: log-probs {mean:.1e} (root mean square), {most:.1e} at most; gradient {gradient:.1e}",
            matmul.supported().name()
        );
        let is_exact = base == Precision::F32 && matmul.supported() == MatmulPrecision::F32;
        assert!(is_exact || (mean > 0.0 && gradient > 0.0), "{base}, {matmul:?}: as in f32");
        assert!(mean < log_prob_max && gradient < gradient_max, "{base}, {matmul:?}: {mean:.1e}, {gradient:.1e}");
    }
}
