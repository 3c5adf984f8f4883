//! The groups of an offline run: which are learned from, in which order, and which are held out.

use crate::groups::RecordedGroup;
use crate::prompts::shuffled;
use crate::types::{CritiqueGroup, EpisodeId, Objective};
use anyhow::ensure;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The shuffle that selects the held-out groups; no epoch has this number.
const HOLD_OUT_PASS: u64 = u64::MAX;

/// What must be the same when a run is resumed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    /// Sha256 of the groups.
    groups_sha256: String,
    /// Groups of one step.
    groups_per_step: usize,
    /// Share that is held out.
    hold_out: f64,
    /// Seed of the order.
    seed: u64,
}

impl Identity {
    /// The first difference from `other`, the identity of the run before.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        let keys = [
            ("the groups' sha256", self.groups_sha256.clone(), other.groups_sha256.clone()),
            ("learner.groups_per_step", self.groups_per_step.to_string(), other.groups_per_step.to_string()),
            ("--hold-out", self.hold_out.to_string(), other.hold_out.to_string()),
            ("node.seed", self.seed.to_string(), other.seed.to_string()),
        ];
        let difference = keys.into_iter().find(|(_, now, before)| now != before);
        difference.map(|(key, now, before)| format!("{key}: expected {before} as before, got {now}"))
    }
}

/// Groups to learn from.
pub(super) struct Data {
    learned: Vec<Arc<CritiqueGroup>>,
    /// Never learned from.
    pub(super) held_out: Vec<Arc<CritiqueGroup>>,
    /// Number of skipped groups: those that give the objective no gradient. Held-out groups are not counted.
    pub(super) zero_variance: usize,
    /// Identifies the run.
    pub(super) identity: Identity,
}

impl Data {
    /// Splits `recorded` by `seed`. A share of `hold_out` is held out, at least one group unless it is 0. The held-out
    /// groups do not depend on the objective, so that runs on the same groups can be compared by them.
    pub(super) fn new(
        recorded: Vec<RecordedGroup>,
        objective: Objective,
        groups_per_step: usize,
        hold_out: f64,
        seed: u64,
    ) -> anyhow::Result<Self> {
        ensure!((0.0..1.0).contains(&hold_out), "--hold-out: expected 0 or more and less than 1, got {hold_out}");
        let all = recorded.len();
        let mut sha256 = Sha256::new();
        let mut groups = vec![];
        for mut recorded in recorded {
            sha256.update(serde_json::to_vec(&recorded.group)?);
            // Files of several runs may repeat episode numbers, and the learner needs distinct ones.
            recorded.group.episode = EpisodeId(groups.len() as u64);
            groups.push(Arc::new(recorded.group));
        }
        let out = if hold_out > 0.0 { ((all as f64 * hold_out).round() as usize).max(1) } else { 0 };
        let place = |place: usize| shuffled(place as u64, all as u64, seed, HOLD_OUT_PASS) as usize;
        let mut held_out: Vec<_> = (0..all).map(|at| groups[place(at)].clone()).collect();
        let mut learned = held_out.split_off(out.min(all));
        learned.retain(|group| !group.is_zero_variance(objective));
        let zero_variance = all - held_out.len() - learned.len();
        ensure!(
            !learned.is_empty(),
            "expected groups to learn from, got {all}, {zero_variance} of them of zero variance and {out} held out"
        );
        let groups_sha256 = const_hex::encode(sha256.finalize());
        let identity = Identity { groups_sha256, groups_per_step, hold_out, seed };
        Ok(Self { learned, held_out, zero_variance, identity })
    }

    /// Groups that are learned from.
    pub(super) fn len(&self) -> usize {
        self.learned.len()
    }

    /// The groups of batch 0, 1, ...: every epoch has each group once, in its own order. A batch may span two epochs.
    pub(super) fn batch(&self, batch: u64) -> Vec<Arc<CritiqueGroup>> {
        let (size, count) = (self.identity.groups_per_step as u64, self.learned.len() as u64);
        let group = |place: u64| {
            let place = shuffled(place % count, count, self.identity.seed, place / count);
            self.learned[place as usize].clone()
        };
        (batch * size..(batch + 1) * size).map(group).collect()
    }

