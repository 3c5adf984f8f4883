//! `learner.mode = "full"`: every weight of a critic of its own, against PyTorch, in the engine, and out of the house.
//!
//! The program that made the numbers: `tests/golden/whole.py`.

use crate::numbers::parity::{DroStep, dro, groups, take_step};
use crate::numbers::passes::score;
use crate::support::models::{Numbers, farthest, golden, quickstart, relative, tiny};
use crate::support::node::{config, likes_even, saved, sets, start};
use candle_core::Device;
use rco_node::checkpoint;
use rco_node::engine::{Engine, EngineConfig, Policy, Request, RequestId};
use rco_node::export::{Dtype, MergedLayout, ModelCard, write_merged};
use rco_node::kernels::{PassPrecisions, Precision};
use rco_node::learner::{Learner, LearnerConfig, Mode};
use rco_node::run::events::Event;
use rco_node::transformer::decode::Decoder;
use rco_node::transformer::load;
use rco_node::transformer::load::Loaded;
use rco_node::transformer::{full_weights::CriticWeights, full_weights::FullWeights};
use rco_node::transformer::{
    score::ActivationPolicy, score::FullGradients, score::Packed, score::ScoreBatch, score::record_full,
    score::score as score_batch,
};
use rco_node::types::Completion;
use rco_node::types::CriticVersion;
use rco_node::types::ModelId;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Ids that both golden sequences begin with.
const PREFIX: usize = 24;

