//! Log-probabilities of candidate tokens, from the row of logits that a greedy token is drawn from.

use super::sampler::Draw;

/// Log-probabilities of `candidates` by `row`, whose likeliest id and its log-probability are `greedy`.
pub(super) fn log_probs(row: &[f32], greedy: Draw, candidates: &[u32]) -> Vec<f32> {
    let normaliser = f64::from(row[greedy.id as usize]) - f64::from(greedy.log_prob);
    candidates.iter().map(|&id| (f64::from(row[id as usize]) - normaliser) as f32).collect()
}
