//! Promises of the score pass over panels that need no reference program.

use super::*;
use crate::formats::WeightReader;
use crate::kernels::{PassPrecisions, Precision, Weight, log_probs_block_floats, thread_pool};
use crate::transformer::decode::BLOCK_TOKENS;
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

fn tiny(name: &str) -> (Arc<Transformer>, Adapter) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let model = crate::transformer::load::load(&golden.join(format!("tiny_{name}"))).unwrap().transformer;
    let lora = if name == "llama" { "tiny_lora".to_owned() } else { format!("tiny_{name}_lora") };
    let adapter = Adapter::load(&golden.join(lora), model.spec()).unwrap();
    (model, adapter)
}

fn ids(count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 37 + seed * 101 + i * i * 3) % 256) as u32).collect()
}

fn farthest(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Prefix and texts of one packed sequence.
type TestSequence = (Vec<u32>, Vec<Vec<u32>>);

fn packed(tree: &TestSequence) -> Packed<'_> {
    Packed { prefix: &tree.0, texts: tree.1.iter().map(Vec::as_slice).collect() }
}

/// Log-probs of `packed`, and the gradient of a weighted sum of them.
fn learned(
    model: &Transformer,
    adapter: &Adapter,
    packed: &[Packed<'_>],
    weights: &[f32],
    policy: ActivationPolicy,
) -> (Scored, AdapterGradients) {
    let score_adapter = ScoreAdapter::new(model, adapter).unwrap();
    let recorded = record(model, ScoreBatch { packed, temperature: 0.9 }, &score_adapter, policy).unwrap();
    (recorded.scored.clone(), recorded.backward(weights).unwrap())
}

fn assert_near(got: &AdapterGradients, expected: &AdapterGradients) {
    assert!(got.factors.keys().eq(expected.factors.keys()));
    for (place, expected) in &expected.factors {
        let got = &got.factors[place];
        for (got, expected) in [(&got.a, &expected.a), (&got.b, &expected.b)] {
            let largest = expected.iter().fold(0.0f32, |top, x| top.max(x.abs()));
            let off = farthest(got, expected);
            assert!(largest > 0.0 && off <= 1e-5 * largest.max(1.0), "{place:?}: {off} of {largest}");
        }
    }
}

#[test]
fn what_is_packed_together_is_what_it_is_alone() {
    // More rows than a block of queries, texts that end inside panels of keys, windows shorter than both.
    let trees: [TestSequence; 3] = [
        (ids(50, 1), vec![ids(47, 2), ids(1, 3), ids(9, 4)]),
        (ids(1, 5), vec![ids(20, 6)]),
        (ids(33, 7), vec![ids(2, 8), ids(31, 9)]),
    ];
    for name in ["llama", "qwen3", "gemma3"] {
        let (model, adapter) = tiny(name);
        let all: Vec<Packed<'_>> = trees.iter().map(packed).collect();
        let texts = all.iter().flat_map(|packed| &packed.texts).map(|text| text.len()).sum::<usize>();
        let weights: Vec<f32> = (0..texts).map(|i| (i as f32 * 0.37).sin()).collect();
        let (together, gradients) = learned(&model, &adapter, &all, &weights, ActivationPolicy::KeepAll);
        let (mut log_probs, mut prefixes, mut sum, mut rest) =
            (vec![], vec![], AdapterGradients::default(), weights.as_slice());
        for tree in &trees {
            for (index, text) in tree.1.iter().enumerate() {
                let (ours, others) = rest.split_at(text.len());
                rest = others;
                let alone = [Packed { prefix: &tree.0, texts: vec![text] }];
                let (scored, found) = learned(&model, &adapter, &alone, ours, ActivationPolicy::KeepAll);
                log_probs.extend(scored.log_probs);
                prefixes.extend(scored.prefixes.into_iter().filter(|_| index == 0));
                found.factors.into_iter().for_each(|((layer, projection), pair)| sum.add(layer, projection, pair));
            }
        }
        assert!(farthest(&together.log_probs, &log_probs) < 1e-5, "{name}");
        assert!(farthest(&together.prefixes.concat(), &prefixes.concat()) < 1e-5, "{name}");
        assert_near(&gradients, &sum);
    }
}

#[test]
fn layers_computed_again_give_the_same_bits() {
    let tree: TestSequence = (ids(40, 1), vec![ids(17, 2), ids(30, 3)]);
    for name in ["llama", "qwen2", "gemma3"] {
        let (model, adapter) = tiny(name);
        let weights: Vec<f32> = (0..47).map(|i| (i as f32 * 0.7).cos()).collect();
        let of = |policy| learned(&model, &adapter, &[packed(&tree)], &weights, policy);
        assert_eq!(of(ActivationPolicy::KeepAll), of(ActivationPolicy::Recompute), "{name}");
    }
}

#[test]
fn a_pass_without_a_gradient_finds_the_same_bits() {
    let tree: TestSequence = (ids(40, 1), vec![ids(17, 2), ids(30, 3)]);
    let (model, adapter) = tiny("llama");
    let score_adapter = ScoreAdapter::new(&model, &adapter).unwrap();
    let packed = [packed(&tree)];
    let scored = score(&model, ScoreBatch { packed: &packed, temperature: 0.9 }, Some(&score_adapter)).unwrap();
    assert_eq!(scored, learned(&model, &adapter, &packed, &[1.0; 47], ActivationPolicy::KeepAll).0);
}

#[test]
fn gradients_are_the_same_bits_in_memory_that_was_used() {
    let trees: [TestSequence; 2] = [(ids(40, 1), vec![ids(17, 2), ids(30, 3)]), (ids(9, 4), vec![ids(21, 5)])];
    let (model, adapter) = tiny("llama");
    let score_adapter = ScoreAdapter::new(&model, &adapter).unwrap();
    let (mut gradients, mut arena) = (AdapterGradients::default(), Arena::new(100));
    for tree in &trees {
        let packed = [packed(tree)];
        let batch = ScoreBatch { packed: &packed, temperature: 0.9 };
        let recorded = record_in(&model, batch, &score_adapter, ActivationPolicy::KeepAll, &mut arena).unwrap();
        let weights = vec![0.5; recorded.scored.log_probs.len()];
        recorded.backward_in(&weights, &mut gradients, &mut arena).unwrap();
        assert_eq!(gradients, learned(&model, &adapter, &packed, &weights, ActivationPolicy::KeepAll).1);
    }
}

#[test]
fn a_pass_takes_no_more_memory_than_planned() {
    let trees: Vec<TestSequence> =
        (0..3).map(|seed| (ids(60, seed), vec![ids(40, seed + 3), ids(25, seed + 6)])).collect();
    let all: Vec<Packed<'_>> = trees.iter().map(packed).collect();
    let tokens: usize = all.iter().map(Packed::tokens).sum();
    for name in ["llama", "qwen3", "gemma3"] {
        for policy in [ActivationPolicy::KeepAll, ActivationPolicy::Recompute] {
            let (model, adapter) = tiny(name);
            let score_adapter = ScoreAdapter::new(&model, &adapter).unwrap();
            let mut arena = Arena::new(tokens);
            let batch = ScoreBatch { packed: &all, temperature: 1.0 };
            let recorded = record_in(&model, batch, &score_adapter, policy, &mut arena).unwrap();
            let targets = recorded.scored.log_probs.len();
            recorded.backward_in(&vec![1.0; targets], &mut AdapterGradients::default(), &mut arena).unwrap();
            let planned = activation_floats(model.spec(), adapter.config.rank, tokens, targets, policy);
            let (held, planned) = (arena.floats() as f64, planned as f64);
            assert!(held <= planned && held >= 0.7 * planned, "{name}, {policy:?}: {held} of {planned}");
        }
    }
}

#[test]
fn so_it_is_where_every_weight_is_trained() {
    let trees: Vec<TestSequence> =
        (0..3).map(|seed| (ids(60, seed), vec![ids(40, seed + 3), ids(25, seed + 6)])).collect();
    let all: Vec<Packed<'_>> = trees.iter().map(packed).collect();
    let tokens: usize = all.iter().map(Packed::tokens).sum();
    for name in ["llama", "qwen2", "gemma3"] {
        for policy in [ActivationPolicy::KeepAll, ActivationPolicy::Recompute] {
            let (model, _) = tiny(name);
            let mut gradients = FullGradients::zeros(model.spec());
            let mut arena = Arena::default();
            let batch = ScoreBatch { packed: &all, temperature: 1.0 };
            let recorded = record_full_in(&model, batch, policy, &mut arena).unwrap();
            let targets = recorded.scored.log_probs.len();
            recorded.backward_full_in(&vec![1.0; targets], &mut gradients, &mut arena).unwrap();
            let planned = activation_floats(model.spec(), 0, tokens, targets, policy);
            let (held, planned) = (arena.floats() as f64, planned as f64);
            assert!(held <= planned && held >= 0.7 * planned, "{name}, {policy:?}: {held} of {planned}");
        }
    }
}

/// Weights as a model of `precision` holds them, in f32.
struct Held<'a>(&'a dyn WeightReader, Precision);