#[test]
fn every_weight_has_the_gradient_of_pytorch_in_every_family() {
    for family in ["qwen2", "qwen3", "gemma3", "llama3"] {
        let model = load::load(&golden(&format!("tiny_{family}"))).unwrap().transformer;
        let whole = FullWeights::copy_of(&model).unwrap();
        let (inputs, expected) = (
            Numbers::read(&format!("tiny_{family}_numbers.safetensors")),
            Numbers::read(&format!("whole_{family}.safetensors")),
        );
        let ids = [inputs.u32("ids.0"), inputs.u32("ids.1")];
        let packed = [Packed { prefix: &ids[0][..PREFIX], texts: vec![&ids[0][PREFIX..], &ids[1][PREFIX..]] }];
        let alone: Vec<[Packed<'_>; 1]> =
            ids.iter().map(|ids| [Packed { prefix: &ids[..PREFIX], texts: vec![&ids[PREFIX..]] }]).collect();
        // Both texts behind one prefix, and each behind a prefix of its own; all kept, and computed again.
        for (policy, batches) in [
            (ActivationPolicy::KeepAll, vec![(&packed, vec![1.0, -0.5])]),
            (ActivationPolicy::Recompute, vec![(&packed, vec![1.0, -0.5])]),
            (ActivationPolicy::KeepAll, vec![(&alone[0], vec![1.0]), (&alone[1], vec![-0.5])]),
        ] {
            let mut gradients = FullGradients::zeros(whole.spec());
            for (packed, weights) in batches {
                let batch = ScoreBatch { packed, temperature: 0.8 };
                let own = whole.transformer();
                let recorded = record_full(&own, batch, policy).unwrap();
                let plain = score_batch(&model, batch, None).unwrap();
                assert_eq!(recorded.scored, plain, "{family}: as the base that it is still");
                let texts = packed[0].texts.iter().zip(weights);
                let weights: Vec<f32> = texts.flat_map(|(text, weight)| vec![weight; text.len()]).collect();
                recorded.backward_full(&weights, &mut gradients).unwrap();
            }
            let tensors: Vec<_> = gradients.tensors(whole.spec()).collect();
            assert_eq!(tensors.len(), whole.spec().tensors().len());
            for (name, _, gradient) in tensors {
                let off = relative(&gradient, &expected.f32(&name));
                assert!(off < 1e-4, "{family}, {policy:?}, {name}: {off}");
            }
        }
    }
}

/// `whole_adamw.json`.
#[derive(Deserialize)]
struct AdamW {
    steps: Vec<DroStep>,
    trained_logprobs: Vec<Vec<Vec<f32>>>,
}

/// A learner of all weights of the tiny model, as `whole.py` trains them.
fn learner(change: impl FnOnce(&mut LearnerConfig)) -> Learner {
    Learner::new(tiny().transformer.clone(), learner_config(change), dro().temperature, 0).unwrap()
}

fn learner_config(change: impl FnOnce(&mut LearnerConfig)) -> LearnerConfig {
    let mut config = LearnerConfig {
        mode: Mode::Full,
        beta: dro().beta,
        micro_batch_tokens: 4096,
        learning_rate: 2e-4,
        warmup_steps: 3,
        weight_decay: 0.01,
        adam_beta1: 0.9,
        adam_beta2: 0.99,
        adam_epsilon: 1e-8,
        clip_norm: 1.0,
        ..quickstart::<LearnerConfig>("learner")
    };
    change(&mut config);
    config
}

#[test]
fn eight_steps_of_adamw_on_all_weights_end_where_pytorch_ends() {
    let golden_steps: AdamW = serde_json::from_slice(&std::fs::read(golden("whole_adamw.json")).unwrap()).unwrap();
    let (dro, numbers) = (dro(), Numbers::read("whole_adamw.safetensors"));
    let groups = groups(&dro);
    // 4096: each group in one piece. 64: a group in several, whose baseline needs all of them first.
    for micro_batch_tokens in [4096, 64] {
        let mut learner = learner(|config| config.micro_batch_tokens = micro_batch_tokens);
        for (index, expected) in golden_steps.steps.iter().enumerate() {
            let report = take_step(&mut learner, index as u64 + 1, &groups);
            let close = |got: f64, expected: f64| (got - expected).abs() < 1e-3 * expected;
            let (loss, norm) = (f64::from(report.loss), f64::from(report.gradient_norm));
            assert!(close(loss, expected.loss), "step {index}: {loss} for {}", expected.loss);
            assert!(close(norm, expected.gradient_norm), "step {index}: {norm} for {}", expected.gradient_norm);
            assert!(close(report.learning_rate, expected.learning_rate), "step {index}");
        }
        let critic = learner.critic();
        let whole = critic.full().unwrap();
        for name in [
            "model.embed_tokens.weight",
            "model.layers.0.self_attn.k_proj.weight",
            "model.layers.1.mlp.down_proj.weight",
            "model.layers.1.post_attention_layernorm.weight",
            "model.norm.weight",
            "lm_head.weight",
        ] {
            let off = relative(&whole.tensor(name).unwrap(), &numbers.f32(name));
            assert!(off < 1e-4, "{name}: {off}");
        }
        for (group, expected) in dro.groups.iter().zip(&golden_steps.trained_logprobs) {
            let packed = [Packed { prefix: &group.prefix, texts: group.critiques.iter().map(Vec::as_slice).collect() }];
            let batch = ScoreBatch { packed: &packed, temperature: dro.temperature };
            let scored = score_batch(&whole.transformer(), batch, None).unwrap().log_probs;
            let off = farthest(&scored, &expected.concat());
            let moved = farthest(&scored, &group.reference_logprobs.concat());
            assert!(off < 1e-3 && moved > 0.05, "{off} from PyTorch's after a way of {moved}");
        }
    }
}

#[test]
fn a_step_on_all_weights_is_taken_whole_or_not_at_all() {
    let groups = groups(&dro());
    let start = learner(|_| {}).state();
    assert!(start.critic.full() == Some(&FullWeights::copy_of(&tiny().transformer).unwrap()), "it begins as the base");
    let mut exploding = learner(|config| config.gradient_norm_max = 1e-6);
    assert!(exploding.begin(1, groups.clone()).is_none());
    let error = loop {
        match exploding.advance() {
            Ok(report) => assert!(report.is_none(), "the step was taken"),
            Err(error) => break error,
        }
    };
    assert!(error.is_refusal() && error.to_string().contains("gradient_norm_max"), "{error}");
    assert!(exploding.state() == start);

    let mut learner = learner(|_| {});
    assert!(learner.begin(5, groups.clone()).is_none());
    assert!(learner.advance().unwrap().is_none(), "two groups are more than one piece");
    learner.abandon();
    assert!(learner.state() == start, "an abandoned step leaves no trace");
    let report = take_step(&mut learner, 5, &groups);
    let after = learner.state();
    assert!(after.critic != start.critic && report.gradient_norm > 0.0);
    assert_eq!(learner.begin(5, groups), Some(report), "a batch already applied is not applied again");
    assert!(learner.state() == after);
}

#[test]
fn a_learner_of_all_weights_resumed_between_steps_goes_on_bit_for_bit() {
    let (dro, groups) = (dro(), groups(&dro()));
    let mut straight = learner(|_| {});
    take_step(&mut straight, 1, &groups);
    let resume = |state, config| Learner::resume(tiny().transformer.clone(), config, dro.temperature, state);
    let mut resumed = resume(straight.state(), learner_config(|_| {})).unwrap();
    for batch in 2..4 {
        assert_eq!(take_step(&mut straight, batch, &groups), take_step(&mut resumed, batch, &groups));
    }
    assert!(straight.state() == resumed.state());

    let error = resume(straight.state(), learner_config(|config| config.mode = Mode::Lora)).err().unwrap();
    assert!(error.to_string().contains("learner.mode lora"), "{error}");
    let mut halved = straight.state();
    halved.optimizer.retain(|(name, _)| name != "model.layers.0.self_attn.v_proj.weight.v");
    let error = resume(halved, learner_config(|_| {})).err().unwrap();
    assert!(error.to_string().contains("model.layers.0.self_attn.v_proj.weight.v"), "{error}");
}

/// Weights that steps of different lengths have led away from the tiny model's.
fn critics() -> [CriticWeights; 2] {
    let groups = groups(&dro());
    [1e-2, 3e-2].map(|rate| {
        let mut learner = learner(|config| (config.learning_rate, config.warmup_steps) = (rate, 0));
        take_step(&mut learner, 1, &groups);
        learner.critic()
    })
}

fn base() -> ModelId {
    ModelId { name: "tiny".into(), sha256: "0".repeat(64) }
}

/// `critic` as a model of its own, by way of a merged folder.
fn as_model(critic: &CriticWeights, out: &Path, precision: Precision) -> Loaded {
    if !out.exists() {
        let shape = MergedLayout { dtype: Dtype::F32, shard_bytes: 1 << 30 };
        write_merged(out, &golden("tiny_llama"), Some(critic), (&base(), &ModelCard::default()), shape).unwrap();
    }
    load::load_on(out, &Device::Cpu, PassPrecisions::decode_only(precision)).unwrap()
}

fn engine(model: &Loaded) -> Engine {
    let config = EngineConfig { step_tokens_max: 24, sequences_max: 8, ..quickstart("engine") };
    Engine::new(Decoder::new(model.transformer.clone(), 64).unwrap(), model.tokenizer.clone(), config)
}

fn request(index: usize, critic: bool) -> Request {
    let prompt = (0..20 + 7 * index).map(|i| (i * 37 % 256) as u32).collect();
    let mut sampling: rco_node::engine::sampler::SamplingConfig = {
        let critic: toml::Table = quickstart("critic");
        critic["sampling"].clone().try_into().unwrap()
    };
    sampling.max_tokens = 12;
    let policy = if critic { Policy::Serving } else { Policy::Base };
    Request::new(prompt, 3, sampling, vec![], index as u64).with_policy(policy)
}

fn run(engine: &mut Engine) -> BTreeMap<RequestId, Vec<Completion>> {
    while !engine.is_idle() {
        engine.step().unwrap();
    }
    engine.take_finished().into_iter().collect()
}

#[test]
fn critics_of_their_own_weights_write_side_by_side_what_each_writes_as_a_model_alone() {
    let critics = critics();
    let place = tempfile::tempdir().unwrap();
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let model = load::load_on(&golden("tiny_llama"), &Device::Cpu, PassPrecisions::both(precision, Precision::F32))
            .unwrap();
        let mut mixed = engine(&model);
        let served = critics.clone().map(|critic| Arc::new(model.transformer.pack(&critic).unwrap()));
        let mut expected = vec![];
        for (version, packed) in [None, Some(&served[0]), Some(&served[1])].into_iter().enumerate() {
            if let Some(packed) = packed {
                mixed.install(CriticVersion(version as u64), Some(packed.clone()));
            }
            // Every version is asked the same, so that a block kept for another's would be found.
            for index in 0..2 {
                expected.push((mixed.submit(request(index, version > 0)).unwrap(), version, index));
                mixed.step().unwrap();
            }
        }
        let held = served.each_ref().map(Arc::strong_count);
        assert!(held[0] > 1 && held[1] > 1, "both versions are in service: {held:?}");
        let found = run(&mut mixed);
        assert_eq!(Arc::strong_count(&served[0]), 1, "a version goes with its last sequence");
        let alone: Vec<Loaded> = critics
            .iter()
            .enumerate()
            .map(|(index, critic)| as_model(critic, &place.path().join(index.to_string()), precision))
            .collect();
        let mut texts = vec![];
        for (id, version, index) in expected {
            let mut engine = engine(if version == 0 { &model } else { &alone[version - 1] });
            engine.submit(request(index, false)).unwrap();
            let mut expected = run(&mut engine).into_values().next().unwrap();
            expected.iter_mut().for_each(|completion| completion.version = CriticVersion(version as u64));
            assert_eq!(found[&id], expected, "{precision}, version {version}, prompt {index}");
            texts.push(found[&id].iter().map(|completion| completion.ids.clone()).collect::<Vec<_>>());
        }
        assert!(texts[0] != texts[2] && texts[2] != texts[4] && texts[0] != texts[4], "{precision}: they differ");
    }
}

