//! Both passes, the loss, its gradients and the optimizer against PyTorch, on the tiny model.
//!
//! The programs that made the numbers lie beside them in `tests/golden`.

use crate::numbers::passes::{VOCAB, decode, of_next, score};
use crate::support::models::{Numbers, farthest, golden, quickstart, relative, tiny};
use rco_node::formats;
use rco_node::formats::adapter::Adapter;
use rco_node::learner::{HostTensor, Learner, LearnerConfig, State, objective::Baseline};
use rco_node::transformer::load;
use rco_node::transformer::load::Loaded;
use rco_node::transformer::{score, score::Packed};
use rco_node::types::{Completion, CriticVersion, CritiqueGroup, EpisodeId, FinishReason, ScoredCritique};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;

const SEQUENCES: usize = 8;

fn assert_logits(model: &Loaded, numbers: &str, adapter: Option<&Adapter>) {
    let numbers = Numbers::read(numbers);
    for i in 0..SEQUENCES {
        let (ids, expected) = (numbers.u32(&format!("ids.{i}")), numbers.f32(&format!("logprobs.{i}")));
        for chunk in [1, 7, 40] {
            let off = farthest(&decode(model, &ids, adapter, chunk), &expected);
            assert!(off < 1e-5, "decode, sequence {i}, chunks of {chunk}: {off}");
        }
        if ids.len() > 1 {
            let off = farthest(&score(model, &ids, adapter), &of_next(&expected, &ids));
            assert!(off < 1e-5, "score, sequence {i}: {off}");
        }
    }
}

#[test]
fn both_passes_give_the_log_probs_of_transformers() {
    assert_logits(tiny(), "tiny_logits.safetensors", None);
    assert_logits(&load::load(&golden("tiny_llama.f32.gguf")).unwrap(), "tiny_logits.safetensors", None);
    assert_logits(&load::load(&golden("tiny_llama_tied")).unwrap(), "tiny_logits_tied.safetensors", None);
}

#[test]
fn both_passes_give_the_log_probs_of_peft_with_an_adapter() {
    let adapter = Adapter::load(&golden("tiny_lora"), tiny().transformer.spec()).unwrap();
    assert_logits(tiny(), "tiny_lora_logits.safetensors", Some(&adapter));
}

#[test]
fn quantised_weights_give_the_log_probs_of_their_dequantised_twins() {
    let model = load::load(&golden("tiny_llama.q8_0.gguf")).unwrap();
    let numbers = Numbers::read("tiny_logits_q8_0.safetensors");
    for i in 0..SEQUENCES {
        let ids = numbers.u32(&format!("ids.{i}"));
        let all = decode(&model, &ids, None, 16);
        let off = farthest(&all[all.len() - VOCAB..], &numbers.f32(&format!("logprobs.{i}")));
        assert!(off < 1e-5, "sequence {i}: {off}");
    }
}

#[test]
fn packed_texts_score_as_if_each_stood_alone() {
    let golden = dro();
    for group in &golden.groups {
        let packed = [Packed { prefix: &group.prefix, texts: group.critiques.iter().map(Vec::as_slice).collect() }];
        let batch = score::ScoreBatch { packed: &packed, temperature: golden.temperature };
        let scored = score::score(&tiny().transformer, batch, None).unwrap().log_probs;
        let off = farthest(&scored, &group.reference_logprobs.concat());
        assert!(off < 1e-5, "{off}");
    }
}

/// Sums are taken in the same order whoever takes them.
#[test]
fn the_next_critic_is_the_same_bit_for_bit_whatever_the_number_of_threads() {
    let golden = dro();
    let groups = groups(&golden);
    let critic_of = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).stack_size(16 << 20).build().unwrap();
        pool.install(|| {
            let mut learner = learner(&golden, |_| {});
            (1..=2).for_each(|batch| _ = take_step(&mut learner, batch, &groups));
            learner.critic()
        })
    };
    let alone = critic_of(1);
    for threads in 2..=5 {
        assert!(critic_of(threads) == alone, "{threads} threads give another critic than one");
    }
}

