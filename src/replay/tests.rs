//! Promises of the replay buffer.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::types::{Completion, FinishReason, Preference, ScoredCritique};
use std::collections::BTreeSet;

mod property;

fn config(groups_max: usize, age_versions_max: u64, uses_max: u32) -> ReplayConfig {
    ReplayConfig { groups_max, age_versions_max, uses_max }
}

fn critique(utility: f32, version: u64) -> ScoredCritique {
    let written = Completion {
        text: "It is 7.".into(),
        ids: vec![1, 2],
        log_probs: vec![-0.1, -1.0 / 3.0],
        version: CriticVersion(version),
        finish: FinishReason::Stop,
    };
    ScoredCritique { completion: written, utility, verdicts: Vec::new() }
}

fn group(episode: u64, version: u64) -> CritiqueGroup {
    CritiqueGroup {
        episode: EpisodeId(episode),
        prompt_id: format!("p{episode}"),
        task: "t".into(),
        prefix_ids: vec![3],
        critiques: vec![critique(0.0, version), critique(1.0, version + 1)],
        preferences: vec![],
    }
}

fn zero_variance_group(episode: u64) -> CritiqueGroup {
    CritiqueGroup { critiques: vec![critique(0.5, 0), critique(0.5, 0)], ..group(episode, 0) }
}

/// A buffer with groups 0, 1, ... of version 0.
fn filled(config: ReplayConfig, groups: u64) -> Replay {
    let mut replay = Replay::new(config, Objective::Rco, usize::MAX, 7);
    assert!((0..groups).all(|episode| replay.push(group(episode, 0)) == Pushed::Kept));
    replay
}

fn episodes(lease: &Lease) -> Vec<u64> {
    lease.groups.iter().map(|group| group.episode.0).collect()
}

fn learn(replay: &mut Replay, groups: usize, step: u64) -> (Vec<u64>, Retired) {
    let lease = replay.lease(groups).unwrap();
    (episodes(&lease), replay.learned(lease.batch, step))
}

fn held(replay: &Replay) -> BTreeSet<u64> {
    replay.held.iter().map(|entry| entry.group.episode.0).collect()
}

/// The learner publishes up to version `newest`.
fn advance_to(replay: &mut Replay, newest: u64) -> Retired {
    let mut total = Retired::default();
    for version in replay.newest().0 + 1..=newest {
        let Retired { aged, used, displaced } = replay.advance(CriticVersion(version));
        (total.aged, total.used, total.displaced) = (total.aged + aged, total.used + used, total.displaced + displaced);
    }
    total
}

#[test]
fn limits_of_zero_are_complained_about_all_at_once() {
    let expected = ["replay.groups_max: expected at least 1, got 0", "replay.uses_max: expected at least 1, got 0"];
    assert_eq!(config(0, 0, 0).complaints(), expected);
    assert!(config(1, 0, 1).complaints().is_empty());
}

#[test]
fn a_flat_group_is_kept_out_and_remembered() {
    let mut replay = Replay::new(config(8, 8, 2), Objective::Rco, 8, 0);
    assert_eq!(replay.push(zero_variance_group(3)), Pushed::ZeroVariance);
    assert_eq!((replay.len(), replay.has_seen(EpisodeId(3))), (0, true));
    assert_eq!(replay.push(group(3, 0)), Pushed::Duplicate);
    assert!(replay.is_empty());
}

#[test]
fn an_episode_is_taken_once_even_after_its_group_is_gone() {
    let mut replay = filled(config(8, 8, 1), 1);
    assert_eq!(replay.push(group(0, 0)), Pushed::Duplicate);
    learn(&mut replay, 1, 1);
    replay.committed(1);
    assert_eq!((replay.len(), replay.aside(), replay.push(group(0, 0))), (0, 0, Pushed::Duplicate));
    assert!(!replay.has_seen(EpisodeId(1)));
}

