//! The engine over a small language model that reads its whole context back through the block tables.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::kernels::{KvPrecision, Precision};
use crate::transformer::decode::RowSampling;
use crate::types::splitmix::{GOLDEN_GAMMA, mix64};
use crate::types::{FinishReason, Origin};
use crate::{formats, transformer};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::Duration;

const VOCAB: usize = 23;
/// The content of a cell that nobody wrote.
const EMPTY: u64 = 0;

/// One word from two.
fn mix(a: u64, b: u64) -> u64 {
    mix64((a ^ b.rotate_left(32)).wrapping_add(GOLDEN_GAMMA))
}

/// What a position of the context leaves in the cache: like a key or value, it depends on the token, on
/// everything before it and on the weights.
fn cell(before: u64, token: u32, weights: u64) -> u64 {
    mix(mix(before, u64::from(token) + 1), weights) | 1
}

/// Next-token logits of a context, given what each of its positions left in the cache.
fn logits(cells: impl Iterator<Item = u64>, weights: u64) -> Vec<f32> {
    let state = cells.fold(weights, mix);
    (0..VOCAB as u64).map(|id| (mix(state, id) % 60_000) as f32 / 10_000.0).collect()
}

/// Adapters that the model can tell apart, without keeping them alive.
type Names = Vec<(Weak<PackedAdapter>, u64)>;

/// A language model whose cache is an array of words. It panics where a block table lies.
struct HashModel {
    cells: Vec<u64>,
    adapters: Names,
    /// Largest number of tokens of a step, and the number of tokens of all steps.
    tokens_max: usize,
    tokens: usize,
    /// Steps to fail from now on.
    failures: usize,
    /// Contexts that give NaN end with this token.
    poison: Option<u32>,
    /// Whether it draws tokens itself, as a GPU does, and how many it drew.
    draws: bool,
    drawn: usize,
}

impl HashModel {
    fn new(blocks: usize) -> Self {
        let cells = vec![EMPTY; blocks * BLOCK_TOKENS];
        Self {
            cells,
            adapters: Vec::new(),
            tokens_max: 0,
            tokens: 0,
            failures: 0,
            poison: None,
            draws: false,
            drawn: 0,
        }
    }

    fn weights(&self, adapter: &Arc<PackedAdapter>) -> u64 {
        let known = self.adapters.iter().find(|(a, _)| std::ptr::eq(a.as_ptr(), Arc::as_ptr(adapter)));
        known.expect("the batch holds an adapter that was installed").1
    }
}