impl WeightReader for Held<'_> {
    fn get(&self, name: &str, shape: &[usize]) -> crate::formats::Result<Vec<f32>> {
        let mut values = self.0.get(name, shape)?;
        if let [_, inputs] = *shape {
            let weight = Weight::new(&[&values], inputs, PassPrecisions::decode_only(self.1));
            values.chunks_mut(inputs).enumerate().for_each(|(row, out)| weight.decode_row(row, out));
        }
        Ok(values)
    }
    fn has(&self, name: &str) -> bool {
        self.0.has(name)
    }
    fn is_four_bit(&self, _: &str) -> bool {
        false
    }
}

#[test]
fn a_base_held_in_less_is_that_base_to_the_last_bit_and_near_the_one_in_f32() {
    let trees: Vec<TestSequence> =
        (0..3).map(|seed| (ids(60, seed), vec![ids(40, seed + 3), ids(25, seed + 6)])).collect();
    let all: Vec<Packed<'_>> = trees.iter().map(packed).collect();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for (name, precision, allowed) in
        [("llama", Precision::Bf16, 0.1), ("llama", Precision::Int8, 0.5), ("gemma3", Precision::Bf16, 0.3)]
    {
        let (exact, adapter) = tiny(name);
        let opened = crate::formats::open(&golden.join(format!("tiny_{name}"))).unwrap();
        let load =
            |weights: &dyn WeightReader, precisions| Transformer::load(&opened.spec, weights, precisions).unwrap();
        let narrow = load(opened.weights.as_ref(), PassPrecisions::both(Precision::F32, precision));
        let held = load(&Held(opened.weights.as_ref(), precision), PassPrecisions::F32);
        for policy in [ActivationPolicy::KeepAll, ActivationPolicy::Recompute] {
            let weights = vec![0.5; trees.len() * 65];
            let of = |model: &Transformer| learned(model, &adapter, &all, &weights, policy);
            let ((scored, gradients), (expected, expected_gradients)) = (of(&narrow), of(&held));
            assert_eq!(scored.log_probs, expected.log_probs, "{name}, {precision}");
            assert_eq!(gradients, expected_gradients, "{name}, {precision}");
            let off = farthest(&scored.log_probs, &of(&exact).0.log_probs);
            assert!(off > 0.0 && off < allowed, "{name}, {precision}: {off}");
        }
        assert!(narrow.backend().copy_weights().is_err_and(|error| error.to_string().contains("learner.base")));
    }
}

