//! What the critic in service earns, beside what was earned before it.

use crate::run::critics::{Comparison, Scores};
use crate::types::CriticVersion;
use std::collections::{BTreeMap, VecDeque};

/// The newest utilities of the critic in service, and those before it entered service.
pub(super) struct Windows {
    groups: usize,
    before: VecDeque<f64>,
    current: VecDeque<f64>,
    /// Groups since the last look, and looks, since the critic entered service.
    unseen: usize,
    looks: u32,
    /// Groups until there may be another rollback.
    pub(super) cooldown: usize,
    /// What each version that has written in this process has earned.
    pub(super) scores: BTreeMap<CriticVersion, Scores>,
}

impl Windows {
    /// Windows of `groups` groups each.
    pub(super) fn new(groups: usize) -> Self {
        let empty = VecDeque::new;
        Self { groups, before: empty(), current: empty(), unseen: 0, looks: 0, cooldown: 0, scores: BTreeMap::new() }
    }

    /// Another critic is in service.
    pub(super) fn turn(&mut self) {
        self.before.extend(self.current.drain(..));
        let surplus = self.before.len().saturating_sub(self.groups);
        self.before.drain(..surplus);
        (self.unseen, self.looks) = (0, 0);
    }

    /// A group was scored.
    pub(super) fn add(&mut self, utility: f64) {
        self.cooldown = self.cooldown.saturating_sub(1);
        self.unseen += 1;
        self.current.push_back(utility);
        let surplus = self.current.len().saturating_sub(self.groups);
        self.current.drain(..surplus);
    }

    /// Looks at whether the critic in service earns less than what served before it, by more than `margin`. Each look takes
    /// groups that no other look took, and asks for more than the one before it, so that `confidence` holds for all looks
    /// together: the `k`-th one gets 6 / (pi k)^2 of the error. None before both windows are full.
    pub(super) fn look(&mut self, margin: f64, confidence: f64) -> Option<Look> {
        let is_full = self.groups > 0 && self.unseen >= self.groups && self.before.len() >= self.groups;
        if !is_full || self.cooldown > 0 {
            return None;
        }
        (self.unseen, self.looks) = (0, self.looks + 1);
        let (current, before): (Scores, Scores) =
            (self.current.iter().map(|utility| utility + margin).collect(), self.before.iter().copied().collect());
        let Comparison { difference, lower } = Comparison::welch(&current, &before)?;
        let share = 6.0 / (std::f64::consts::PI * f64::from(self.looks)).powi(2);
        let is_worse = lower >= 1.0 - (1.0 - confidence) * share;
        Some(Look { difference: difference - margin, lower, is_worse })
    }
}

/// How the critic in service compares with what served before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    /// Its mean utility less theirs.
    pub(super) difference: f64,
    /// The confidence that it is lower by more than the margin, at this look alone.
    pub(super) lower: f64,
    /// Whether that is enough, after all looks so far.
    pub(super) is_worse: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::splitmix::{GOLDEN_GAMMA, mix64};

    #[test]
    fn equal_critics_are_seldom_taken_for_worse_however_often_they_are_looked_at() {
        let mut drawn = 0u64;
        let mut lot = || {
            drawn += 1;
            (mix64(drawn.wrapping_mul(GOLDEN_GAMMA)) >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut utility = || (0..4).map(|_| lot()).sum::<f64>() / 4.0;
        let mut false_alarms = 0;
        for _ in 0..200 {
            let mut windows = Windows::new(24);
            (0..24).for_each(|_| windows.add(utility()));
            windows.turn();
            let mut is_taken_back = false;
            for _ in 0..1000 {
                windows.add(utility());
                is_taken_back |= windows.look(0.0, 0.95).is_some_and(|look| look.is_worse);
            }
            false_alarms += usize::from(is_taken_back);
        }
        assert!(false_alarms <= 20, "{false_alarms} of 200, for a confidence of 95 %");
    }

    #[test]
    fn a_critic_is_compared_with_what_served_before_it_once_both_have_enough_groups() {
        let mut windows = Windows::new(3);
        [0.5, 0.6, 0.7, 0.6].into_iter().for_each(|utility| windows.add(utility));
        windows.turn();
        [0.1, 0.2].into_iter().for_each(|utility| windows.add(utility));
        assert_eq!(windows.look(0.02, 0.95), None);
        windows.add(0.15);
        let worse = windows.look(0.02, 0.95).expect("both windows are full");
        assert!(
            (worse.difference - (0.15 - 1.9 / 3.0)).abs() < 1e-9 && worse.lower > 0.99 && worse.is_worse,
            "{worse:?}"
        );
        windows.add(0.15);
        assert_eq!(windows.look(0.02, 0.95), None, "a look takes groups that no other look took");
        [0.12, 0.13].into_iter().for_each(|utility| windows.add(utility));
        assert!(!windows.look(0.6, 0.95).expect("three more").is_worse, "it is not lower by so much");
        windows.turn();
        assert_eq!(windows.look(0.0, 0.95), None, "the next one has written nothing yet");
        let mut never = Windows::new(0);
        never.add(0.0);
        never.turn();
        never.add(0.0);
        assert_eq!(never.look(0.0, 0.95), None);
    }
}
