//! Any sequence of what can befall the buffer, beside an observer who keeps everything.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Act {
    Push { zero_variance: bool, stale: u64 },
    PushAgain(prop::sample::Index),
    Lease(usize),
    Learned,
    LearnedUnknown,
    Release,
    Advance,
    Rewind(prop::sample::Index),
    Commit,
    Restore,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (prop::bool::weighted(0.2), 0u64..4).prop_map(|(zero_variance, stale)| Act::Push { zero_variance, stale }),
        1 => any::<prop::sample::Index>().prop_map(Act::PushAgain),
        5 => (1usize..4).prop_map(Act::Lease),
        5 => Just(Act::Learned),
        1 => Just(Act::LearnedUnknown),
        1 => Just(Act::Release),
        2 => Just(Act::Advance),
        1 => any::<prop::sample::Index>().prop_map(Act::Rewind),
        1 => Just(Act::Commit),
        1 => Just(Act::Restore),
    ]
}

/// What an observer knows who keeps everything.
#[derive(Default)]
struct Ledger {
    pushed: u64,
    accepted: BTreeSet<u64>,
    used: BTreeMap<u64, Vec<u64>>,
    retired: u64,
    batch: u64,
    out: Option<Lease>,
    step: u64,
    version: u64,
    committed: (u64, u64),
}

impl Ledger {
    fn count(&mut self, retired: Retired) {
        self.retired += retired.aged + retired.used + retired.displaced;
    }

    fn run(&mut self, replay: &mut Replay, act: Act) {
        match act {
            Act::Push { zero_variance: true, .. } => {
                assert_eq!(replay.push(zero_variance_group(self.pushed)), Pushed::ZeroVariance);
                self.pushed += 1;
            }
            Act::Push { stale, .. } => {
                let pushed = group(self.pushed, self.version.saturating_sub(stale));
                assert_eq!(replay.push(pushed), Pushed::Kept);
                self.accepted.insert(self.pushed);
                self.pushed += 1;
            }
            Act::PushAgain(which) if self.pushed > 0 => {
                let episode = which.index(self.pushed as usize) as u64;
                assert_eq!(replay.push(group(episode, self.version)), Pushed::Duplicate);
            }
            Act::Lease(groups) => {
                let usable = replay.len();
                let Some(lease) = replay.lease(groups) else {
                    assert!(self.out.is_none() && usable < groups);
                    return;
                };
                match &self.out {
                    Some(out) => assert_eq!((out.batch, &out.groups), (lease.batch, &lease.groups)),
                    None => {
                        assert!(lease.batch > self.batch && lease.groups.len() == groups);
                        self.batch = lease.batch;
                    }
                }
                self.out = Some(lease);
            }
            Act::Learned => {
                let Some(lease) = self.out.take() else { return };
                self.step += 1;
                for episode in episodes(&lease) {
                    self.used.entry(episode).or_default().push(self.step);
                }
                let retired = replay.learned(lease.batch, self.step);
                self.count(retired);
            }
            Act::LearnedUnknown => {
                let unknown = self.batch + 1;
                assert_eq!(replay.learned(unknown, self.step + 1), Retired::default());
            }
            Act::Release => {
                if let Some(lease) = self.out.take() {
                    replay.release(lease.batch);
                }
            }
            Act::Advance => {
                self.version += 1;
                let retired = replay.advance(CriticVersion(self.version));
                self.count(retired);
            }
            Act::Rewind(which) => {
                let (oldest, version) = self.committed;
                let back = which.index((self.step - oldest) as usize + 1) as u64;
                (self.step, self.version, self.out) = (self.step - back, version, None);
                let step = self.step;
                self.used.values_mut().for_each(|steps| steps.retain(|used| *used <= step));
                replay.rewind(step, CriticVersion(version), version);
            }
            Act::Commit => {
                self.committed = (self.step, self.version);
                replay.committed(self.step);
            }
            Act::Restore => {
                *replay = serde_json::from_str(&serde_json::to_string(&*replay).unwrap()).unwrap();
            }
            Act::PushAgain(_) => {}
        }
    }
}

proptest! {
    #[test]
    fn no_accepted_group_is_lost_or_learned_too_often(
        acts in proptest::collection::vec(act(), 0..120), groups_max in 3usize..8, uses_max in 1u32..4
    ) {
        let mut replay = Replay::new(config(groups_max, 2, uses_max), Objective::Rco, 8, 3);
        let mut ledger = Ledger::default();
        let mut gone = BTreeSet::new();
        for act in acts {
            ledger.run(&mut replay, act);
            let retired = replay.take_retired();
            ledger.count(retired);

            prop_assert!(replay.len() <= groups_max && replay.aside() <= groups_max);
            prop_assert_eq!(replay.uses().iter().sum::<usize>() + replay.held.iter().filter(|e| replay.is_used_up(e)).count(), replay.len());
            let inside = held(&replay);
            let aside: BTreeSet<_> = replay.aside.iter().map(|aside| aside.entry.group.episode.0).collect();
            prop_assert!(inside.is_disjoint(&aside));
            // Whoever is outside was counted as retired, and what left for good never comes back.
            let outside: BTreeSet<_> = ledger.accepted.difference(&inside).copied().collect();
            prop_assert!(outside.len() as u64 <= ledger.retired);
            prop_assert!(gone.is_disjoint(&inside));
            gone = outside.difference(&aside).copied().collect();

            for entry in replay.held.iter().chain(replay.aside.iter().map(|aside| &aside.entry)) {
                let steps = ledger.used.get(&entry.group.episode.0).cloned().unwrap_or_default();
                prop_assert_eq!(&entry.used_in_steps, &steps);
            }
            prop_assert!(ledger.used.values().all(|steps| steps.len() <= uses_max as usize));
            let fresh = |episode: &&u64| ledger.used.get(episode).is_none_or(Vec::is_empty);
            let leased: Vec<u64> = ledger.out.iter().flat_map(episodes).collect();
            let waiting = inside.iter().filter(fresh).filter(|episode| !leased.contains(episode)).count();
            prop_assert_eq!(replay.fresh(), waiting);
            prop_assert!(leased.iter().all(|episode| inside.contains(episode)));
        }
    }
}