#[test]
fn admission_counts_fresh_groups_and_those_under_way() {
    let mut replay = Replay::new(config(8, 8, 2), Objective::Rco, 4, 0);
    assert!(replay.admits(3) && !replay.admits(4));
    replay.push(group(0, 0));
    replay.push(group(1, 0));
    assert!(replay.admits(1) && !replay.admits(2));
    let lease = replay.lease(1).unwrap();
    assert!(replay.admits(2), "a leased group waits no longer");
    replay.release(lease.batch);
    assert!(!replay.admits(2), "a released one waits again");
    learn(&mut replay, 1, 1);
    assert!(replay.admits(2), "one that was learned is not fresh");
    assert_eq!((replay.fresh(), replay.uses()), (1, vec![1, 1]));
}

#[test]
fn a_lease_waits_for_enough_groups() {
    let mut replay = filled(config(8, 8, 2), 1);
    assert_eq!(replay.lease(2), None);
    assert_eq!(replay.lease(0), None);
    replay.push(group(1, 0));
    assert_eq!(replay.lease(2).unwrap().batch, 1);
}

#[test]
fn a_lease_that_is_out_is_handed_out_again() {
    let mut replay = filled(config(8, 8, 2), 4);
    let lease = replay.lease(2).unwrap();
    replay.push(group(4, 0));
    assert_eq!(replay.lease(1).unwrap(), lease);
    replay.release(lease.batch + 1);
    assert_eq!(replay.lease(2).unwrap(), lease, "releasing another batch changes nothing");
    replay.release(lease.batch);
    assert_eq!(replay.lease(2).unwrap().batch, 2);
}

#[test]
fn the_least_used_groups_go_first() {
    let mut replay = filled(config(8, 8, 2), 4);
    let (first, _) = learn(&mut replay, 2, 1);
    let (second, _) = learn(&mut replay, 2, 2);
    assert_eq!(first.iter().chain(&second).collect::<BTreeSet<_>>().len(), 4);
    replay.push(group(4, 0));
    assert_eq!(episodes(&replay.lease(3).unwrap())[0], 4);
}

#[test]
fn the_draw_hangs_on_the_seed_and_the_batch() {
    let draw = |seed, skipped: u64| {
        let mut replay = filled(config(64, 8, 2), 40);
        replay.seed = seed;
        for _ in 0..skipped {
            let lease = replay.lease(1).unwrap();
            replay.release(lease.batch);
        }
        episodes(&replay.lease(10).unwrap())
    };
    assert_eq!(draw(1, 0), draw(1, 0));
    assert_ne!(draw(1, 0), draw(2, 0));
    assert_ne!(draw(1, 0), draw(1, 1));
    let drawn: BTreeSet<_> = (0..200).flat_map(|batch| draw(1, batch)).collect();
    assert_eq!(drawn.len(), 40, "every group has its chance");
}

#[test]
fn a_group_used_to_the_limit_is_retired_and_counted() {
    let mut replay = filled(config(8, 8, 2), 1);
    assert_eq!(learn(&mut replay, 1, 1).1, Retired::default());
    assert_eq!(learn(&mut replay, 1, 2).1, Retired { used: 1, ..Retired::default() });
    assert_eq!((replay.len(), replay.lease(1)), (0, None));
}

#[test]
fn a_stale_group_is_retired_and_counted() {
    let mut replay = filled(config(8, 2, 2), 3);
    assert_eq!(advance_to(&mut replay, 2), Retired::default());
    assert_eq!(replay.oldest_age_versions(), 2);
    replay.push(group(3, 1));
    assert_eq!(advance_to(&mut replay, 3), Retired { aged: 3, ..Retired::default() });
    assert_eq!(held(&replay), BTreeSet::from([3]));
}