/// The program's exit code and what it said.
fn program(place: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rco-node"));
    let command = command.current_dir(place).env("RCO_LOG", "warn").args(arguments);
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_trains_all_weights_serves_them_and_lets_them_out() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let more = "learner.mode=full\nlearner.learning_rate=3e-3\nengine.weights=f32\ncheckpoint.keep=1000\n\
                critic.sampling.temperature=1.0";
    let running = start(config(place, more), false, None, Arc::new(likes_even)).await;
    let learned_late = |event: &Event| matches!(event, Event::Learned { report, .. } if report.train_inference_mismatch.is_some_and(|_| report.step > 4));
    running.log.until("what a new critic wrote to be learned", |events| events.iter().any(learned_late)).await;
    running.node.stop();
    let (progress, log) = running.done().await;
    let snapshot = saved(place);
    assert!(progress.version >= CriticVersion(2) && snapshot.version == progress.version);
    let near = |event: &Event| match event {
        Event::Learned { report, .. } => report.train_inference_mismatch.is_none_or(|difference| difference < 1e-4),
        _ => true,
    };
    assert_eq!(log.count(|event| !near(event)), 0, "the learner scores as the engine writes");

    // What a critic wrote has the log-probs of its weights in the checkpoint, and not those of the base.
    let spec = tiny().transformer.spec();
    let mut critics = BTreeMap::new();
    for listed in checkpoint::list(&place.join("run/checkpoints")).unwrap() {
        let snapshot = checkpoint::load(&listed.path, spec).unwrap();
        critics.insert(snapshot.version, snapshot.served);
    }
    let (mut written, mut as_base, mut as_critic) = (0, 0.0f32, 0.0f32);
    for recorded in rco_node::groups::read(&place.join("run")).unwrap().groups {
        let group = recorded.group;
        for critique in group.critiques.iter().filter(|critique| critique.completion.version > CriticVersion::BASE) {
            let packed = [Packed { prefix: &group.prefix_ids, texts: vec![&critique.completion.ids] }];
            let batch = ScoreBatch { packed: &packed, temperature: 1.0 };
            let of = |model| score_batch(model, batch, None).unwrap().log_probs;
            let (critic, mu) =
                (critics[&critique.completion.version].as_ref().unwrap(), &critique.completion.log_probs);
            let own = critic.full().unwrap().transformer();
            as_critic = as_critic.max(farthest(&of(&own), mu));
            as_base = as_base.max(farthest(&of(&tiny().transformer), mu));
            written += 1;
        }
    }
    assert!(written > 0 && as_critic < 1e-4 && as_base > 0.05, "{written} critiques: {as_critic}, {as_base}");

    let ids: Vec<u32> = (0..40).map(|i| i * 11 % 256).collect();
    let expected = {
        let packed = [Packed { prefix: &ids[..1], texts: vec![&ids[1..]] }];
        let batch = ScoreBatch { packed: &packed, temperature: 1.0 };
        score_batch(&snapshot.critic.full().unwrap().transformer(), batch, None).unwrap().log_probs
    };
    assert_eq!(program(place, &["export", "--to", "merged", "--run", "run", "out"]).0, Some(0));
    assert_eq!(score(&load::load(&place.join("out")).unwrap(), &ids, None), expected);
    for to in ["peft", "gguf-lora"] {
        let (code, says) = program(place, &["export", "--to", to, "--run", "run", "no"]);
        assert!(code == Some(2) && says.contains("--to merged") && !place.join("no").exists(), "{code:?}: {says}");
    }
    let weights = std::fs::read_dir(place.join("run/checkpoints")).unwrap();
    let weights = weights.map(|entry| entry.unwrap().path().join("weights")).max().unwrap();
    let line = serde_json::json!({"prompt_ids": ids[..1], "completion_ids": ids[1..]}).to_string();
    std::fs::write(place.join("ids.jsonl"), line).unwrap();
    let source = format!("model.source='{}'", golden("tiny_llama").display());
    for pass in ["score", "decode"] {
        let weights = weights.to_str().unwrap();
        let sets = ["--set", &source, "--set", "engine.weights=f32"];
        let asked = ["score", "ids.jsonl", "--pass", pass, "--adapter", weights];
        let (code, says) = program(place, &[&asked[..], &sets].concat());
        assert_eq!(code, Some(0), "{says}");
        let output: serde_json::Value = serde_json::from_str(says.lines().next().unwrap()).unwrap();
        let found: Vec<f32> = serde_json::from_value(output["log_probs"].clone()).unwrap();
        assert!(farthest(&found, &expected) < 1e-5, "{pass}: {}", farthest(&found, &expected));
    }
}

