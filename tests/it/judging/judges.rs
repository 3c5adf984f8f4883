//! Judges that are models: asked in both orders through the real actors and engines, read from words or weighed.

use crate::support::models::{Numbers, farthest, golden, quickstart, tiny};
use crate::support::node::{config, judged};
use rco_node::engine::{Engine, Policy};
use rco_node::roles::judge::Judge;
use rco_node::run::events::Event;
use rco_node::transformer::decode::Decoder;
use rco_node::types::{Choice, Invalid, Verdict};

#[test]
fn candidates_weigh_what_transformers_gives_them() {
    let numbers = Numbers::read("tiny_logits.safetensors");
    let decoder = Decoder::new(tiny().transformer.clone(), 64).unwrap();
    let mut engine = Engine::new(decoder, tiny().tokenizer.clone(), quickstart("engine"));
    let vocab = tiny().transformer.spec().vocab;
    let all: Vec<u32> = (0..vocab as u32).collect();
    let asked =
        (0..8).map(|i| engine.score_candidates(Policy::Base, numbers.u32(&format!("ids.{i}")), all.clone()).unwrap());
    let asked: Vec<_> = asked.collect();
    let mut done = std::collections::BTreeMap::new();
    while !engine.is_idle() {
        engine.step().unwrap();
        done.extend(engine.take_finished());
    }
    for (i, id) in asked.iter().enumerate() {
        let expected = numbers.f32(&format!("logprobs.{i}"));
        let off = farthest(&done[id][0].log_probs, &expected[expected.len() - vocab..]);
        assert!(off < 1e-5, "sequence {i}: {off}");
    }
}

/// What happened to each pair, and the verdicts, in the order told.
fn heard(events: &[Event]) -> (Vec<[Result<Choice, Invalid>; 2]>, Vec<Verdict>) {
    let pairs = events.iter().filter_map(|event| match event {
        Event::PairJudged { heard, .. } => Some(*heard),
        _ => None,
    });
    let verdicts = events.iter().filter_map(|event| match event {
        Event::Judged(verdict) => Some(*verdict),
        _ => None,
    });
    (pairs.collect(), verdicts.collect())
}

/// Verdicts that a stop may cut off: two for each refinement of four critiques, in three episodes of which all pairs may be
/// compared before any is told.
const CUT_OFF: usize = 3 * 4 * 2 * 2;

/// A node whose judge has a model of its own, until `pairs` pairs were compared.
async fn compared(read: &str, pairs: usize) -> Vec<Event> {
    let folder = tempfile::tempdir().unwrap();
    let own = golden("tiny_qwen2");
    let more = format!(
        "judge.kind='model'\njudge.read='{read}'\njudge.model='{}'\njudge.kv_cache_mib=4\nrollout.refinements=2\n\
         refiner.sampling.temperature=0.7\njudge.prompt='{{{{ prompt }}}} {{{{ first }}}} {{{{ second }}}}'",
        own.display()
    );
    let running = judged(config(folder.path(), &more), false, None, None).await;
    let enough = |events: &[Event]| heard(events).0.len() >= pairs;
    running.log.until("pairs that were compared", enough).await;
    running.node.stop();
    running.done().await.1.events.lock().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_judge_with_a_model_of_its_own_answers_in_both_orders_by_log_probs() {
    let (pairs, verdicts) = heard(&compared("logprob", 160).await);
    let mut valid = 0;
    for orders in &pairs {
        let unread = |order: &Result<Choice, Invalid>| matches!(order, Err(Invalid::Unreadable) | Ok(_));
        assert!(orders.iter().all(unread), "{orders:?}");
        valid += usize::from(orders.iter().all(Result::is_ok));
    }
    // Of a random model with 300 tokens, A, B and the two ways to begin a tie have a little more than a hundredth.
    assert!(valid > 0, "{pairs:?}");
    // Each pair has two verdicts, and they are what its two orders say.
    let expect = |wanted: fn(&Verdict) -> bool| {
        pairs.iter().flat_map(|[forward, backward]| Judge::verdicts(*forward, *backward)).filter(wanted).count()
    };
    let mut missing = 0;
    for wanted in [
        |verdict: &Verdict| *verdict == Verdict::Win,
        |verdict: &Verdict| *verdict == Verdict::Loss,
        |verdict: &Verdict| *verdict == Verdict::Tie,
        |verdict: &Verdict| *verdict == Verdict::Invalid(Invalid::Unpaired),
        |verdict: &Verdict| *verdict == Verdict::Invalid(Invalid::Unreadable),
    ] {
        let (told, most) = (verdicts.iter().filter(|verdict| wanted(verdict)).count(), expect(wanted));
        assert!(told <= most, "{told} of {most}: {verdicts:?}");
        missing += most - told;
    }
    assert!(missing <= CUT_OFF, "{missing} verdicts are missing: {verdicts:?}");
    assert!(!verdicts.is_empty() && verdicts.len().is_multiple_of(4), "two orders of two refinements a critique");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_judge_babbles_is_invalid_and_never_a_loss() {
    let (pairs, verdicts) = heard(&compared("text", 40).await);
    let silent = pairs.iter().flatten().filter(|order| **order == Err(Invalid::Unreadable)).count();
    assert!(silent > pairs.len(), "a random model seldom says a verdict: {pairs:?}");
    let lost = verdicts.iter().filter(|verdict| **verdict == Verdict::Loss).count();
    let preferred = pairs.iter().filter(|[forward, backward]| forward.is_ok() && backward.is_ok()).count();
    assert!(lost <= 2 * preferred, "{lost} losses of {preferred} pairs with an answer in both orders");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_verifier_the_critiques_are_compared_by_a_model_and_the_refinements_checked() {
    let folder = tempfile::tempdir().unwrap();
    // Its verdicts on critiques alone need a model: it has one of its own here.
    let more = format!(
        "judge.kind='verifier'\njudge.critique_preferences=true\njudge.read='logprob'\njudge.model='{}'\n\
         judge.kv_cache_mib=4\nlearner.learning_rate=0.0\ncritic.sampling.temperature=1.0\n\
         judge.critiques_prompt='{{{{ prompt }}}} {{{{ response }}}} {{{{ first }}}} {{{{ second }}}}'",
        golden("tiny_qwen2").display()
    );
    let running = judged(config(folder.path(), &more), false, None, None).await;
    // Four critiques are six pairs, and a preference is what both orders of a pair agree on: a random model seldom does.
    let agreed = |orders: &&[Result<Choice, Invalid>; 2]| Judge::preferred(orders[0], orders[1]).is_some();
    let compared = |events: &[Event]| {
        let (pairs, _) = heard(events);
        // The groups of all but the newest pairs are on disk.
        pairs.len() >= 120 && pairs[..pairs.len() - 60].iter().any(|orders| agreed(&orders))
    };
    running.log.until("pairs of critiques that were compared and agreed on", compared).await;
    running.node.stop();
    let events = running.done().await.1.events.lock().unwrap().clone();
    let (pairs, verdicts) = heard(&events);
    // One verdict a refinement, of a verifier that looked at it: a model would have given two.
    assert!(!verdicts.is_empty() && verdicts.iter().all(|verdict| !matches!(verdict, Verdict::Invalid(_))));
    let groups = rco_node::groups::read(&folder.path().join("run")).unwrap().groups;
    let preferred: usize = groups.iter().map(|recorded| recorded.group.preferences.len()).sum();
    assert!(groups.len() >= 6 && preferred <= pairs.iter().filter(agreed).count(), "{preferred} in {}", groups.len());
    assert!(preferred > 0, "of {} pairs some agree: {pairs:?}", pairs.len());
}
