//! Episodes, their groups, and going back.

use super::*;
use crate::replay::ReplayConfig;
use crate::types::{Completion, CritiqueGroup, FinishReason, Objective, ScoredCritique};

fn run_state() -> RunState {
    RunState::new(Replay::new(ReplayConfig { groups_max: 8, age_versions_max: 4, uses_max: 1 }, Objective::Rco, 4, 7))
}

/// An episode's end: two critiques of these utilities.
pub(crate) fn group(episode: EpisodeId, utilities: [f32; 2]) -> Outcome {
    let critique = |utility| {
        let finish = FinishReason::Stop;
        let written =
            Completion { text: "c".into(), ids: vec![1], log_probs: vec![0.0], version: CriticVersion::BASE, finish };
        ScoredCritique { completion: written, utility, verdicts: vec![] }
    };
    let critiques = utilities.map(critique).to_vec();
    Outcome::Group(CritiqueGroup {
        episode,
        prompt_id: "p".into(),
        task: "t".into(),
        prefix_ids: vec![1],
        critiques,
        preferences: vec![],
    })
}

fn worker(generation: u64, index: usize) -> Worker {
    Worker { generation, index }
}

#[test]
fn a_worker_that_asks_again_gets_the_same_episode() {
    let mut run_state = run_state();
    let first = run_state.begin(worker(1, 0));
    assert_eq!(run_state.begin(worker(1, 0)), first);
    assert_ne!(run_state.begin(worker(1, 1)), first);
    assert_eq!(run_state.in_flight(), 2);
    run_state.end(first, group(first, [0.0, 1.0]));
    assert_ne!(run_state.begin(worker(1, 0)), first);
}

#[test]
fn what_a_dead_generation_had_under_way_is_run_again_before_anything_new() {
    let mut run_state = run_state();
    let old = [run_state.begin(worker(1, 0)), run_state.begin(worker(1, 1))];
    run_state.end(old[0], group(old[0], [0.0, 1.0]));
    run_state.forget_before(2);
    assert_eq!(run_state.in_flight(), 0);
    assert_eq!(run_state.begin(worker(2, 0)), old[1]);
    assert_eq!(run_state.begin(worker(2, 1)), EpisodeId(2));
}

#[test]
fn what_a_dead_process_had_under_way_is_run_again() {
    let mut run_state = run_state();
    let (lost, _) = (run_state.begin(worker(1, 0)), run_state.begin(worker(1, 1)));
    let saved = serde_json::to_value(&run_state).unwrap();
    let mut restored: RunState = serde_json::from_value(saved).unwrap();
    restored.forget_all();
    assert_eq!(restored.begin(worker(1, 0)), lost);
}

#[test]
fn an_episode_is_taken_once_and_counted_once() {
    let mut run_state = run_state();
    let episode = run_state.begin(worker(1, 0));
    assert_eq!(run_state.end(episode, group(episode, [0.0, 1.0])), Some(Pushed::Kept));
    assert_eq!(run_state.end(episode, group(episode, [0.0, 1.0])), Some(Pushed::Duplicate));
    assert_eq!(run_state.end(episode, Outcome::Dropped(DropReason::Deadline)), Some(Pushed::Duplicate));
    let same = run_state.begin(worker(1, 0));
    assert_eq!(run_state.end(same, group(same, [1.0, 1.0])), Some(Pushed::ZeroVariance));
    let dropped = run_state.begin(worker(1, 0));
    assert_eq!(run_state.end(dropped, Outcome::Dropped(DropReason::Deadline)), None);
    let counters = &run_state.counters;
    assert_eq!((counters.episodes, counters.groups, counters.zero_variance, counters.dropped), (3, 2, 1, 1));
}

#[test]
fn going_back_keeps_what_was_scored_and_forgets_what_was_learned_since() {
    let mut run_state = run_state();
    for _ in 0..2 {
        let episode = run_state.begin(worker(1, 0));
        run_state.end(episode, group(episode, [0.0, 1.0]));
    }
    let saved = run_state.clone();
    let lease = run_state.replay.lease(1).unwrap();
    let used = run_state.learned(lease.batch, 1);
    assert_eq!((used.used, run_state.step, run_state.replay.len()), (1, 1, 1));
    run_state.rewind(&saved);
    assert_eq!((run_state.step, run_state.replay.len()), (0, 2));
    assert!(run_state.replay.lease(1).unwrap().batch > lease.batch, "a batch's name is not used again");
}

#[test]
fn a_batch_that_cannot_be_learned_is_used_up_like_any_other() {
    let mut run_state = run_state();
    let episode = run_state.begin(worker(1, 0));
    run_state.end(episode, group(episode, [0.0, 1.0]));
    let lease = run_state.replay.lease(1).unwrap();
    run_state.discarded(lease.batch);
    assert_eq!((run_state.counters.discarded, run_state.replay.len(), run_state.step), (1, 0, 0));
    assert!(run_state.replay.lease(1).is_none());
}
