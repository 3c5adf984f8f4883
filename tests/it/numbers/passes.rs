//! Both passes over whole sequences of a tiny model.

use rco_node::formats::adapter::Adapter;
use rco_node::transformer::load::Loaded;
use rco_node::transformer::{
    decode::BLOCK_TOKENS, decode::Batch, decode::Decoder, decode::Forward, decode::PackedAdapter,
};
use rco_node::transformer::{score, score::Packed, score::ScoreAdapter};
use std::sync::Arc;

/// Rows of every tiny model's head.
pub const VOCAB: usize = 300;

/// Log-softmax in f64.
fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - top).exp()).sum();
    logits.iter().map(|&x| (f64::from(x - top) - sum.ln()) as f32).collect()
}

/// Log-probs after every token of `ids` by the decode pass, fed in chunks of `chunk`.
pub fn decode(model: &Loaded, ids: &[u32], adapter: Option<&Adapter>, chunk: usize) -> Vec<f32> {
    let blocks: Vec<u32> = (0..ids.len().div_ceil(BLOCK_TOKENS) as u32).rev().collect();
    let mut decoder = Decoder::new(model.transformer.clone(), blocks.len()).unwrap();
    let adapter = adapter.map(|adapter| Arc::new(PackedAdapter::new(adapter, model.transformer.spec())));
    let (mut batch, mut logits, mut found) = (Batch::default(), vec![], vec![]);
    for position in 0..ids.len() {
        // Every position's logits: a span that ends there and begins where a chunk would.
        let first = position / chunk * chunk;
        batch.clear();
        batch.push(&ids[first..=position], first, &blocks, adapter.as_ref(), 1);
        decoder.step(&batch, &mut logits).unwrap();
        found.extend(log_softmax(&logits));
    }
    found
}

/// Log-probs of `ids[1..]` by the score pass.
pub fn score(model: &Loaded, ids: &[u32], adapter: Option<&Adapter>) -> Vec<f32> {
    let packed = [Packed { prefix: &ids[..1], texts: vec![&ids[1..]] }];
    log_probs(model, &packed, adapter)
}

/// Log-probs of the texts of `packed` by the score pass.
pub fn log_probs(model: &Loaded, packed: &[Packed<'_>], adapter: Option<&Adapter>) -> Vec<f32> {
    let branches = adapter.map(|adapter| ScoreAdapter::new(&model.transformer, adapter).unwrap());
    let batch = score::ScoreBatch { packed, temperature: 1.0 };
    score::score(&model.transformer, batch, branches.as_ref()).unwrap().log_probs
}

/// The log-probs of the ids that follow, out of every position's.
pub fn of_next(all: &[f32], ids: &[u32]) -> Vec<f32> {
    ids[1..].iter().enumerate().map(|(row, &id)| all[row * VOCAB + id as usize]).collect()
}