/// `dro.json`: see `dro.py`.
#[derive(Deserialize)]
pub struct Dro {
    pub beta: f32,
    pub temperature: f32,
    pub groups: Vec<DroGroup>,
    pub dpco: DroPairs,
    pub baselines: std::collections::BTreeMap<String, DroLoss>,
    adamw: Vec<DroStep>,
}

#[derive(Deserialize)]
pub struct DroGroup {
    pub prefix: Vec<u32>,
    pub critiques: Vec<Vec<u32>>,
    pub cus: Vec<f32>,
    pub logprobs: Vec<Vec<f32>>,
    pub reference_logprobs: Vec<Vec<f32>>,
    pub log_ratios: Vec<f32>,
    trained_logprobs: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
pub struct DroPairs {
    pub pairs: Vec<Vec<[usize; 2]>>,
    pub loss: f64,
    pub accuracy: f64,
    pub margin: f64,
}

#[derive(Deserialize)]
pub struct DroLoss {
    pub loss: f64,
}

#[derive(Deserialize)]
pub struct DroStep {
    pub loss: f64,
    pub gradient_norm: f64,
    pub learning_rate: f64,
}

pub fn dro() -> Dro {
    serde_json::from_slice(&std::fs::read(golden("dro.json")).unwrap()).unwrap()
}

pub fn groups(golden: &Dro) -> Vec<Arc<CritiqueGroup>> {
    let critique = |(ids, &utility): (&Vec<u32>, &f32)| ScoredCritique {
        completion: Completion {
            text: String::new(),
            ids: ids.clone(),
            log_probs: vec![0.0; ids.len()],
            version: CriticVersion(7),
            finish: FinishReason::Length,
        },
        utility,
        verdicts: vec![],
    };
    let group = |(index, group): (usize, &DroGroup)| {
        Arc::new(CritiqueGroup {
            episode: EpisodeId(index as u64),
            prompt_id: index.to_string(),
            task: "golden".into(),
            prefix_ids: group.prefix.clone(),
            critiques: group.critiques.iter().zip(&group.cus).map(critique).collect(),
            preferences: vec![],
        })
    };
    golden.groups.iter().enumerate().map(group).collect()
}

/// A learner that starts from PEFT's adapter, as `dro.py` does.
pub fn learner(golden: &Dro, change: impl FnOnce(&mut LearnerConfig)) -> Learner {
    let adapter = Adapter::load(&self::golden("tiny_lora"), tiny().transformer.spec()).unwrap();
    let mut config = quickstart::<LearnerConfig>("learner");
    config.lora = adapter.config.clone();
    config.beta = golden.beta;
    config.micro_batch_tokens = 4096;
    change(&mut config);
    let optimizer = moment_shapes(&adapter)
        .into_iter()
        .map(|(name, len)| (name, HostTensor { shape: vec![len], data: vec![0.0; len] }))
        .collect();
    let critic = adapter.into();
    let state = State { step: 0, batch: 0, report: None, critic, optimizer, utilities: Default::default() };
    Learner::resume(tiny().transformer.clone(), config, golden.temperature, state).unwrap()
}

fn moment_shapes(adapter: &Adapter) -> Vec<(String, usize)> {
    let of = |(&(layer, site), factors): (&(usize, formats::spec::Projection), &formats::adapter::Factors)| {
        let name = format!("layers.{layer}.{}", site.name());
        [("lora_A", factors.a.len()), ("lora_B", factors.b.len())]
            .into_iter()
            .flat_map(move |(factor, len)| ["m", "v"].map(|moment| (format!("{name}.{factor}.{moment}"), len)))
            .collect::<Vec<_>>()
    };
    adapter.factors.iter().flat_map(of).collect()
}

pub fn take_step(learner: &mut Learner, batch: u64, groups: &[Arc<CritiqueGroup>]) -> rco_node::learner::Report {
    assert!(learner.begin(batch, groups.to_vec()).is_none());
    loop {
        if let Some(report) = learner.advance().unwrap() {
            return report;
        }
    }
}

/// PEFT's name of one of our moments, such as `layers.0.q_proj.lora_A.m`.
pub fn peft_name(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let module = if ["gate_proj", "up_proj", "down_proj"].contains(&parts[2]) { "mlp" } else { "self_attn" };
    format!("base_model.model.model.layers.{}.{module}.{}.{}.weight", parts[1], parts[2], parts[3])
}

#[test]
fn loss_and_gradients_are_those_of_pytorch_for_every_baseline_and_piece_size() {
    let golden = dro();
    let groups = groups(&golden);
    for (name, baseline) in
        [("vargrad", Baseline::Vargrad), ("partition", Baseline::Partition), ("mean", Baseline::Mean)]
    {
        let numbers = Numbers::read(&format!("dro_{name}.safetensors"));
        // 4096: each group in one piece. 64: a group in several, whose baseline needs all of them first.
        for micro_batch_tokens in [4096, 64] {
            let mut learner = learner(&golden, |config| {
                config.baseline = baseline;
                config.micro_batch_tokens = micro_batch_tokens;
                config.clip_norm = 1e9;
            });
            let report = take_step(&mut learner, 1, &groups);
            let expected = golden.baselines[name].loss;
            assert!(
                (f64::from(report.loss) - expected).abs() < 1e-4 * expected,
                "{name}: {} for {expected}",
                report.loss
            );
            let ratios: Vec<f32> = golden.groups.iter().flat_map(|group| group.log_ratios.clone()).collect();
            let mean = ratios.iter().sum::<f32>() / ratios.len() as f32;
            assert!((report.off_policy.log_ratio_mean - mean).abs() < 1e-4 * mean.abs().max(1.0));
            // After one step the first moment is (1 - beta1) times the gradient.
            for (moment, tensor) in learner.state().optimizer {
                let Some(parameter) = moment.strip_suffix(".m") else { continue };
                let gradient: Vec<f32> = tensor.data.iter().map(|m| m / 0.1).collect();
                let off = relative(&gradient, &numbers.f32(&peft_name(parameter)));
                assert!(off < 1e-4, "{name}, {micro_batch_tokens} tokens a piece, {parameter}: {off}");
            }
        }
    }
}

#[test]
fn twenty_steps_of_adamw_end_where_pytorch_and_peft_end() {
    let golden = dro();
    let groups = groups(&golden);
    let mut learner = learner(&golden, |config| {
        config.baseline = Baseline::Vargrad;
        config.learning_rate = 1e-3;
        config.warmup_steps = 3;
        config.weight_decay = 0.01;
        config.adam_beta1 = 0.9;
        config.adam_beta2 = 0.99;
        config.adam_epsilon = 1e-8;
        config.clip_norm = 1.0;
    });
    for (index, expected) in golden.adamw.iter().enumerate() {
        let report = take_step(&mut learner, index as u64 + 1, &groups);
        assert_eq!(report.step, index as u64 + 1);
        let close = |got: f64, expected: f64| (got - expected).abs() < 1e-3 * expected;
        assert!(close(f64::from(report.loss), expected.loss), "step {}: {} for {}", index, report.loss, expected.loss);
        assert!(close(f64::from(report.gradient_norm), expected.gradient_norm), "step {index}");
        assert!(close(report.learning_rate, expected.learning_rate), "step {index}");
    }
    let numbers = Numbers::read("dro_adamw.safetensors");
    for ((layer, site), factors) in &learner.critic().adapter().unwrap().factors {
        for (factor, values) in [("lora_A", &factors.a), ("lora_B", &factors.b)] {
            let name = peft_name(&format!("layers.{layer}.{}.{factor}", site.name()));
            let off = relative(values, &numbers.f32(&name));
            assert!(off < 1e-3, "{name}: {off}");
        }
    }
    let branches = score::ScoreAdapter::new(&tiny().transformer, learner.critic().adapter().unwrap()).unwrap();
    for group in &golden.groups {
        let packed = [Packed { prefix: &group.prefix, texts: group.critiques.iter().map(Vec::as_slice).collect() }];
        let batch = score::ScoreBatch { packed: &packed, temperature: golden.temperature };
        let scored = score::score(&tiny().transformer, batch, Some(&branches)).unwrap().log_probs;
        let off = farthest(&scored, &group.trained_logprobs.concat());
        let moved = farthest(&scored, &group.logprobs.concat());
        assert!(off < 1e-3 && moved > 0.05, "{off} from PyTorch's after a way of {moved}");
    }
}

#[test]
fn a_step_that_explodes_or_is_no_number_is_not_taken_and_the_next_one_is() {
    let golden = dro();
    let good = groups(&golden);
    let refused = |learner: &mut Learner, batch, groups: &[Arc<CritiqueGroup>]| {
        assert!(learner.begin(batch, groups.to_vec()).is_none());
        loop {
            match learner.advance() {
                Ok(report) => assert!(report.is_none(), "the step was taken"),
                Err(error) => return error,
            }
        }
    };
    let mut exploding = learner(&golden, |config| config.gradient_norm_max = 1e-6);
    let before = exploding.state();
    let error = refused(&mut exploding, 1, &good);
    assert!(error.is_refusal() && error.to_string().contains("gradient_norm_max"), "{error}");
    assert_eq!(exploding.state().critic, before.critic);

    let mut bad = (*good[0]).clone();
    bad.critiques[1].utility = f32::NAN;
    let mut learner = learner(&golden, |_| {});
    let before = learner.state();
    let error = refused(&mut learner, 1, &[Arc::new(bad)]);
    assert!(error.is_refusal() && error.to_string().contains("loss is NaN"), "{error}");
    assert_eq!((learner.state().critic, learner.state().optimizer.len()), (before.critic, before.optimizer.len()));
    assert_eq!(take_step(&mut learner, 2, &good).step, 1);
}

#[test]
fn a_batch_already_applied_is_not_applied_again_and_an_abandoned_one_leaves_no_trace() {
    let golden = dro();
    let groups = groups(&golden);
    let mut learner = learner(&golden, |_| {});
    let before = learner.state();
    assert!(learner.begin(5, groups.clone()).is_none());
    assert!(learner.advance().unwrap().is_none(), "two groups are more than one piece");
    learner.abandon();
    assert_eq!(learner.state(), before);
    let report = take_step(&mut learner, 5, &groups);
    let after = learner.state();
    assert_ne!(after.critic, before.critic);
    assert_eq!(learner.begin(5, groups), Some(report));
    assert_eq!(learner.state(), after);
}

#[test]
fn a_learner_resumed_between_steps_goes_on_bit_for_bit() {
    let golden = dro();
    let groups = groups(&golden);
    let mut straight = learner(&golden, |_| {});
    take_step(&mut straight, 1, &groups);
    let state = straight.state();
    let config = LearnerConfig { lora: state.critic.adapter().unwrap().config.clone(), ..learner_config(&golden) };
    let mut resumed = Learner::resume(tiny().transformer.clone(), config, golden.temperature, state).unwrap();
    for batch in 2..5 {
        assert_eq!(take_step(&mut straight, batch, &groups), take_step(&mut resumed, batch, &groups));
    }
    assert_eq!(straight.state(), resumed.state());
}

fn learner_config(golden: &Dro) -> LearnerConfig {
    LearnerConfig { beta: golden.beta, micro_batch_tokens: 4096, ..quickstart::<LearnerConfig>("learner") }
}

#[test]
fn a_fresh_adapter_changes_nothing_and_is_the_same_for_the_same_seed() {
    let config = quickstart::<LearnerConfig>("learner");
    let fresh = |seed| {
        let learner = Learner::new(tiny().transformer.clone(), config.clone(), 1.0, seed).unwrap();
        learner.critic().adapter().unwrap().clone()
    };
    let adapter = fresh(3);
    assert_eq!(adapter, fresh(3));
    assert_ne!(adapter, fresh(4));
    let ids: Vec<u32> = (0..50).map(|i| i * 5 % 256).collect();
    assert_eq!(score(tiny(), &ids, Some(&adapter)), score(tiny(), &ids, None));
    let folder = tempfile::tempdir().unwrap();
    adapter.save(folder.path(), "tiny", tiny().transformer.spec()).unwrap();
    assert_eq!(Adapter::load(Path::new(folder.path()), tiny().transformer.spec()).unwrap(), adapter);
}
