//! Real models of other families against transformers in f32: ids, log-probs, greedy text.
//!
//! Run by hand: `scripts/fetch-models.py DIR`, then `RCO_MODELS=DIR cargo test --test it real_families -- --ignored`.
//! The program that made the numbers: `tests/golden/real_families.py`.

use crate::numbers::passes::log_probs;
use crate::support::models::{Numbers, farthest, golden, quickstart};
use rco_node::engine::{Engine, EngineConfig, Request, sampler::SamplingConfig};
use rco_node::transformer::decode::Decoder;
use rco_node::transformer::load;
use rco_node::transformer::load::Loaded;
use rco_node::transformer::score::Packed;
use serde::Deserialize;
use std::path::Path;

const PROMPTS: usize = 6;
const STEPS: usize = 24;
/// Room for the longest prompt and its continuation.
const KV_BLOCKS: usize = 32;

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    document: Vec<u32>,
    decoded: String,
}

fn load(file: &str) -> Loaded {
    let folder = std::env::var_os("RCO_MODELS").expect("RCO_MODELS names the folder of scripts/fetch-models.py");
    load::load(&Path::new(&folder).join(file)).unwrap()
}

/// What follows `ids`, written greedily by the engine.
fn greedy(model: &Loaded, ids: &[u32]) -> Vec<u32> {
    let decoder = Decoder::new(model.transformer.clone(), KV_BLOCKS).unwrap();
    let mut engine = Engine::new(decoder, model.tokenizer.clone(), quickstart::<EngineConfig>("engine"));
    let sampling = SamplingConfig::greedy(STEPS);
    let request = Request::new(ids.to_vec(), 1, sampling, vec![], 0);
    engine.submit(request).unwrap();
    while !engine.is_idle() {
        engine.step().unwrap();
    }
    engine.take_finished().remove(0).1.remove(0).ids
}

fn assert_is_that_of_transformers(name: &str, file: &str) {
    let (model, numbers) = (load(file), Numbers::read(&format!("real_{name}.safetensors")));
    let texts: Vec<Text> =
        serde_json::from_slice(&std::fs::read(golden(&format!("real_{name}.json"))).unwrap()).unwrap();
    assert!(texts.len() > 50);
    for Text { text, ids, document, decoded } in texts {
        assert_eq!(model.tokenizer.encode(&text).unwrap(), ids, "{text:?}");
        assert_eq!(model.tokenizer.encode_document(&text).unwrap(), document, "{text:?}");
        assert_eq!(model.tokenizer.decode(&ids).unwrap(), decoded, "{text:?}");
    }
    let (mut off, mut parted) = (0f32, vec![]);
    for i in 0..PROMPTS {
        let ids = numbers.u32(&format!("ids.{i}"));
        let top = numbers.u32(&format!("top_ids.{i}"));
        let singles: Vec<&[u32]> = top.iter().map(std::slice::from_ref).collect();
        let scored = |texts| {
            let packed = [Packed { prefix: &ids, texts }];
            log_probs(&model, &packed, None)
        };
        off = off.max(farthest(&scored(singles), &numbers.f32(&format!("top_logprobs.{i}"))));
        let expected = numbers.u32(&format!("greedy.{i}"));
        off = off.max(farthest(&scored(vec![&expected]), &numbers.f32(&format!("scored_logprobs.{i}"))));
        let gaps = numbers.f32(&format!("greedy_gaps.{i}"));
        let written = greedy(&model, &ids);
        // Where two ids are as likely but for rounding, the texts may part.
        if let Some(step) = (0..STEPS).find(|&step| written[step] != expected[step]) {
            assert!(gaps[step] < 2e-3, "prompt {i}, step {step}: parted at a gap of {}", gaps[step]);
            parted.push(i);
        }
    }
    eprintln!("{name}: largest difference of a log-prob {off:.2e}; greedy texts that part at a tie: {parted:?}");
    assert!(off < 1e-3, "{off}");
}

#[test]
#[ignore = "needs a model of 491 MB: scripts/fetch-models.py"]
fn qwen2_5_coder_is_that_of_transformers() {
    assert_is_that_of_transformers("qwen2", "qwen2.5-coder-0.5b-instruct.gguf");
}

#[test]
#[ignore = "needs a model of 253 MB: scripts/fetch-models.py"]
fn gemma_3_270m_is_that_of_transformers() {
    assert_is_that_of_transformers("gemma3", "gemma-3-270m.gguf");
}
