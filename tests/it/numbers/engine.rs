//! Batching changes nothing: on real weights, a request gives the same ids and log-probs whatever
//! happens around it. And both passes agree on what was written.

use crate::support::models::{farthest, golden, quickstart, smollm2, tiny};
use rco_node::engine::sampler::SamplingConfig;
use rco_node::engine::{Engine, EngineConfig, Policy, Request, RequestId, StreamEvent, TokenReport, TokenReports};
use rco_node::formats::adapter::Adapter;
use rco_node::transformer::load::Loaded;
use rco_node::transformer::{decode::Decoder, decode::PackedAdapter};
use rco_node::transformer::{score, score::Packed, score::ScoreAdapter};
use rco_node::types::Completion;
use rco_node::types::CriticVersion;
use std::sync::Arc;

fn engine(model: &Loaded, blocks: usize, change: impl FnOnce(&mut EngineConfig)) -> Engine<Decoder> {
    let mut config: EngineConfig = quickstart("engine");
    change(&mut config);
    Engine::new(Decoder::new(model.transformer.clone(), blocks).unwrap(), model.tokenizer.clone(), config)
}

fn adapter() -> Adapter {
    Adapter::load(&golden("tiny_lora"), tiny().transformer.spec()).unwrap()
}

fn with_critic(mut engine: Engine<Decoder>, version: u64) -> Engine<Decoder> {
    engine.install(CriticVersion(version), Some(Arc::new(PackedAdapter::new(&adapter(), tiny().transformer.spec()))));
    engine
}

/// Request `i`: prompts of 5 to 75 tokens, every other one with the critic's adapter.
fn request(i: u64, n: usize) -> Request {
    let prompt = (0..5 + (i * 37) % 71).map(|t| ((t * 31 + i * 17) % 256) as u32).collect();
    let sampling = SamplingConfig {
        max_tokens: 40,
        temperature: 0.9,
        top_k: 0,
        top_p: if i.is_multiple_of(3) { 0.95 } else { 1.0 },
        min_p: 0.0,
        stop: vec![],
    };
    let policy = if i % 2 == 1 { Policy::Serving } else { Policy::Base };
    Request::new(prompt, n, sampling, vec![258], 1000 + i).with_policy(policy)
}

/// Runs everything; the completions of `watched`.
fn run(engine: &mut Engine<Decoder>, watched: RequestId) -> Vec<Completion> {
    let mut found = None;
    while !engine.is_idle() {
        engine.step().unwrap();
        for (id, completions) in engine.take_finished() {
            if id == watched {
                found = Some(completions);
            }
        }
    }
    found.unwrap()
}

fn assert_same(got: &[Completion], alone: &[Completion], how: &str) {
    for (got, alone) in got.iter().zip(alone) {
        assert_eq!(got.ids, alone.ids, "{how}");
        let off = farthest(&got.log_probs, &alone.log_probs);
        assert!(off < 1e-4, "{how}: {off}");
        assert_eq!(got.version, alone.version, "{how}");
    }
}

#[test]
fn a_request_gives_the_same_text_whatever_happens_around_it() {
    for i in [2, 3, 5, 6] {
        let mut lonely = with_critic(engine(tiny(), 200, |_| {}), 4);
        let id = lonely.submit(request(i, 2)).unwrap();
        let alone = run(&mut lonely, id);
        assert_eq!(alone[0].version, CriticVersion(if i % 2 == 1 { 4 } else { 0 }));
        assert_ne!(alone[0].ids, alone[1].ids, "two continuations are two draws");

        // Among 31 others, which share steps, blocks and adapters with it.
        let mut crowded = with_critic(engine(tiny(), 400, |_| {}), 4);
        let ids: Vec<_> = (0..32).map(|j| crowded.submit(request(j, if j == i { 2 } else { 1 })).unwrap()).collect();
        assert_same(&run(&mut crowded, ids[i as usize]), &alone, "crowded");

        // Its prompt in chunks of a few tokens.
        let mut chunked = with_critic(engine(tiny(), 200, |config| config.step_tokens_max = 5), 4);
        let id = chunked.submit(request(i, 2)).unwrap();
        assert_same(&run(&mut chunked, id), &alone, "chunked");

        // Sent back and recomputed: the cache holds a fraction of what 12 requests need.
        let mut tight = with_critic(engine(tiny(), 14, |config| config.step_tokens_max = 64), 4);
        let others: Vec<_> = (0..12).map(|j| tight.submit(request(j, if j == i { 2 } else { 1 })).unwrap()).collect();
        assert_same(&run(&mut tight, others[i as usize]), &alone, "preempted");
        assert!(tight.counters().preemptions > 0, "nothing was preempted: the test shows nothing");

        // After a twin has left its blocks in the cache.
        let id = lonely.submit(request(i, 2)).unwrap();
        assert_same(&run(&mut lonely, id), &alone, "cached");
    }
}

#[test]
fn the_first_continuation_is_the_same_forked_or_not() {
    let mut one = engine(tiny(), 200, |_| {});
    let id = one.submit(request(6, 1)).unwrap();
    let alone = run(&mut one, id);
    let mut many = engine(tiny(), 200, |_| {});
    let id = many.submit(request(6, 5)).unwrap();
    let forked = run(&mut many, id);
    assert_same(&forked[..1], &alone, "forked");
    assert!(many.counters().shared_tokens > 0, "nothing was shared: the test shows nothing");
}