impl Forward for HashModel {
    fn blocks(&self) -> usize {
        self.cells.len() / BLOCK_TOKENS
    }
    fn vocab(&self) -> usize {
        VOCAB
    }
    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> transformer::Result<()> {
        for &(from, to) in pairs {
            let from = from as usize * BLOCK_TOKENS;
            self.cells.copy_within(from..from + BLOCK_TOKENS, to as usize * BLOCK_TOKENS);
        }
        Ok(())
    }
    fn draws(&self) -> bool {
        self.draws
    }
    fn step(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> transformer::Result<Vec<Option<Draw>>> {
        if self.failures > 0 {
            self.failures -= 1;
            // What a step that broke half-way may leave behind.
            for span in &batch.spans {
                batch.table(span)[span.cached / BLOCK_TOKENS..].iter().for_each(|&block| {
                    self.cells[block as usize * BLOCK_TOKENS + BLOCK_TOKENS - 1] = 666;
                });
            }
            return Err(transformer::Error::DecodeOnly);
        }
        assert_eq!(batch.tokens.len(), batch.spans.iter().map(|s| s.len).sum::<usize>());
        self.tokens_max = self.tokens_max.max(batch.tokens.len());
        self.tokens += batch.tokens.len();
        for (i, span) in batch.spans.iter().enumerate() {
            let table = batch.table(span);
            assert!(span.len > 0 && table.len() == (span.cached + span.len).div_ceil(BLOCK_TOKENS));
            for written in &table[span.cached / BLOCK_TOKENS..] {
                let others = batch.spans.iter().enumerate().filter(|(j, _)| *j != i);
                let readers = others.filter(|(_, other)| batch.table(other).contains(written));
                assert_eq!(readers.count(), 0, "block {written} is written while another sequence reads it");
            }
        }
        logits.clear();
        let mut rows: Vec<Vec<f32>> = Vec::new();
        for span in &batch.spans {
            let weights = span.adapter.map_or(0, |adapter| self.weights(&batch.adapters[adapter]));
            let table = batch.table(span);
            let at = |position: usize| table[position / BLOCK_TOKENS] as usize * BLOCK_TOKENS + position % BLOCK_TOKENS;
            for (offset, &token) in batch.tokens[span.start..span.start + span.len].iter().enumerate() {
                let position = span.cached + offset;
                let before = position.checked_sub(1).map_or(EMPTY, |before| self.cells[at(before)]);
                self.cells[at(position)] = cell(before, token, weights);
            }
            for back in (0..span.logit_rows).rev() {
                let mut row = self::logits((0..span.cached + span.len - back).map(|p| self.cells[at(p)]), weights);
                if self.poison == batch.tokens.get(span.start + span.len - 1 - back).copied() {
                    row[3] = f32::NAN;
                }
                if span.is_drawn { rows.push(row) } else { logits.extend(row) }
            }
        }
        let draw = |sampling: &RowSampling| {
            let &RowSampling { temperature, top_k, top_p, min_p, .. } = sampling;
            let config = SamplingConfig { temperature, top_k, top_p, min_p, ..SamplingConfig::greedy(1) };
            sampler::draw(&rows[sampling.row], &config, sampling.uniform, &mut Scratch::default())
        };
        self.drawn += batch.draws.len();
        Ok(batch.draws.iter().map(draw).collect())
    }
}

/// A letter for each id.
fn letters() -> Detokenize {
    Box::new(|ids| Ok(ids.iter().map(|&id| char::from(b'a' + id as u8)).collect()))
}

fn config(step_tokens_max: usize, sequences_max: usize) -> EngineConfig {
    EngineConfig {
        step_tokens_max,
        sequences_max,
        context_tokens_max: 300,
        kv_cache_mib: 1,
        versions_max: 2,
        weights: Precision::F32,
        kv: KvPrecision::Auto,
    }
}

fn engine(blocks: usize, step_tokens_max: usize, sequences_max: usize) -> Engine<HashModel> {
    Engine::with_text(HashModel::new(blocks), letters(), config(step_tokens_max, sequences_max))
}

fn prompt(len: usize, salt: u64) -> Vec<u32> {
    (0..len as u64).map(|i| (mix(salt, i) % VOCAB as u64) as u32).collect()
}

fn request(prompt: Vec<u32>, n: usize, max_tokens: usize, seed: u64) -> Request {
    let sampling = SamplingConfig { temperature: 1.0, ..SamplingConfig::greedy(max_tokens) };
    Request::new(prompt, n, sampling, Vec::new(), seed)
}

/// What `request` must get: the model's definition and the sampler, without any engine.
fn expected(request: &Request, weights: u64, context: usize) -> Vec<(Vec<u32>, Vec<f32>)> {
    let one = |index: usize| {
        let (mut ids, mut log_probs) = (Vec::new(), Vec::new());
        let mut cells: Vec<u64> = Vec::new();
        let push = |cells: &mut Vec<u64>, id: u32| {
            cells.push(cell(cells.last().copied().unwrap_or(EMPTY), id, weights));
        };
        request.prompt.iter().for_each(|&id| push(&mut cells, id));
        let limit = request.sampling.max_tokens.min(context - request.prompt.len());
        while ids.len() < limit {
            let row = logits(cells.iter().copied(), weights);
            let uniform = sampler::uniform(request.seed, index as u64, ids.len() as u64);
            let draw = sampler::draw(&row, &request.sampling, uniform, &mut Scratch::default()).unwrap();
            ids.push(draw.id);
            log_probs.push(draw.log_prob);
            push(&mut cells, draw.id);
            if request.stop_ids.contains(&draw.id) {
                break;
            }
        }
        (ids, log_probs)
    };
    (0..request.n).map(one).collect()
}

fn written(completions: &[Completion]) -> Vec<(Vec<u32>, Vec<f32>)> {
    completions.iter().map(|c| (c.ids.clone(), c.log_probs.clone())).collect()
}

/// Runs until idle, checking every invariant between steps.
fn run(engine: &mut Engine<HashModel>) -> Vec<(RequestId, Vec<Completion>)> {
    let mut steps = 0;
    while !engine.is_idle() {
        engine.step().unwrap();
        engine.scheduler.check();
        steps += 1;
        assert!(steps < 100_000, "the engine runs in circles");
    }
    assert_eq!(engine.kv_usage(), 0.0, "a block leaked");
    assert_eq!((engine.running(), engine.waiting(), engine.states.len()), (0, 0, 0));
    engine.take_finished()
}

fn adapter(engine: &mut Engine<HashModel>, weights: u64) -> (Arc<PackedAdapter>, Weak<PackedAdapter>) {
    let adapter = Arc::new(PackedAdapter::without_factors());
    let weak = Arc::downgrade(&adapter);
    engine.model.adapters.push((weak.clone(), weights));
    (adapter, weak)
}

fn install(engine: &mut Engine<HashModel>, version: u64, weights: u64) -> Weak<PackedAdapter> {
    let (adapter, weak) = adapter(engine, weights);
    engine.install(CriticVersion(version), Some(adapter));
    weak
}

fn load(engine: &mut Engine<HashModel>, version: u64, weights: u64) -> Result<Weak<PackedAdapter>, Error> {
    let (adapter, weak) = adapter(engine, weights);
    engine.critics_mut().load(CriticVersion(version), Some(adapter), Holder::Swap)?;
    Ok(weak)
}

#[test]
fn a_request_gets_the_same_alone_among_others_in_chunks_preempted_and_forked() {
    let wanted = request(prompt(75, 1), 3, 60, 9);
    let expected = expected(&wanted, 0, 300);
    // Alone; in chunks of one to seven tokens; with so few blocks that siblings push each other out.
    for (blocks, tokens, sequences) in [(64, 256, 64), (64, 1, 64), (64, 7, 64), (7, 256, 64), (6, 5, 2), (64, 64, 1)] {
        let mut engine = engine(blocks, tokens, sequences);
        engine.submit(wanted.clone()).unwrap();
        let done = run(&mut engine);
        assert_eq!(written(&done[0].1), expected, "{blocks} blocks, {tokens} tokens, {sequences} sequences");
        assert!(engine.model.tokens_max <= tokens);
        if blocks == 7 {
            assert!(engine.counters().preemptions > 0, "this case is about preemption");
        }
    }
    // Among 31 others, some with its prefix, with blocks for all and for a few.
    for blocks in [400, 20] {
        let mut engine = engine(blocks, 64, 16);
        let mut id = None;
        for i in 0..32 {
            if i == 17 {
                id = Some(engine.submit(wanted.clone()).unwrap());
            } else {
                let other = [prompt(64, 1), prompt(i, 100 + i as u64)].concat();
                engine.submit(request(other, 1 + i % 3, 10 + i, i as u64)).unwrap();
            }
        }
        let done = run(&mut engine);
        assert_eq!(done.len(), 32);
        let found = done.iter().find(|(done, _)| Some(*done) == id).unwrap();
        assert_eq!(written(&found.1), expected, "{blocks} blocks");
    }
}

#[test]
fn tokens_that_the_device_draws_are_those_that_the_engine_would_draw() {
    let texts = |draws: bool| {
        let mut engine = engine(200, 48, 16);
        engine.model.draws = draws;
        for i in 0..24u64 {
            let mut asked = request(prompt(20 + i as usize, i / 2), 1 + i as usize % 3, 12, i);
            // A third wants what ids alone do not say, so that steps have rows of both kinds.
            match i % 6 {
                0 => asked.sampling.temperature = 0.0,
                1 => (asked.sampling.top_k, asked.sampling.top_p, asked.sampling.min_p) = (9, 0.8, 0.05),
                2 => asked.logit_bias = vec![(3, 2.0), (4, -100.0)],
                3 => drop(engine.score_candidates(Policy::Base, prompt(30, i), vec![1, 5, 7]).unwrap()),
                _ => {}
            }
            engine.submit(asked).unwrap();
        }
        let mut done = run(&mut engine);
        done.sort_by_key(|(id, _)| *id);
        (done.iter().map(|(_, completions)| written(completions)).collect::<Vec<_>>(), engine.model.drawn)
    };
    let ((here, none), (there, drawn)) = (texts(false), texts(true));
    assert_eq!(here, there);
    assert!(none == 0 && drawn > 300, "the device drew {none} and {drawn} tokens");
}

#[test]
fn a_row_that_is_no_distribution_fails_its_request_whoever_draws() {
    let mut engine = engine(64, 256, 64);
    (engine.model.draws, engine.model.poison) = (true, Some(7));
    let bad = engine.submit(request([prompt(20, 1), vec![7]].concat(), 1, 5, 1)).unwrap();
    let error = engine.step().unwrap_err();
    assert_eq!(error.request(), Some(bad.0), "{error}");
}

#[test]
fn siblings_are_computed_once_until_they_part_and_copy_only_a_partial_block() {
    let mut engine = engine(64, 256, 64);
    let asked = request(prompt(70, 1), 4, 5, 1);
    let texts: Vec<Vec<u32>> = expected(&asked, 0, 300).into_iter().map(|(ids, _)| ids).collect();
    let firsts: BTreeSet<u32> = texts.iter().map(|ids| ids[0]).collect();
    engine.submit(asked.clone()).unwrap();
    let first = engine.step().unwrap();
    assert_eq!((first.prefill_tokens, first.sampled_tokens), (70, 4));
    assert_eq!((engine.running(), engine.waiting()), (4, 0));
    assert_eq!(engine.counters().copied_blocks, 0, "nothing is copied before it is written");
    let second = engine.step().unwrap();
    assert_eq!((second.prefill_tokens, second.sampled_tokens), (0, 4));
    assert_eq!(engine.counters().copied_blocks as usize, firsts.len() - 1, "the last holder writes in place");
    run(&mut engine);
    let mut distinct = distinct::DistinctTokens::default();
    texts.iter().for_each(|ids| distinct.add(CriticVersion::BASE, &asked.prompt, ids));
    let counters = engine.counters();
    assert_eq!((counters.prompt_tokens, counters.prefill_tokens, counters.sampled_tokens), (280, 70, 20));
    assert_eq!((engine.model.tokens as u64, counters.work.tokens), (distinct.tokens(), distinct.tokens()));
    assert_eq!(counters.work.tokens + counters.shared_tokens, 4 * (70 + 4));
}

#[test]
fn continuations_that_never_part_cost_as_much_as_one() {
    let mut engine = engine(64, 256, 64);
    let mut asked = request(prompt(70, 1), 6, 50, 1);
    asked.sampling.temperature = 0.0;
    engine.submit(asked.clone()).unwrap();
    assert_eq!(written(&run(&mut engine)[0].1), expected(&asked, 0, 300));
    assert_eq!((engine.model.tokens, engine.counters().sampled_tokens), (70 + 49, 6 * 50));
}

#[test]
fn a_text_that_cannot_be_decoded_leaves_its_siblings_whole() {
    // Decoding fails now and then: what one sibling wrote before it stays, what another did not is written again.
    let calls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let decode: Detokenize = Box::new(move |ids| match calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 7 {
        // Pieces only: the whole text is what a request ends with.
        5 if ids.len() < 10 => Err(formats::Error::Tokenizer("rigged".into())),
        _ => letters()(ids),
    });
    let mut engine = Engine::with_text(HashModel::new(64), decode, config(256, 64));
    let mut asked = request(prompt(40, 1), 5, 12, 1);
    asked.sampling.temperature = 0.4;
    let expected = expected(&asked, 0, 300);
    asked.sampling.stop = vec!["no such text".into()];
    engine.submit(asked).unwrap();
    let mut failures = 0;
    while !engine.is_idle() {
        failures += usize::from(engine.step().is_err());
        engine.scheduler.check();
        assert!(failures < 1000, "the engine runs in circles");
    }
    assert!(failures > 3);
    assert_eq!(written(&engine.take_finished()[0].1), expected);
}

#[test]
fn a_continued_conversation_finds_every_token_that_was_computed() {
    let mut engine = engine(64, 256, 64);
    let first = request(prompt(40, 1), 1, 60, 1);
    engine.submit(first.clone()).unwrap();
    let done = run(&mut engine);
    // The last sampled token was never computed: 99 are in the cache.
    let next = [first.prompt, done[0].1[0].ids.clone(), prompt(9, 2)].concat();
    let next = request(next, 2, 8, 2);
    engine.submit(next.clone()).unwrap();
    let report = engine.step().unwrap();
    assert_eq!((report.cached_tokens, report.prefill_tokens), (99, 109 - 99));
    assert_eq!(report.copied_blocks, 0, "a block that ends with what is asked is written on, not copied");
    assert_eq!(written(&run(&mut engine)[0].1), expected(&next, 0, 300));
}

#[test]
fn a_prompt_that_is_cached_whole_computes_its_last_token_only() {
    let mut engine = engine(64, 256, 64);
    let asked = request(prompt(96, 1), 2, 40, 1);
    engine.submit(asked.clone()).unwrap();
    run(&mut engine);
    // Cached and held by nobody; then held by the one that is running.
    engine.submit(asked.clone()).unwrap();
    let report = engine.step().unwrap();
    assert_eq!((report.cached_tokens, report.prefill_tokens, report.sampled_tokens), (95, 1, 2));
    assert_eq!(report.copied_blocks, 1, "what is known is copied before it is written");
    engine.submit(asked.clone()).unwrap();
    let report = engine.step().unwrap();
    assert_eq!((report.cached_tokens, report.prefill_tokens, report.copied_blocks), (95, 1, 1));
    for (_, completions) in run(&mut engine) {
        assert_eq!(written(&completions), expected(&asked, 0, 300));
    }
}

#[test]
fn a_step_that_failed_spoils_nothing_that_was_cached() {
    let mut engine = engine(64, 256, 64);
    let first = request(prompt(96, 1), 1, 10, 1);
    engine.submit(first.clone()).unwrap();
    let ids = run(&mut engine)[0].1[0].ids.clone();
    // The same again, from a copy of its last block; and what goes on from it, in its very last block.
    let next = request([first.prompt.clone(), ids, prompt(5, 2)].concat(), 1, 10, 1);
    for (asked, cached) in [(first, 95), (next, 105)] {
        engine.submit(asked.clone()).unwrap();
        engine.model.failures = 1;
        assert!(engine.step().is_err());
        assert_eq!(engine.step().unwrap().cached_tokens, cached);
        assert_eq!(written(&run(&mut engine)[0].1), expected(&asked, 0, 300));
    }
}

#[test]
fn a_request_waits_for_a_prefix_that_another_is_computing() {
    let mut engine = engine(64, 1000, 64);
    let shared = prompt(128, 1);
    for i in 0..5 {
        engine.submit(request([shared.clone(), vec![i; 3]].concat(), 1, 4, u64::from(i))).unwrap();
    }
    let first = engine.step().unwrap();
    assert_eq!((first.prefill_tokens, engine.running(), engine.waiting()), (131, 1, 4));
    run(&mut engine);
    assert_eq!(engine.counters().prefill_tokens, 128 + 5 * 3);
    assert_eq!(engine.counters().cached_tokens, 4 * 128);
}

/// Submits, runs until all have ended, and adds what was asked and written to `distinct`.
fn ask(
    engine: &mut Engine<HashModel>,
    asked: Vec<Request>,
    distinct: &mut distinct::DistinctTokens,
) -> Vec<Vec<Vec<u32>>> {
    let ids: Vec<RequestId> = asked.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    let done: BTreeMap<_, _> = run(engine).into_iter().collect();
    let texts = |(request, id): (&Request, &RequestId)| {
        let of_one = |one: &Completion| {
            distinct.add(one.version, &request.prompt, &one.ids);
            one.ids.clone()
        };
        done[id].iter().map(of_one).collect()
    };
    asked.iter().zip(&ids).map(texts).collect()
}

#[test]
fn an_episode_computes_each_distinct_token_once() {
    let mut engine = engine(600, 256, 64);
    install(&mut engine, 1, 11);
    let mut distinct = distinct::DistinctTokens::default();
    let critic = |prompt, n, seed| request(prompt, n, 24, seed).with_policy(Policy::Serving);
    for episode in 0..3 {
        let question = [prompt(5, 1), prompt(40, 10 + episode)].concat();
        let answer = ask(&mut engine, vec![request(question.clone(), 1, 24, episode)], &mut distinct)[0][0].clone();
        let shown = [prompt(8, 2), question.clone(), answer.clone(), prompt(30, 3)].concat();
        let critiques = ask(&mut engine, vec![critic(shown, 4, episode)], &mut distinct).remove(0);
        let goes_on = |critique: &Vec<u32>| [&question[..], &answer, &prompt(3, 4), critique, &prompt(7, 5)].concat();
        let refiners = critiques.iter().map(|critique| request(goes_on(critique), 5, 24, episode)).collect();
        let refinements = ask(&mut engine, refiners, &mut distinct).concat();
        let judge = |first: &[u32], second: &[u32]| {
            let shown = [&prompt(6, 6)[..], &question, first, &prompt(4, 7), second, &prompt(4, 8)].concat();
            request(shown, 1, 2, 0)
        };
        let both = refinements.iter().flat_map(|refined| [judge(&answer, refined), judge(refined, &answer)]).collect();
        ask(&mut engine, both, &mut distinct);
    }
    let computed = engine.counters().work.tokens;
    assert_eq!(computed, engine.model.tokens as u64);
    let ratio = computed as f64 / distinct.tokens() as f64;
    assert!((1.0..1.03).contains(&ratio), "{computed} computed, {} distinct: {ratio}", distinct.tokens());
}

#[test]
fn a_swap_never_splits_a_sequence_and_drops_what_nobody_needs() {
    let mut engine = engine(64, 256, 64);
    let critic = request(prompt(40, 1), 2, 30, 1).with_policy(Policy::Serving);
    let mut wanted = BTreeMap::new();
    wanted.insert(engine.submit(critic.clone()).unwrap(), (0, 0));
    engine.step().unwrap();
    let first = install(&mut engine, 1, 11);
    wanted.insert(engine.submit(critic.clone()).unwrap(), (1, 11));
    engine.step().unwrap();
    let second = install(&mut engine, 2, 22);
    wanted.insert(engine.submit(critic.clone()).unwrap(), (2, 22));
    wanted.insert(engine.submit(critic.clone().with_policy(Policy::Base)).unwrap(), (0, 0));
    // Everybody starts over, and still with its own version.
    engine.scheduler.preempt_all();
    engine.step().unwrap();
    assert!(first.upgrade().is_some(), "a version lives while it writes");
    let done = run(&mut engine);
    assert_eq!(done.len(), 4);
    for (id, completions) in done {
        let (version, weights) = wanted[&id];
        assert_eq!(written(&completions), expected(&critic, weights, 300));
        assert!(completions.iter().all(|c| c.version == CriticVersion(version)));
    }
    assert!(first.upgrade().is_none(), "a superseded version goes with its last sequence");
    assert!(second.upgrade().is_some(), "the newest stays");
    engine.install(CriticVersion::BASE, None);
    assert!(second.upgrade().is_none());
    engine.submit(critic.clone()).unwrap();
    assert_eq!(written(&run(&mut engine)[0].1), expected(&critic, 0, 300));
}

#[test]
fn a_request_may_name_a_resident_critic_and_keeps_it_when_it_is_unloaded() {
    let mut engine = engine(64, 256, 64);
    let ask = |version| request(prompt(40, 1), 1, 30, 1).with_policy(Policy::Version(CriticVersion(version)));
    let refused = |engine: &mut Engine<HashModel>, version| engine.submit(ask(version)).map_err(|e| e.to_string());
    let serving = install(&mut engine, 1, 11);
    assert!(refused(&mut engine, 2).unwrap_err().ends_with("expected one that is resident: 1"));
    let candidate = load(&mut engine, 2, 22).unwrap();
    assert_eq!((engine.critic_version(), engine.critics().alive()), (CriticVersion(1), 2));
    for (version, weights) in [(1, 11), (2, 22)] {
        let id = engine.submit(ask(version)).unwrap();
        let (_, done) = run(&mut engine).into_iter().find(|(finished, _)| *finished == id).unwrap();
        assert_eq!((done[0].version, written(&done)), (CriticVersion(version), expected(&ask(version), weights, 300)));
    }
    // Put into service, it keeps what is cached for it.
    let packed = candidate.upgrade();
    engine.install(CriticVersion(2), packed);
    engine.submit(ask(2)).unwrap();
    assert!(engine.step().unwrap().cached_tokens > 0);
    assert!(serving.upgrade().is_none(), "nobody needs the one before it");
    load(&mut engine, 3, 33).unwrap();
    load(&mut engine, 4, 44).unwrap();
    assert!(matches!(load(&mut engine, 5, 55), Err(Error::VersionsFull { version: 5, max: 2 })));
    // A client's makes room, for another client's and for a swap's; a swap's does not.
    let lend = |engine: &mut Engine<HashModel>, version: u64| {
        let (adapter, _) = adapter(engine, 100 + version);
        engine.critics_mut().load(CriticVersion(version), Some(adapter), Holder::Client)
    };
    assert!(matches!(lend(&mut engine, 5), Err(Error::VersionsFull { version: 5, max: 2 })));
    engine.critics_mut().unload(CriticVersion(4));
    lend(&mut engine, 5).unwrap();
    lend(&mut engine, 6).unwrap();
    assert!(refused(&mut engine, 5).unwrap_err().ends_with("expected one that is resident: 2, 3, 6"));
    load(&mut engine, 4, 44).unwrap();
    lend(&mut engine, 4).unwrap();
    assert!(matches!(load(&mut engine, 5, 55), Err(Error::VersionsFull { version: 5, max: 2 })));
    let third = engine.submit(ask(3)).unwrap();
    engine.step().unwrap();
    assert!(engine.critics_mut().unload(CriticVersion(3)) && !engine.critics_mut().unload(CriticVersion(2)));
    assert!(refused(&mut engine, 3).unwrap_err().ends_with("expected one that is resident: 2, 4"));
    assert_eq!(engine.critics().alive(), 3, "the sequence under way keeps its critic");
    let done = run(&mut engine);
    let (_, third) = done.iter().find(|(id, _)| *id == third).unwrap();
    assert_eq!((third[0].version, written(third)), (CriticVersion(3), expected(&ask(3), 33, 300)));
    assert_eq!(engine.critics().alive(), 2);
}

#[test]
fn a_stale_cache_is_never_served_not_even_to_a_version_of_the_same_number() {
    let mut engine = engine(64, 256, 64);
    let critic = request(prompt(96, 1), 1, 20, 1).with_policy(Policy::Serving);
    for (version, weights) in [(1, 11), (2, 22), (2, 33), (1, 44)] {
        install(&mut engine, version, weights);
        engine.submit(critic.clone()).unwrap();
        let report = engine.step().unwrap();
        assert_eq!(report.cached_tokens, 0);
        let done = run(&mut engine);
        assert_eq!(written(&done[0].1), expected(&critic, weights, 300));
        assert_eq!(done[0].1[0].version, CriticVersion(version));
    }
}

#[test]
fn what_can_never_fit_is_refused_and_what_just_fits_ends_by_length() {
    let mut small = engine(4, 64, 8);
    for len in [0, 128, 500] {
        let refused = small.submit(request(prompt(len, 1), 1, 10, 1));
        assert!(matches!(refused, Err(Error::PromptLength { prompt, max: 127 }) if prompt == len));
    }
    assert!(small.is_idle());
    small.submit(request(prompt(127, 1), 3, 10, 1)).unwrap();
    small.submit(request(prompt(100, 1), 3, 1000, 1)).unwrap();
    let done = run(&mut small);
    for ((_, completions), tokens) in done.iter().zip([1, 28]) {
        assert!(completions.iter().all(|c| c.ids.len() == tokens && c.finish == FinishReason::Length));
    }
    let mut nothing = engine(4, 64, 8);
    nothing.submit(request(prompt(10, 1), 0, 10, 1)).unwrap();
    nothing.submit(request(prompt(10, 1), 2, 0, 1)).unwrap();
    let lens: Vec<usize> = run(&mut nothing).iter().map(|(_, c)| c.len()).collect();
    assert_eq!(lens, [0, 2]);
}

#[test]
fn cancelling_midway_frees_every_block_and_disturbs_nobody() {
    let mut engine = engine(64, 50, 4);
    let kept = request(prompt(75, 1), 2, 30, 1);
    for cancelled_after in 0..12 {
        let id = engine.submit(request(prompt(75, 1), 3, 30, 2)).unwrap();
        let stays = engine.submit(kept.clone()).unwrap();
        let waits = engine.submit(request(prompt(90, 3), 2, 30, 3)).unwrap();
        for _ in 0..cancelled_after {
            engine.step().unwrap();
        }
        engine.cancel(id);
        engine.cancel(waits);
        engine.cancel(RequestId(u64::MAX));
        engine.scheduler.check();
        let done = run(&mut engine);
        assert_eq!(done.len(), 1);
        assert_eq!((done[0].0, written(&done[0].1)), (stays, expected(&kept, 0, 300)));
    }
    let id = engine.submit(kept).unwrap();
    while !engine.is_idle() {
        engine.step().unwrap();
    }
    engine.cancel(id);
    assert!(engine.take_finished().is_empty(), "a finished request is forgotten too");
}

#[test]
fn stops_end_a_text_and_leave_the_others_alone() {
    let mut engine = engine(64, 256, 64);
    let free = request(prompt(20, 1), 4, 50, 1);
    let expected = expected(&free, 0, 300);
    let text = |ids: &[u32]| letters()(ids).unwrap();
    // A pair of letters that one of the four is known to write.
    let stop = text(&expected[2].0[20..22]);
    let mut asked = free.clone();
    asked.sampling.stop = vec![stop.clone(), "no such text".into()];
    asked.stop_ids = vec![expected[0].0[5]];
    engine.submit(asked.clone()).unwrap();
    let done = run(&mut engine);
    let mut stopped = 0;
    for (completion, (ids, log_probs)) in done[0].1.iter().zip(&expected) {
        let by_id = ids.iter().position(|id| asked.stop_ids.contains(id)).map(|at| (at + 1, at));
        let by_text = text(ids).find(&stop).map(|at| (at + 2, at));
        let (len, cut) = by_id.into_iter().chain(by_text).min().unwrap_or((50, 50));
        assert_eq!(completion.finish, if len == 50 { FinishReason::Length } else { FinishReason::Stop });
        assert_eq!((&completion.ids[..], &completion.log_probs[..]), (&ids[..len], &log_probs[..len]));
        assert_eq!(completion.text, text(&ids[..cut]));
        stopped += usize::from(len < 50);
    }
    assert!(stopped >= 2);
}

#[test]
fn a_step_that_fails_is_undone_and_done_again_to_the_same_result() {
    let mut engine = engine(12, 40, 8);
    let asked: Vec<Request> = (0..4).map(|i| request(prompt(60 + i, i as u64 / 2), 2, 30, i as u64)).collect();
    let mut ids = Vec::new();
    for asked in &asked {
        ids.push(engine.submit(asked.clone()).unwrap());
    }
    let mut steps = 0;
    while !engine.is_idle() {
        engine.model.failures = usize::from(steps % 5 == 3);
        assert_eq!(engine.step().is_err(), steps % 5 == 3);
        engine.scheduler.check();
        steps += 1;
    }
    for (id, completions) in run(&mut engine) {
        let asked = &asked[ids.iter().position(|&i| i == id).unwrap()];
        assert_eq!(written(&completions), expected(asked, 0, 300));
    }
}

/// Steps until one fails: the error.
fn first_error(engine: &mut Engine<HashModel>) -> Error {
    loop {
        match engine.step() {
            Ok(_) => assert!(!engine.is_idle()),
            Err(error) => break error,
        }
    }
}

#[test]
fn logits_that_are_no_distribution_are_an_error_that_names_the_request() {
    let mut engine = engine(64, 256, 64);
    let good = request(vec![1; 40], 1, 1, 1);
    let good_id = engine.submit(good.clone()).unwrap();
    let bad = engine.submit(request([vec![1; 40], vec![7]].concat(), 2, 10, 1)).unwrap();
    engine.model.poison = Some(7);
    engine.step().unwrap();
    let error = first_error(&mut engine);
    assert!(matches!(error, Error::Logits { request, index: 0 } if request == bad.0), "{error}");
    engine.cancel(bad);
    let done = run(&mut engine);
    assert_eq!((done.len(), done[0].0), (1, good_id));
    assert_eq!(written(&done[0].1), expected(&good, 0, 300));
}

#[test]
fn ids_without_a_text_are_an_error_that_names_the_request() {
    let decode: Detokenize = Box::new(|ids| match ids.len() {
        6 => Err(formats::Error::Tokenizer("rigged".into())),
        _ => letters()(ids),
    });
    let mut engine = Engine::with_text(HashModel::new(64), decode, config(256, 64));
    let good = request(prompt(40, 1), 2, 9, 1);
    let good_id = engine.submit(good.clone()).unwrap();
    let bad = engine.submit(request(prompt(40, 2), 1, 6, 1)).unwrap();
    let error = first_error(&mut engine);
    assert_eq!(error.request(), Some(bad.0), "{error}");
    engine.cancel(bad);
    let done = run(&mut engine);
    assert_eq!((done.len(), done[0].0), (1, good_id));
    assert_eq!(written(&done[0].1), expected(&good, 0, 300));
}

#[test]
fn a_prompt_with_an_id_that_the_model_lacks_is_refused_and_no_step_fails() {
    let mut engine = engine(64, 256, 64);
    let good = request(prompt(40, 1), 1, 9, 1);
    let good_id = engine.submit(good.clone()).unwrap();
    let refused = engine.submit(request(vec![1, VOCAB as u32], 1, 9, 1));
    assert!(matches!(refused, Err(Error::TokenId { id, vocab: VOCAB }) if id as usize == VOCAB));
    let done = run(&mut engine);
    assert_eq!((done.len(), done[0].0), (1, good_id));
    assert_eq!(written(&done[0].1), expected(&good, 0, 300));
}

/// What a user of the engine may do between two steps.
#[derive(Clone, Debug)]
enum Act {
    Submit { shared: usize, own: usize, n: usize, max_tokens: usize, critic: bool, greedy: bool, http: bool },
    Cancel(usize),
    Install,
    Steps(usize),
    Fail,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let chances = (any::<bool>(), any::<bool>(), any::<bool>());
    let submit = (0usize..100, 1usize..40, 1usize..5, 1usize..70, chances).prop_map(
        |(shared, own, n, max_tokens, (critic, greedy, http))| Act::Submit {
            shared,
            own,
            n,
            max_tokens,
            critic,
            greedy,
            http,
        },
    );
    let act = prop_oneof![
        6 => submit,
        1 => (0usize..20).prop_map(Act::Cancel),
        1 => Just(Act::Install),
        4 => (1usize..20).prop_map(Act::Steps),
        1 => Just(Act::Fail),
    ];
    prop::collection::vec(act, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn whatever_happens_around_it_a_request_gets_what_the_model_says(
        acts in acts(), blocks in 7usize..40, step_tokens in 1usize..90, sequences in 1usize..12, share in 0.0f64..1.0,
    ) {
        let mut engine = engine(blocks, step_tokens, sequences);
        engine.set_share(share);
        let context = 300.min(blocks * BLOCK_TOKENS);
        let (mut asked, mut newest, mut done) = (BTreeMap::new(), (0u64, 0u64), Vec::new());
        for (number, act) in acts.into_iter().enumerate() {
            match act {
                Act::Submit { shared, own, n, max_tokens, critic, greedy, http } => {
                    let ids = [prompt(shared, 1), prompt(own, number as u64 % 3)].concat();
                    let policy = if critic { Policy::Serving } else { Policy::Base };
                    let mut request = request(ids, n, max_tokens, number as u64).with_policy(policy);
                    if greedy {
                        request.sampling.temperature = 0.0;
                    }
                    request.origin = if http { Origin::Http } else { Origin::Rollout };
                    request.stop_ids = vec![4];
                    let weights = if critic { newest } else { (0, 0) };
                    let id = engine.submit(request.clone()).unwrap();
                    asked.insert(id, (request, weights));
                }
                Act::Cancel(which) => {
                    let finished: Vec<RequestId> = done.iter().map(|(id, _)| *id).collect();
                    let open: Vec<RequestId> = asked.keys().filter(|id| !finished.contains(id)).copied().collect();
                    if let Some(&id) = open.get(which) {
                        engine.cancel(id);
                        asked.remove(&id);
                    }
                }
                Act::Install => {
                    newest = (newest.0 + 1, mix(newest.1, 5));
                    install(&mut engine, newest.0, newest.1);
                }
                Act::Steps(count) => {
                    for _ in 0..count {
                        engine.step().unwrap();
                        engine.scheduler.check();
                    }
                    done.extend(engine.take_finished());
                }
                Act::Fail => {
                    engine.model.failures = usize::from(!engine.is_idle());
                    let _ = engine.step();
                    engine.model.failures = 0;
                    engine.scheduler.check();
                }
            }
        }
        done.extend(run(&mut engine));
        prop_assert!(engine.model.tokens_max <= step_tokens, "the budget was exceeded");
        prop_assert_eq!(done.len(), asked.len());
        for (id, completions) in done {
            let (request, (version, weights)) = &asked[&id];
            prop_assert_eq!(written(&completions), expected(request, *weights, context));
            prop_assert!(completions.iter().all(|c| c.version.0 == *version));
        }
    }
}

/// The log-probabilities of all tokens behind `ids`, by the book.
fn next_log_probs(ids: &[u32], weights: u64) -> Vec<f64> {
    let mut cells: Vec<u64> = Vec::new();
    ids.iter().for_each(|&id| cells.push(cell(cells.last().copied().unwrap_or(EMPTY), id, weights)));
    let row = logits(cells.into_iter(), weights);
    let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
    row.iter().map(|&logit| f64::from(logit) - total.ln()).collect()
}

#[test]
fn candidates_are_weighed_by_the_base_whoever_runs_beside_them() {
    for (blocks, tokens, sequences) in [(64, 256, 64), (64, 7, 64), (12, 64, 2)] {
        let mut engine = engine(blocks, tokens, sequences);
        install(&mut engine, 1, 99);
        let wanted = request(prompt(40, 1), 3, 20, 5);
        let writing = engine.submit(wanted.clone().with_policy(Policy::Serving)).unwrap();
        let asked: Vec<(RequestId, Vec<u32>, Vec<u32>)> = (0..4)
            .map(|n| {
                let (ids, candidates) = (prompt(30 + 9 * n as usize, 1), vec![7, n as u32, 22]);
                (engine.score_candidates(Policy::Base, ids.clone(), candidates.clone()).unwrap(), ids, candidates)
            })
            .collect();
        engine.step().unwrap();
        engine.model.failures = 1;
        assert!(engine.step().is_err(), "a step that fails is taken again");
        let done: BTreeMap<_, _> = run(&mut engine).into_iter().collect();
        assert_eq!(written(&done[&writing]), expected(&wanted, 99, 300));
        for (id, ids, candidates) in asked {
            let [weighed] = &done[&id][..] else { panic!("expected one completion, got {:?}", done[&id]) };
            assert_eq!((&weighed.ids, weighed.text.as_str(), weighed.version), (&candidates, "", CriticVersion::BASE));
            let real = next_log_probs(&ids, 0);
            for (id, got) in candidates.iter().zip(&weighed.log_probs) {
                assert!((real[*id as usize] - f64::from(*got)).abs() < 1e-5, "{real:?}, got {weighed:?}");
            }
        }
    }
}

#[test]
fn a_candidate_that_is_no_token_is_refused() {
    let mut engine = engine(64, 64, 4);
    for (candidates, prompt_len) in [(vec![3, VOCAB as u32], 5), (vec![], 5), (vec![3], 0), (vec![3], 300)] {
        assert!(engine.score_candidates(Policy::Base, prompt(prompt_len, 1), candidates).is_err());
        assert!(engine.is_idle() && engine.states.is_empty());
    }
}

/// A stream so far: its first event, and the text, tokens and end of each continuation.
#[derive(Debug, Default)]
struct Streamed {
    started: Option<(CriticVersion, usize, Vec<TokenReport>)>,
    outputs: BTreeMap<usize, (String, Vec<TokenReport>, Option<FinishReason>)>,
}

impl Streamed {
    fn take(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Started { version, cached_tokens, prompt } => {
                let again = self.started.replace((version, cached_tokens, prompt));
                assert!(again.is_none() && self.outputs.is_empty(), "a stream starts once");
            }
            StreamEvent::Tokens { index, text, tokens, finish } => {
                assert!(self.started.is_some(), "a stream starts first");
                let output = self.outputs.entry(index).or_default();
                assert_eq!(output.2, None, "nothing follows the end");
                output.0.push_str(&text);
                output.1.extend(tokens);
                output.2 = finish;
            }
        }
    }