#[test]
fn a_group_that_arrives_too_old_is_retired_and_counted_with_the_next_report() {
    let mut replay = Replay::new(config(8, 2, 2), Objective::Rco, 8, 0);
    advance_to(&mut replay, 9);
    assert_eq!(replay.push(group(0, 0)), Pushed::Kept);
    assert_eq!(replay.len(), 0);
    assert_eq!(replay.take_retired(), Retired { aged: 1, ..Retired::default() });
    assert_eq!(replay.take_retired(), Retired::default());
}

#[test]
fn a_thousand_swaps_retire_nothing_and_a_publication_ages_what_they_wrote() {
    let mut replay = Replay::new(config(8, 1, 2), Objective::Rco, 8, 0);
    advance_to(&mut replay, 3);
    for version in 4..1004 {
        replay.enters_service(CriticVersion(version));
    }
    replay.push(group(0, 1003));
    // A version that returns writes as the newest publication would.
    replay.enters_service(CriticVersion(1));
    replay.push(group(1, 1));
    assert_eq!((replay.len(), replay.oldest_age_versions()), (2, 0));
    assert_eq!(replay.advance(CriticVersion(1004)), Retired::default());
    assert_eq!(replay.oldest_age_versions(), 1);
    let text = serde_json::to_string(&replay).unwrap();
    assert_eq!(serde_json::from_str::<Replay>(&text).unwrap(), replay);
    assert_eq!(replay.advance(CriticVersion(1005)).aged, 2);
}

#[test]
fn a_leased_group_that_ages_is_learned_first_and_retired_then() {
    let mut replay = filled(config(8, 2, 2), 1);
    let lease = replay.lease(1).unwrap();
    assert_eq!(advance_to(&mut replay, 5), Retired::default());
    let again = replay.lease(1).unwrap();
    assert_eq!((again.batch, again.groups, again.ages), (lease.batch, lease.groups, vec![5]));
    assert_eq!(replay.learned(lease.batch, 1), Retired { aged: 1, ..Retired::default() });
}

#[test]
fn a_full_buffer_displaces_the_oldest_used_then_the_oldest() {
    let mut replay = filled(config(3, 8, 2), 3);
    let (used, _) = learn(&mut replay, 1, 1);
    replay.push(group(3, 0));
    let rest: BTreeSet<_> = (0..4).filter(|episode| *episode != used[0]).collect();
    assert_eq!(held(&replay), rest);
    replay.push(group(4, 0));
    let rest: BTreeSet<_> = rest.into_iter().skip(1).chain([4]).collect();
    assert_eq!(held(&replay), rest);
    assert_eq!(replay.take_retired(), Retired { displaced: 2, ..Retired::default() });
}

#[test]
fn a_leased_group_is_never_displaced() {
    let mut replay = filled(config(2, 8, 2), 2);
    let lease = replay.lease(2).unwrap();
    replay.push(group(2, 0));
    assert_eq!((replay.len(), held(&replay)), (2, BTreeSet::from([0, 1])));
    assert_eq!(replay.lease(2).unwrap(), lease);
}

#[test]
fn an_old_or_unknown_batch_teaches_nothing() {
    let mut replay = filled(config(8, 8, 1), 2);
    let first = replay.lease(1).unwrap();
    replay.release(first.batch);
    let second = replay.lease(1).unwrap();
    let before = replay.clone();
    for batch in [first.batch, second.batch + 1, 0] {
        assert_eq!(replay.learned(batch, 1), Retired::default());
        assert_eq!(replay, before);
    }
    assert_eq!(replay.learned(second.batch, 1).used, 1);
    assert_eq!(replay.learned(second.batch, 1).used, 0);
}

#[test]
fn a_rewind_undoes_later_uses_and_brings_back_what_was_retired_since() {
    let mut replay = filled(config(8, 1, 2), 2);
    learn(&mut replay, 2, 1);
    replay.committed(1);
    let before = held(&replay);
    assert_eq!(learn(&mut replay, 2, 2).1.used, 2);
    replay.push(group(2, 0));
    assert_eq!(advance_to(&mut replay, 2).aged, 1);
    assert!(replay.is_empty());
    replay.rewind(1, CriticVersion(1), 1);
    assert_eq!(held(&replay), before.into_iter().chain([2]).collect());
    assert_eq!(replay.uses(), [1, 2]);
    assert_eq!(replay.aside(), 0);
}