/// Log-probs of what `completions` sampled, by the score pass.
fn scored(model: &Loaded, prompt: &[u32], ids: &[u32], adapter: Option<&Adapter>, temperature: f32) -> Vec<f32> {
    let branches = adapter.map(|adapter| ScoreAdapter::new(&model.transformer, adapter).unwrap());
    let packed = [Packed { prefix: prompt, texts: vec![ids] }];
    let batch = score::ScoreBatch { packed: &packed, temperature };
    score::score(&model.transformer, batch, branches.as_ref()).unwrap().log_probs
}

#[test]
fn what_the_engine_writes_scores_the_same_with_and_without_an_adapter() {
    for i in [1, 2, 4, 5] {
        let mut engine = with_critic(engine(tiny(), 200, |_| {}), 1);
        let request = request(i, 1);
        let id = engine.submit(request.clone()).unwrap();
        let written = run(&mut engine, id).remove(0);
        let adapter = (request.policy == Policy::Serving).then(adapter);
        let scored = scored(tiny(), &request.prompt, &written.ids, adapter.as_ref(), request.sampling.temperature);
        let off = farthest(&scored, &written.log_probs);
        assert!(off < 1e-5, "request {i}: {off}");
    }
}

/// Runs everything; the prompt's reports of the stream `watched`, and its tokens.
fn streamed(engine: &mut Engine<Decoder>, watched: RequestId) -> (Vec<TokenReport>, Vec<TokenReport>) {
    let (mut prompt, mut written) = (vec![], vec![]);
    while !engine.is_idle() {
        engine.step().unwrap();
        for (_, event) in engine.take_events().into_iter().filter(|(id, _)| *id == watched) {
            match event {
                StreamEvent::Started { prompt: reported, cached_tokens, .. } => {
                    assert_eq!(cached_tokens, 0, "all of the prompt is computed");
                    prompt = reported;
                }
                StreamEvent::Tokens { tokens, .. } => written.extend(tokens),
            }
        }
    }
    (prompt, written)
}

#[test]
fn a_reported_prompt_scores_the_same_as_by_the_score_pass_in_any_chunks() {
    let log_probs = |reports: &[TokenReport]| reports.iter().map(|r| r.log_prob.unwrap()).collect::<Vec<f32>>();
    for (i, max_tokens) in [(1, 1), (2, 0), (3, 6), (6, 1)] {
        for step_tokens_max in [256, 32, 7, 1] {
            let mut engine = with_critic(engine(tiny(), 200, |config| config.step_tokens_max = step_tokens_max), 1);
            let mut request = request(i, 1);
            // Most of its prompt lies in the cache, and others run beside it.
            let before = engine.submit(request.clone()).unwrap();
            run(&mut engine, before);
            (0..6).for_each(|j| _ = engine.submit(self::request(j, 2)).unwrap());
            request.sampling.max_tokens = max_tokens;
            request.reports = TokenReports { top: 3, prompt: true, ..TokenReports::default() };
            let id = engine.submit_streamed(request.clone()).unwrap();
            let (prompt, written) = streamed(&mut engine, id);
            let ids = |reports: &[TokenReport]| reports.iter().map(|r| r.id).collect::<Vec<u32>>();
            assert_eq!((ids(&prompt), written.len()), (request.prompt.clone(), max_tokens));
            assert_eq!((prompt[0].log_prob, prompt[0].top.len()), (None, 0));
            let adapter = (request.policy == Policy::Serving).then(adapter);
            let all = [request.prompt.clone(), ids(&written)].concat();
            let scored = scored(tiny(), &all[..1], &all[1..], adapter.as_ref(), 1.0);
            let got = [log_probs(&prompt[1..]), log_probs(&written)].concat();
            let off = farthest(&got, &scored);
            assert!(off < 1e-4, "request {i} in steps of {step_tokens_max}: {off}");
            for report in prompt[1..].iter().chain(&written) {
                let (id, log_prob) = report.top[0];
                assert!(report.top.len() == 3 && report.top.is_sorted_by(|a, b| a.1 >= b.1));
                assert!(Some(log_prob) >= report.log_prob && (id == report.id) == (Some(log_prob) == report.log_prob));
            }
        }
    }
}

#[test]
fn on_the_real_model_batching_changes_nothing_and_both_passes_agree() {
    let model = smollm2();
    let prompts =
        ["What is 17 + 25?", "Name three rivers of Europe.", "Write a haiku about rain.", "Why is the sky blue?"];
    let request = |i: usize| {
        let text = format!("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", prompts[i]);
        let sampling = SamplingConfig { temperature: 0.8, ..SamplingConfig::greedy(24) };
        let stop_ids = model.tokenizer.stop_ids().to_vec();
        Request::new(model.tokenizer.encode(&text).unwrap(), 1, sampling, stop_ids, 7 + i as u64)
    };
    let mut crowded = engine(model, 64, |_| {});
    let ids: Vec<_> = (0..4).map(|i| crowded.submit(request(i)).unwrap()).collect();
    let together = run(&mut crowded, ids[3]);
    let mut lonely = engine(model, 64, |config| config.step_tokens_max = 9);
    let id = lonely.submit(request(3)).unwrap();
    let alone = run(&mut lonely, id);
    assert_same(&together, &alone, "crowded");
    let off = farthest(&scored(model, &request(3).prompt, &alone[0].ids, None, 0.8), &alone[0].log_probs);
    assert!(off < 1e-3, "{off}");
    eprintln!("decode against score on the real model: {off:.2e}");
}