    /// Epochs after `batches` batches.
    pub(super) fn epochs(&self, batches: u64) -> f64 {
        (batches * self.identity.groups_per_step as u64) as f64 / self.learned.len() as f64
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::{Completion, CriticVersion, FinishReason, ModelId, Preference, ScoredCritique};
    use std::collections::BTreeSet;

    /// `count` groups with the same episode number; every fifth has zero variance.
    fn recorded(count: u32) -> Vec<RecordedGroup> {
        let critique = |id, utility| ScoredCritique {
            completion: Completion {
                text: String::new(),
                ids: vec![id],
                log_probs: vec![-1.0],
                version: CriticVersion::BASE,
                finish: FinishReason::Stop,
            },
            utility,
            verdicts: vec![],
        };
        let group = |id: u32| CritiqueGroup {
            episode: EpisodeId(7),
            prompt_id: id.to_string(),
            task: "t".into(),
            prefix_ids: vec![id],
            critiques: vec![critique(id, 0.5), critique(id, if id.is_multiple_of(5) { 0.5 } else { 1.0 })],
            preferences: vec![],
        };
        let model = ModelId { name: "m".into(), sha256: "0".into() };
        (0..count).map(|id| RecordedGroup { model: model.clone(), group: group(id) }).collect()
    }

    fn ids(groups: &[Arc<CritiqueGroup>]) -> Vec<u32> {
        groups.iter().map(|group| group.prefix_ids[0]).collect()
    }

    #[test]
    fn every_epoch_has_every_group_once_in_an_order_of_its_own_and_flat_ones_never() {
        let data = Data::new(recorded(35), Objective::Rco, 4, 0.0, 3).unwrap();
        assert_eq!((data.len(), data.zero_variance), (28, 7));
        let epochs: Vec<Vec<u32>> =
            (0..3).map(|epoch| (0..7).flat_map(|batch| ids(&data.batch(epoch * 7 + batch))).collect()).collect();
        let all: BTreeSet<u32> = (0..35u32).filter(|id| !id.is_multiple_of(5)).collect();
        for epoch in &epochs {
            assert_eq!(epoch.iter().copied().collect::<BTreeSet<_>>(), all);
            assert_eq!(epoch.len(), all.len());
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
        assert_eq!(data.epochs(7), 1.0);
        let names: BTreeSet<_> = (0..7).flat_map(|batch| data.batch(batch)).map(|group| group.episode).collect();
        assert_eq!(names.len(), 28, "groups of one name are told apart");
    }

    #[test]
    fn what_is_held_out_is_never_learned_and_the_seed_says_which() {
        let data = Data::new(recorded(40), Objective::Rco, 3, 0.25, 3).unwrap();
        let out: BTreeSet<u32> = ids(&data.held_out).into_iter().collect();
        assert_eq!((out.len(), data.len(), data.zero_variance), (10, 24, 6));
        let learned: BTreeSet<u32> = (0..16).flat_map(|batch| ids(&data.batch(batch))).collect();
        assert!(learned.is_disjoint(&out) && learned.len() == 24);
        let held_out = |seed| ids(&Data::new(recorded(40), Objective::Rco, 3, 0.25, seed).unwrap().held_out);
        assert_eq!(held_out(3), held_out(3));
        assert_ne!(held_out(3), held_out(4));
    }

    #[test]
    fn the_same_groups_are_held_out_by_every_objective() {
        let mut groups = recorded(40);
        groups[..9].iter_mut().for_each(|recorded| {
            recorded.group.preferences = vec![Preference { chosen: 1, rejected: 0 }];
        });
        let [rco, dpco] = [Objective::Rco, Objective::Dpco]
            .map(|objective| Data::new(groups.clone(), objective, 3, 0.25, 3).unwrap());
        assert_eq!(ids(&rco.held_out), ids(&dpco.held_out));
        assert!(dpco.len() < 10 && dpco.len() < rco.len(), "{} and {}", dpco.len(), rco.len());
    }

    #[test]
    fn another_run_differs_in_identity() {
        let data = |count, seed| Data::new(recorded(count), Objective::Rco, 3, 0.0, seed).unwrap().identity;
        assert_eq!(data(9, 1).difference(&data(9, 1)), None);
        assert!(data(9, 1).difference(&data(8, 1)).unwrap().contains("sha256"));
        assert!(data(9, 1).difference(&data(9, 2)).unwrap().contains("node.seed: expected 2 as before, got 1"));
    }

    #[test]
    fn nothing_to_learn_from_is_an_error() {
        assert!(
            Data::new(recorded(1), Objective::Rco, 1, 0.0, 0)
                .err()
                .unwrap()
                .to_string()
                .contains("got 1, 1 of them of zero variance")
        );
        assert!(Data::new(recorded(2), Objective::Rco, 1, 0.9, 0).is_err());
        assert!(Data::new(recorded(9), Objective::Rco, 1, 1.0, 0).err().unwrap().to_string().contains("--hold-out"));
    }
}