#[test]
fn a_rewind_takes_back_the_lease_and_never_its_name() {
    let mut replay = filled(config(8, 8, 2), 2);
    learn(&mut replay, 1, 1);
    let lost = replay.lease(1).unwrap();
    replay.rewind(0, CriticVersion::BASE, 0);
    assert_eq!(replay.fresh(), 2);
    assert_eq!(replay.learned(lost.batch, 2), Retired::default());
    assert_eq!(replay.lease(1).unwrap().batch, lost.batch + 1);
}

#[test]
fn a_commit_lets_go_what_was_retired_before_it_only() {
    let mut replay = filled(config(8, 8, 1), 3);
    learn(&mut replay, 1, 1);
    let (later, _) = learn(&mut replay, 1, 2);
    assert_eq!(replay.aside(), 2);
    replay.committed(1);
    assert_eq!(replay.aside(), 1);
    replay.rewind(1, CriticVersion::BASE, 0);
    assert!(held(&replay).contains(&later[0]));
    assert_eq!(replay.len(), 2);
}

#[test]
fn without_a_commit_what_is_kept_aside_stays_bounded() {
    let mut replay = Replay::new(config(4, 8, 1), Objective::Rco, 8, 0);
    for episode in 0..50 {
        replay.push(group(episode, 0));
        learn(&mut replay, 1, episode + 1);
    }
    assert_eq!(replay.aside(), 4);
}

#[test]
fn a_snapshot_restores_everything_to_the_bit() {
    let mut replay = filled(config(8, 8, 2), 4);
    learn(&mut replay, 2, 1);
    replay.lease(2).unwrap();
    let text = serde_json::to_string(&replay).unwrap();
    let restored: Replay = serde_json::from_str(&text).unwrap();
    assert_eq!(restored, replay);
    assert_eq!(serde_json::to_string(&restored).unwrap(), text);
}

#[test]
fn a_resumed_buffer_takes_its_lease_back_and_keeps_the_new_limits() {
    let mut replay = filled(config(8, 8, 2), 4);
    let lease = replay.lease(2).unwrap();
    let mut resumed = replay.clone();
    resumed.resume(config(3, 8, 2), Objective::Rco, 8, 7);
    assert_eq!((resumed.len(), resumed.fresh()), (3, 3));
    assert_eq!(resumed.take_retired().displaced, 1);
    assert_eq!(resumed.learned(lease.batch, 1), Retired::default());
    assert_eq!(resumed.lease(1).unwrap().batch, 2);
}

#[test]
fn a_buffer_of_preferences_keeps_out_what_has_none_or_names_critiques_that_are_not_there() {
    let mut replay = Replay::new(config(8, 8, 2), Objective::Dpco, 8, 0);
    assert_eq!(replay.push(group(0, 0)), Pushed::ZeroVariance, "its utilities differ, and nobody is preferred");
    let with = |episode, chosen, rejected| CritiqueGroup {
        preferences: vec![Preference { chosen, rejected }],
        ..zero_variance_group(episode)
    };
    assert_eq!(replay.push(with(1, 0, 1)), Pushed::Kept, "its utilities are equal, and one is preferred");
    for (episode, chosen, rejected) in [(2, 0, 2), (3, 2, 0), (4, 1, 1)] {
        assert_eq!(replay.push(with(episode, chosen, rejected)), Pushed::ZeroVariance);
    }
    replay.resume(config(8, 8, 2), Objective::Rco, 8, 0);
    assert_eq!(replay.len(), 0, "nothing to learn by another objective");
}
