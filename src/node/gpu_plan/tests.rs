//! What the plan says of models and cards that are well known.

use super::card::{CARDS, Card};
use super::shapes::references;
use super::speed::LAUNCH_SECONDS;
use super::workload::Workload;
use super::{Bound, DECODED, GpuPlan};
use crate::config::Config;

fn workload(sets: &[&str]) -> Workload {
    let sets: Vec<String> =
        ["rollout.critiques=4", "rollout.refinements=2"].iter().chain(sets).map(|s| (*s).to_owned()).collect();
    Workload::new(&Config::resolve(None, &sets).unwrap())
}

fn card(name: &str) -> Card {
    CARDS.into_iter().find(|card| card.name == name).unwrap()
}

fn left(plan: &GpuPlan) -> i64 {
    plan.memory.usable_bytes as i64 - plan.memory.total_bytes as i64
}

fn plans(card: &Card, workload: &Workload) -> Vec<GpuPlan> {
    references().iter().map(|(name, spec)| GpuPlan::new(name, spec, card, workload)).collect()
}

#[test]
fn the_reference_models_have_as_many_weights_as_their_cards_say() {
    for ((name, spec), known) in references().iter().zip([494.0e6, 1543.7e6, 7615.6e6]) {
        assert_eq!(spec.complaint(), None, "{name}");
        assert!(spec.runs_on_gpus(), "{name}");
        let parameters = spec.parameters() as f64;
        assert!((parameters / known - 1.0).abs() < 0.01, "{name}: {parameters}");
    }
}

#[test]
fn one_sequence_of_7b_decodes_as_fast_as_its_weights_are_read() {
    let work = workload(&[]);
    for card in CARDS {
        let plan = plans(&card, &work).pop().unwrap();
        let (sequences, figure) = plan.speed.decode_tokens_per_second[0];
        assert_eq!(sequences, 1);
        // Without launches: 0.8 of the bandwidth over the weights that a step reads, all but the embedding.
        let seconds = 1.0 / figure.value - plan.speed.launches_a_step * LAUNCH_SECONDS;
        let weights = 2.0 * (plan.parameters - 152_064 * 3584) as f64;
        let ideal = weights / (0.8 * card.bandwidth_gb_s * 1e9);
        assert!((1.0..1.1).contains(&(seconds / ideal)), "{}: {seconds} s, {ideal} s for the weights", card.name);
        let is_launching = plan.speed.launches_a_step * LAUNCH_SECONDS > seconds;
        let bound = if is_launching { Bound::Launches } else { Bound::Memory };
        assert_eq!(figure.bound, bound, "{}", card.name);
    }
}

#[test]
fn a_model_that_is_too_large_lacks_what_is_missing() {
    let plan = plans(&card("rtx4090"), &workload(&[])).pop().unwrap();
    let small = plans(&card("rtx4090"), &workload(&[])).remove(0);
    assert!(small.memory.fits && left(&small) > 0, "{:?}", small.memory);
    let wide = workload(&["engine.context_tokens_max=8192", "engine.step_tokens_max=256", "engine.kv_cache_mib=4096"]);
    let large = plans(&card("rtx4090"), &wide).pop().unwrap();
    assert!(!large.memory.fits, "{:?}", large.memory);
    let sum: usize = large.memory.parts.iter().map(|part| part.bytes).sum();
    assert_eq!(left(&large), large.memory.usable_bytes as i64 - sum as i64);
    assert!(left(&large) < left(&plan));
    // Where the cache gets all that is left, as many tokens fit as that holds.
    let cache = small.memory.parts.iter().find(|part| part.name == "KV cache").unwrap().bytes;
    let room = left(&small) + cache as i64;
    assert_eq!(small.memory.kv_tokens as i64, room / small.memory.kv_bytes_a_token as i64);
}

#[test]
fn more_sequences_never_decode_slower_and_a_faster_card_never_takes_longer() {
    for work in [workload(&[]), workload(&["engine.context_tokens_max=4096", "engine.kv_cache_mib=4096"])] {
        for card in CARDS {
            for plan in plans(&card, &work) {
                let rates: Vec<f64> =
                    plan.speed.decode_tokens_per_second.iter().map(|(_, figure)| figure.value).collect();
                assert_eq!(rates.len(), DECODED.len());
                assert!(rates.is_sorted(), "{} on {}: {rates:?}", plan.model, card.name);
            }
        }
        let (h100, h200) = (plans(&card("h100-80"), &work), plans(&card("h200-141"), &work));
        for (slower, faster) in h100.iter().zip(&h200) {
            assert!(faster.speed.episode_seconds.value < slower.speed.episode_seconds.value, "{}", slower.model);
        }
    }
}

#[test]
fn an_episode_is_its_writing_and_its_learning_and_grows_with_its_tree() {
    let a100 = card("a100-40");
    let of = |sets: &[&str]| plans(&a100, &workload(sets)).remove(0).speed;
    let one = of(&[]);
    let sum = one.writing_seconds.value + one.learning_seconds.value;
    assert!((one.episode_seconds.value / sum - 1.0).abs() < 1e-9);
    assert!((one.episodes_per_hour * one.episode_seconds.value / 3600.0 - 1.0).abs() < 1e-9);
    assert!(of(&["rollout.refinements=8"]).writing_seconds.value > one.writing_seconds.value);
    assert!(of(&["judge.kind=model"]).writing_seconds.value > one.writing_seconds.value);
    assert!(of(&["critic.sampling.max_tokens=200"]).learning_seconds.value > one.learning_seconds.value);
    assert!(of(&["rollout.rollouts_max=1"]).writing_seconds.value > one.writing_seconds.value, "fewer at once");
}

#[test]
fn the_work_is_the_configs() {
    let work = workload(&[]);
    let config = Config::resolve(None, &[]).unwrap();
    let texts = config.generator.sampling.max_tokens + 4 * config.critic.sampling.max_tokens;
    assert_eq!(work.written_tokens(), texts + 8 * config.refiner.sampling.max_tokens);
    assert!(work.mean_context() > work.prompt_tokens && work.mean_context() < work.context_tokens);
    assert!(work.decoding() >= 1 && work.decoding() <= work.sequences);
    assert_eq!(workload(&["learner.critiques_max=2"]).learned_critiques, 2);
}
