//! The real model against transformers in f32: tokenizer, log-probs, greedy text, both passes.

use crate::common::{Numbers, farthest, golden, quickstart, smollm2};
use rco_node::engine::{Engine, EngineConfig, Request, sampler::SamplingConfig};
use rco_node::model::decode::{BLOCK_TOKENS, Batch, Decoder, Forward};
use rco_node::model::score::{Packed, log_probs};

const PROMPTS: usize = 20;

#[test]
fn the_real_model_gives_the_log_probs_and_the_greedy_text_of_transformers() {
    let (model, numbers) = (smollm2(), Numbers::read("smollm2.safetensors"));
    let prompts: Vec<String> = serde_json::from_slice(&std::fs::read(golden("smollm2_prompts.json")).unwrap()).unwrap();
    assert_eq!(prompts.len(), PROMPTS);
    let config = quickstart::<EngineConfig>("engine");
    let decoder = Decoder::sized(model.transformer.clone(), config.kv_cache_mib).unwrap();
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
        requests.push(Request {
            prompt: ids,
            n: 1,
            sampling: SamplingConfig::greedy(32),
            stop_ids: vec![],
            seed: 0,
            critic: false,
        });
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
        let packed = Packed { prefix: &ids, texts: vec![&text] };
        let scored = log_probs(&model.transformer, &packed, None, 1.0).unwrap().to_vec1::<f32>().unwrap();
        let off = farthest(&scored, &numbers.f32(&format!("scored_logprobs.{i}")));
        assert!(off < 1e-3, "prompt {i}: {off}");
    }
}

/// Log-probs of the token after `ids`, by the decode pass.
fn next_log_probs(ids: &[u32]) -> Vec<f32> {
    let blocks: Vec<u32> = (0..ids.len().div_ceil(BLOCK_TOKENS) as u32).collect();
    let mut decoder = Decoder::new(smollm2().transformer.clone(), blocks.len()).unwrap();
    let (mut batch, mut logits) = (Batch::default(), vec![]);
    batch.push(ids, 0, &blocks, None, true);
    decoder.step(&batch, &mut logits).unwrap();
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - top).exp()).sum();
    logits.iter().map(|&x| (f64::from(x - top) - sum.ln()) as f32).collect()
}