#[test]
fn what_widens_the_base_is_planned_too() {
    let tree: TestSequence = (ids(60, 1), vec![ids(40, 2)]);
    let all = [packed(&tree)];
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let opened = crate::formats::open(&golden.join("tiny_llama")).unwrap();
    let (_, adapter) = tiny("llama");
    for base in [Precision::Bf16, Precision::Int8] {
        let precisions = PassPrecisions::both(base, base);
        let model = Transformer::load(&opened.spec, opened.weights.as_ref(), precisions).unwrap();
        let mut arena = Arena::new(100);
        let score_adapter = ScoreAdapter::new(&model, &adapter).unwrap();
        let batch = ScoreBatch { packed: &all, temperature: 1.0 };
        let recorded = record_in(&model, batch, &score_adapter, ActivationPolicy::KeepAll, &mut arena).unwrap();
        recorded.backward_in(&[1.0; 40], &mut AdapterGradients::default(), &mut arena).unwrap();
        let blocks = thread_pool::threads() * log_probs_block_floats(model.spec().hidden);
        let planned = widened_floats(model.spec(), PassPrecisions::both(base, base), 100) - blocks;
        assert_eq!(arena.widened.capacity(), planned, "{base}");
    }
    assert_eq!(widened_floats(&opened.spec, PassPrecisions::F32, 100), 0);
}

#[test]
fn a_pass_is_differentiated_by_what_it_was_recorded_for() {
    let (model, adapter) = tiny("llama");
    let tree: TestSequence = (ids(5, 1), vec![ids(3, 2)]);
    let packed = [packed(&tree)];
    let batch = ScoreBatch { packed: &packed, temperature: 1.0 };
    let score_adapter = ScoreAdapter::new(&model, &adapter).unwrap();
    let of_adapter = record(&model, batch, &score_adapter, ActivationPolicy::KeepAll).unwrap();
    let mut gradients = FullGradients::zeros(model.spec());
    assert!(matches!(of_adapter.backward_full(&[1.0; 3], &mut gradients), Err(Error::OtherBackend)));
    let of_all = record_full(&model, batch, ActivationPolicy::KeepAll).unwrap();
    assert!(matches!(of_all.backward(&[1.0; 3]), Err(Error::OtherBackend)));
    assert!(gradients == FullGradients::zeros(model.spec()));
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let (model, _) = tiny("llama");
    let scored = |prefix: &[u32], texts: Vec<&[u32]>| {
        score(&model, ScoreBatch { packed: &[Packed { prefix, texts }], temperature: 1.0 }, None)
            .unwrap_err()
            .to_string()
    };
    assert!(scored(&[], vec![&[1]]).contains("empty"));
    assert!(scored(&[1], vec![&[]]).contains("empty"));
    assert!(scored(&[1], vec![&[999_999]]).contains("999999"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The log-probs of a text do not depend on how much of it is called its prefix.
    #[test]
    fn a_prefix_is_a_matter_of_words(cut in 1usize..80, seed in 0usize..1000) {
        let (model, _) = tiny("llama");
        let all = ids(80 + BLOCK_TOKENS, seed);
        let of = |cut: usize| {
            let packed = [Packed { prefix: &all[..cut], texts: vec![&all[cut..]] }];
            score(&model, ScoreBatch { packed: &packed, temperature: 1.0 }, None).unwrap().log_probs
        };
        prop_assert!(farthest(&of(cut), &of(1)[cut - 1..]) < 2e-5);
    }
}