#[test]
fn check_plans_the_memory_of_all_weights_and_of_those_in_service() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = golden("../../data/arithmetic-heldout.jsonl");
    let planned = |more: &str| -> BTreeMap<String, f64> {
        let sets = sets(folder.path(), &prompts, more);
        let arguments: Vec<&str> = sets.iter().flat_map(|set| ["--set", set.as_str()]).collect();
        let (code, says) = program(folder.path(), &[&["check"], &arguments[..]].concat());
        assert_eq!(code, Some(0), "{says}");
        let lines = says.lines().filter_map(|line| line.strip_prefix("# ")?.trim().rsplit_once(' '));
        lines.filter_map(|(name, mib)| Some((name.trim().to_owned(), mib.parse().ok()?))).collect()
    };
    let mib = tiny().transformer.spec().parameters() as f64 * 4.0 / f64::from(1 << 20);
    let (f32, bf16) =
        (planned("learner.mode=full\nengine.weights=f32"), planned("learner.mode=full\nengine.weights=bf16"));
    let near = |got: f64, weights: f64| assert!((got - weights * mib).abs() <= 0.051, "{got} for {weights} x {mib}");
    near(f32["critic"], 1.0);
    // Gradient and two moments, and the moments that are being written.
    near(f32["optimizer"], 5.0);
    near(f32["in service"], 2.0);
    near(bf16["in service"], 3.0);
    assert!(!f32.contains_key("adapter") && !planned("").contains_key("critic"));
}