    fn ids(&self, index: usize) -> Vec<u32> {
        self.outputs[&index].1.iter().map(|token| token.id).collect()
    }
}

/// Runs until idle; every fifth step fails if `fail`.
fn streams(engine: &mut Engine<HashModel>, fail: bool) -> BTreeMap<RequestId, Streamed> {
    let mut streams: BTreeMap<RequestId, Streamed> = BTreeMap::new();
    for step in 0.. {
        for (id, event) in engine.take_events() {
            streams.entry(id).or_default().take(event);
        }
        if engine.is_idle() {
            break;
        }
        engine.model.failures = usize::from(fail && step % 5 == 3);
        assert_eq!(engine.step().is_err(), fail && step % 5 == 3);
        engine.scheduler.check();
        assert!(step < 100_000, "the engine runs in circles");
    }
    assert_eq!((engine.kv_usage(), engine.states.len()), (0.0, 0), "a block leaked");
    streams
}

/// Shapes of an engine: whole prompts in a step, chunks, few blocks, few slots. Blocks, tokens of a step, sequences.
const SHAPES: [(usize, usize, usize); 6] =
    [(64, 256, 64), (64, 1, 64), (64, 7, 64), (7, 256, 64), (6, 5, 2), (64, 64, 1)];

#[test]
fn a_stream_joined_is_the_completion_whatever_happens_around_it() {
    let mut asked = request(prompt(75, 1), 3, 60, 9);
    asked.sampling.stop = vec!["abc".into(), "fg".into(), "k".into()];
    asked.stop_ids = vec![4];
    for seed in [9, 10, 11] {
        asked.seed = seed;
        for (blocks, tokens, sequences) in SHAPES {
            let mut engine = engine(blocks, tokens, sequences);
            engine.submit(asked.clone()).unwrap();
            let whole = run(&mut engine).remove(0).1;
            let mut engine = self::engine(blocks, tokens, sequences);
            let id = engine.submit_streamed(asked.clone()).unwrap();
            let streamed = streams(&mut engine, true).remove(&id).unwrap();
            assert_eq!(streamed.started, Some((CriticVersion::BASE, 0, vec![])));
            for (index, whole) in whole.iter().enumerate() {
                let (text, _, finish) = &streamed.outputs[&index];
                assert_eq!((text, streamed.ids(index), *finish), (&whole.text, whole.ids.clone(), Some(whole.finish)));
            }
            assert_eq!(engine.take_finished(), [(id, vec![])], "it was given as events");
        }
    }
}

#[test]
fn every_step_gives_a_stream_its_token_and_a_request_that_is_not_streamed_has_no_events() {
    let mut engine = engine(64, 256, 64);
    let asked = request(prompt(40, 1), 1, 9, 1);
    engine.submit(asked.clone()).unwrap();
    run(&mut engine);
    assert!(engine.take_events().is_empty());
    install(&mut engine, 1, 11);
    let id = engine.submit_streamed(asked.clone()).unwrap();
    for step in 0..9 {
        let report = engine.step().unwrap();
        let events = engine.take_events();
        assert!(events.iter().all(|(of, _)| *of == id));
        let first = StreamEvent::Started { version: CriticVersion::BASE, cached_tokens: 39, prompt: vec![] };
        assert_eq!(events.first().is_some_and(|(_, event)| *event == first), step == 0);
        assert!(
            matches!(&events.last().unwrap().1, StreamEvent::Tokens { tokens, text, .. } if tokens.len() == 1 && text.len() == 1)
        );
        let waited: Vec<Origin> = report.first_tokens.iter().map(|first| first.origin).collect();
        assert_eq!(waited, if step == 0 { vec![Origin::Rollout] } else { vec![] });
    }
    assert!(engine.is_idle());
}

#[test]
fn a_request_is_queued_until_its_prompt_begins_to_be_computed() {
    let mut engine = engine(64, 256, 1);
    engine.submit(request(prompt(40, 1), 1, 5, 1)).unwrap();
    engine.submit(over_http(request(prompt(40, 2), 1, 5, 2))).unwrap();
    let admitted = |engine: &mut Engine<HashModel>| engine.step().unwrap().admitted;
    let origins = |waits: &[RequestWait]| waits.iter().map(|wait| wait.origin).collect::<Vec<_>>();
    assert_eq!(origins(&admitted(&mut engine)), [Origin::Rollout]);
    std::thread::sleep(Duration::from_millis(5));
    let (mut steps, mut later) = (1, Vec::new());
    while later.is_empty() {
        later = admitted(&mut engine);
        steps += 1;
    }
    assert_eq!((origins(&later), steps), (vec![Origin::Http], 6), "the only slot is free after five tokens");
    assert!(later[0].waited >= Duration::from_millis(5));
    assert!((0..4).all(|_| admitted(&mut engine).is_empty()) && engine.take_finished().len() == 2);
}

#[test]
fn a_stream_of_no_token_has_its_events_at_once() {
    let mut engine = engine(64, 256, 64);
    let id = engine.submit_streamed(request(prompt(10, 1), 2, 0, 1)).unwrap();
    assert!(engine.is_idle());
    let streamed = streams(&mut engine, false).remove(&id).unwrap();
    assert_eq!(streamed.outputs.len(), 2);
    for output in streamed.outputs.values() {
        assert_eq!(output, &(String::new(), vec![], Some(FinishReason::Length)));
    }
}

#[test]
fn a_stream_that_is_cancelled_frees_its_blocks_and_has_no_further_event() {
    let mut engine = engine(64, 50, 4);
    for steps in 0..6 {
        let id = engine.submit_streamed(request(prompt(75, 1), 3, 30, 2)).unwrap();
        for _ in 0..steps {
            engine.step().unwrap();
        }
        engine.cancel(id);
        assert!(engine.is_idle() && engine.kv_usage() == 0.0 && engine.take_events().is_empty());
        engine.scheduler.check();
    }
}

/// A token, its log-probability, and the likeliest tokens with theirs.
type Expected = (u32, f64, Vec<(u32, f64)>);

/// Reports of the tokens of `ids` from position `from` on, by the book, under a bias.
fn reported(ids: &[u32], from: usize, weights: u64, bias: &[(u32, f32)], top: usize) -> Vec<Expected> {
    let at = |position: usize| {
        let mut row = next_log_probs(&ids[..position], weights);
        bias.iter().for_each(|&(id, bias)| row[id as usize] += f64::from(bias));
        let total: f64 = row.iter().map(|logit| logit.exp()).sum();
        let mut ranked: Vec<(u32, f64)> = (0..).zip(row.iter().map(|logit| logit - total.ln())).collect();
        let own = ranked[ids[position] as usize].1;
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        (ids[position], own, ranked[..top].to_vec())
    };
    (from..ids.len()).map(at).collect()
}

fn assert_reported(got: &[TokenReport], expected: &[Expected]) {
    let near = |got: f32, expected: f64| (f64::from(got) - expected).abs() < 1e-5;
    assert_eq!(got.len(), expected.len());
    for (got, (id, log_prob, top)) in got.iter().zip(expected) {
        assert_eq!(got.id, *id);
        assert!(near(got.log_prob.unwrap(), *log_prob), "{got:?}, expected {log_prob}");
        assert_eq!(got.top.len(), top.len());
        for ((id, got), (expected_id, expected)) in got.top.iter().zip(top) {
            assert!(id == expected_id && near(*got, *expected), "{id}: {got}, expected {expected_id}: {expected}");
        }
    }
}

#[test]
fn reports_are_the_models_own_distribution_however_the_prompt_is_computed() {
    let bias = vec![(3, 1.5), (7, -2.0)];
    for (blocks, tokens, sequences) in SHAPES {
        for (max_tokens, n) in [(20, 2), (1, 1), (0, 1), (0, 3)] {
            let mut engine = engine(blocks, tokens, sequences);
            install(&mut engine, 1, 11);
            let mut asked = request(prompt(75, 1), n, max_tokens, 9).with_policy(Policy::Serving);
            (asked.sampling.temperature, asked.sampling.top_p) = (0.7, 0.9);
            asked.logit_bias = bias.clone();
            // Its prompt lies in the cache already, and others run beside it.
            engine.submit(asked.clone()).unwrap();
            run(&mut engine);
            engine.submit(request(prompt(40, 1), 1, 30, 3).with_policy(Policy::Serving)).unwrap();
            asked.reports = TokenReports { top: 4, prompt: true, ..TokenReports::default() };
            let id = engine.submit_streamed(asked.clone()).unwrap();
            let streamed = streams(&mut engine, true).remove(&id).unwrap();
            let (version, cached, prompt) = streamed.started.as_ref().unwrap();
            assert_eq!((version, cached), (&CriticVersion(1), &0), "all of the prompt is computed");
            assert_eq!(prompt[0], TokenReport { id: asked.prompt[0], ..TokenReport::default() });
            assert_reported(&prompt[1..], &reported(&asked.prompt, 1, 11, &bias, 4));
            assert_eq!(streamed.outputs.len(), n);
            for (index, (_, tokens, finish)) in &streamed.outputs {
                assert_eq!((tokens.len(), *finish), (max_tokens, Some(FinishReason::Length)));
                let all = [&asked.prompt[..], &streamed.ids(*index)].concat();
                assert_reported(tokens, &reported(&all, 75, 11, &bias, 4));
            }
        }
    }
}

#[test]
fn a_prompt_that_was_reported_serves_others_from_the_cache() {
    let mut engine = engine(64, 256, 64);
    let mut asked = request(prompt(75, 1), 1, 0, 9);
    asked.reports.prompt = true;
    engine.submit_streamed(asked.clone()).unwrap();
    streams(&mut engine, false);
    engine.take_finished();
    let next = request(prompt(75, 1), 1, 5, 9);
    engine.submit(next.clone()).unwrap();
    assert_eq!(engine.step().unwrap().cached_tokens, 74);
    assert_eq!(written(&run(&mut engine)[0].1), expected(&next, 0, 300));
}

#[test]
fn rows_of_logits_are_computed_only_for_those_who_ask() {
    let mut engine = engine(64, 256, 64);
    let mut asked = request(prompt(75, 1), 1, 5, 9);
    asked.reports = TokenReports { top: 3, ..TokenReports::default() };
    engine.submit_streamed(asked.clone()).unwrap();
    assert_eq!(engine.step().unwrap().work.logit_rows, 1);
    streams(&mut engine, false);
    // Reports are for streams.
    asked.reports.prompt = true;
    engine.submit(asked.clone()).unwrap();
    assert_eq!(engine.step().unwrap().work.logit_rows, 1);
    run(&mut engine);
    engine.submit_streamed(asked.clone()).unwrap();
    assert_eq!(engine.step().unwrap().work.logit_rows, 75);
    streams(&mut engine, false);
    asked.reports = TokenReports { log_probs: true, ..TokenReports::default() };
    let id = engine.submit_streamed(asked.clone()).unwrap();
    let with = streams(&mut engine, false).remove(&id).unwrap();
    asked.reports.log_probs = false;
    let id = engine.submit_streamed(asked.clone()).unwrap();
    let without = streams(&mut engine, false).remove(&id).unwrap();
    assert!(with.outputs[&0].1.iter().all(|token| token.log_prob.is_some() && token.top.is_empty()));
    assert!(without.outputs[&0].1.iter().all(|token| token.log_prob.is_none()));
    assert_eq!(with.ids(0), without.ids(0));
}

#[test]
fn a_reported_prompt_without_a_distribution_fails_its_request_alone() {
    let mut engine = engine(64, 16, 64);
    let good = request(vec![1; 40], 1, 1, 1);
    let good_id = engine.submit(good.clone()).unwrap();
    let mut bad = request([vec![1; 40], vec![7], vec![1; 30]].concat(), 1, 1, 1);
    bad.reports.prompt = true;
    let bad = engine.submit_streamed(bad).unwrap();
    engine.model.poison = Some(7);
    let error = first_error(&mut engine);
    assert_eq!(error.request(), Some(bad.0), "{error}");
    engine.cancel(bad);
    engine.model.poison = None;
    let done = run(&mut engine);
    assert_eq!((done.len(), done[0].0), (1, good_id));
    assert_eq!(written(&done[0].1), expected(&good, 0, 300));
}

#[test]
fn a_bias_moves_the_distribution_by_hand_and_bans_what_it_should() {
    let mut asked = request(prompt(30, 1), 1, 40, 5);
    asked.logit_bias = vec![(2, 3.0), (9, -100.0), (11, -1.25), (2, -0.5)];
    for temperature in [1.0, 0.0] {
        asked.sampling.temperature = temperature;
        let mut engine = engine(64, 7, 4);
        let free = engine.submit(Request { logit_bias: vec![], ..asked.clone() }).unwrap();
        let biased = engine.submit(asked.clone()).unwrap();
        let done: BTreeMap<_, _> = run(&mut engine).into_iter().collect();
        let (mut ids, mut log_probs, mut all) = (vec![], vec![], asked.prompt.clone());
        while ids.len() < 40 {
            let mut cells: Vec<u64> = vec![];
            all.iter().for_each(|&id| cells.push(cell(cells.last().copied().unwrap_or(EMPTY), id, 0)));
            let mut row = logits(cells.into_iter(), 0);
            for (id, bias) in [(2, 3.0), (9, -100.0), (11, -1.25), (2, -0.5)] {
                row[id] += bias;
            }
            let uniform = sampler::uniform(asked.seed, 0, ids.len() as u64);
            let draw = sampler::draw(&row, &asked.sampling, uniform, &mut Scratch::default()).unwrap();
            ids.push(draw.id);
            log_probs.push(draw.log_prob);
            all.push(draw.id);
        }
        assert_eq!(written(&done[&biased]), [(ids.clone(), log_probs)]);
        assert!(!ids.contains(&9) && ids != done[&free][0].ids);
        assert_eq!(written(&done[&free]), expected(&Request { logit_bias: vec![], ..asked.clone() }, 0, 300));
    }
}

#[test]
fn a_bias_that_is_not_finite_or_of_no_token_is_refused() {
    let mut engine = engine(64, 64, 4);
    for wrong in [(VOCAB as u32, 1.0), (3, f32::NAN), (3, f32::NEG_INFINITY)] {
        let mut asked = request(prompt(5, 1), 1, 5, 1);
        asked.logit_bias = vec![(1, 1.0), wrong];
        let refused = engine.submit(asked).unwrap_err();
        assert!(matches!(refused, Error::LogitBias { id, vocab: VOCAB, .. } if id == wrong.0), "{refused}");
        assert!(refused.to_string().contains("expected an id below 23 and a finite bias"), "{refused}");
        assert!(engine.is_idle());
    }
}

fn over_http(request: Request) -> Request {
    Request { origin: Origin::Http, ..request }
}

/// The share of the tokens that are sampled over HTTP in the last of some hundred steps, where both ask without end.
fn share_of_http(engine: &mut Engine<HashModel>, prompt_len: usize, max_tokens: usize) -> f64 {
    let (mut open, mut salt, mut tokens) = (BTreeMap::new(), engine.requests, (0, 0));
    for step in 0..500 {
        for origin in Origin::BOTH {
            while open.values().filter(|of| **of == origin).count() < 90 {
                salt += 1;
                let asked = request(prompt(prompt_len, salt), 1, max_tokens, salt);
                open.insert(engine.submit(Request { origin, ..asked }).unwrap(), origin);
            }
        }
        let report = engine.step().unwrap();
        engine.scheduler.check();
        for (id, _) in engine.take_finished() {
            open.remove(&id);
        }
        if step >= 100 {
            tokens = (tokens.0 + report.http_tokens, tokens.1 + report.sampled_tokens);
        }
    }
    open.keys().for_each(|id| engine.cancel(*id));
    tokens.0 as f64 / tokens.1 as f64
}

#[test]
fn each_origin_gets_its_share_of_slots_and_of_tokens_while_both_wait_and_it_may_change() {
    // Slots are short, then tokens are.
    for (tokens, sequences, prompt_len, max_tokens) in [(256, 16, 5, 30), (16, 64, 90, 2)] {
        let mut engine = engine(400, tokens, sequences);
        for share in [0.25, 0.75, 0.5] {
            engine.set_share(share);
            let got = share_of_http(&mut engine, prompt_len, max_tokens);
            assert!((got - share).abs() < 0.06, "{got} of {share}: {sequences} slots, {tokens} tokens");
        }
    }
}

#[test]
fn an_origin_alone_uses_the_whole_step() {
    let mut engine = engine(400, 64, 16);
    engine.set_share(0.1);
    for salt in 0..40 {
        engine.submit(over_http(request(prompt(50, salt), 1, 10, salt))).unwrap();
    }
    let report = engine.step().unwrap();
    assert_eq!(report.prefill_tokens, 64);
    run(&mut engine);
}

#[test]
fn neither_origin_starves_whatever_the_share() {
    for share in [1.0, 0.0, f64::MIN_POSITIVE, f64::NAN] {
        for (blocks, tokens, sequences) in [(64, 8, 4), (7, 2, 2), (7, 1, 1)] {
            for victim in Origin::BOTH {
                let mut engine = engine(blocks, tokens, sequences);
                engine.set_share(share);
                let ask = |engine: &mut Engine<HashModel>, origin, salt| {
                    let asked = request(prompt(20, salt), 1, 6, salt);
                    engine.submit(Request { origin, ..asked.clone() }).map(|id| (id, asked)).unwrap()
                };
                (0..5).for_each(|salt| drop(ask(&mut engine, victim.other(), salt)));
                let (id, asked) = ask(&mut engine, victim, 99);
                let mut steps = 0;
                let done = loop {
                    // The other never stops asking.
                    while engine.waiting() < 5 {
                        ask(&mut engine, victim.other(), 100 + steps);
                    }
                    engine.step().unwrap();
                    engine.scheduler.check();
                    steps += 1;
                    assert!(steps < 2000, "{victim:?} starves: share {share}, {tokens} tokens");
                    if let Some((_, done)) = engine.take_finished().into_iter().find(|(of, _)| *of == id) {
                        break done;
                    }
                };
                assert_eq!(written(&done), expected(&asked, 0, 300), "and its text does not depend on the share");
            }
        }
    }
}

#[test]
fn a_client_is_served_within_a_step_of_a_free_slot_however_many_rollouts_wait() {
    let mut engine = engine(400, 64, 8);
    for salt in 0..200 {
        engine.submit(request(prompt(90, salt), 1, 40, salt)).unwrap();
    }
    for _ in 0..30 {
        engine.step().unwrap();
    }
    engine.submit(over_http(request(prompt(30, 1000), 1, 5, 1))).unwrap();
    let mut steps = 0;
    while engine.step().unwrap().first_tokens.iter().all(|first| first.origin == Origin::Rollout) {
        steps += 1;
        assert!(steps < 60, "the client waits behind {} rollouts", engine.waiting());
    }
}
