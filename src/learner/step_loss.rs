//! The loss of a step: from log-ratios to each group's loss and the gradient with respect to each critique's log-ratio.
//!
//! Knows the objective and its options; knows no pass and no weights. All state here belongs to one step.

use super::config::LearnerConfig;
use super::objective::{self, Diagnostics, Observed, UtilityMoments};
use super::value::Value;
use super::{dpco, selection};
use crate::types::{CriticVersion, CritiqueGroup, Objective};
use std::sync::Arc;

/// A step's groups with their utilities and log-ratios.
#[derive(Debug)]
pub(super) struct StepLoss {
    pub(super) groups: Vec<Arc<CritiqueGroup>>,
    pub(super) beta: f64,
    /// The utilities' moments, these groups included.
    pub(super) moments: UtilityMoments,
    /// Utilities of each group, z-scored where that is on.
    utilities: Vec<Vec<f32>>,
    /// log pi/pi_ref and log pi/mu of each critique of each group, as far as computed.
    ratios: Vec<[Vec<f32>; 2]>,
    /// Which critiques count; computed on first use.
    kept: Option<Vec<Vec<bool>>>,
    pub(super) sums: StepSums,
}

/// Sums over the groups of a step; each group has the weight 1 / groups, except in the counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct StepSums {
    pub(super) loss: f64,
    pub(super) value_loss: f64,
    pub(super) baseline: f64,
    pub(super) accuracy: f64,
    pub(super) margin: f64,
    pub(super) truncated: usize,
}

impl StepLoss {
    /// The loss of `step` on `groups`; `moments` are those of all groups before.
    pub(super) fn new(
        config: &LearnerConfig,
        step: u64,
        groups: Vec<Arc<CritiqueGroup>>,
        mut moments: UtilityMoments,
    ) -> Self {
        if config.utility_zscore {
            moments.see(groups.iter().flat_map(|group| &group.critiques).map(|critique| critique.utility));
        }
        let groups: Vec<_> = groups.into_iter().map(|group| selection::of(config, group)).collect();
        let score = |utility| if config.utility_zscore { moments.score(utility) } else { utility };
        let scores = |group: &Arc<CritiqueGroup>| group.critiques.iter().map(|c| score(c.utility)).collect();
        let utilities = groups.iter().map(scores).collect();
        let ratios = vec![Default::default(); groups.len()];
        let beta = config.betas().at(step);
        Self { groups, beta, moments, utilities, ratios, kept: None, sums: StepSums::default() }
    }

    /// Adds log pi/pi_ref and log pi/mu of further critiques of a group, unless all are known.
    pub(super) fn record(&mut self, group: usize, critiques: impl Iterator<Item = [f32; 2]>) {
        if self.ratios[group][0].len() < self.groups[group].critiques.len() {
            for both in critiques {
                self.ratios[group].iter_mut().zip(both).for_each(|(known, ratio)| known.push(ratio));
            }
        }
    }

    /// `d loss / d r_i` of a group whose log-ratios are all known, divided by the number of groups. `hidden` is the
    /// input of the value network. `first` is true on the first call for a group: only then it is counted and the
    /// network learns.
    pub(super) fn gradient(
        &mut self,
        config: &LearnerConfig,
        index: usize,
        first: bool,
        value: Option<(&mut Value, &[f32])>,
    ) -> Vec<f64> {
        let share = 1.0 / self.groups.len() as f64;
        let scaled = |gradient: Vec<f64>| gradient.into_iter().map(|slope| slope * share).collect();
        if config.objective == Objective::Dpco {
            return scaled(self.prefer(index, if first { share } else { 0.0 }));
        }
        let kept = self.kept(config.second_moment_max);
        let [log_ratios, behaviour] = &self.ratios[index];
        let utilities = &self.utilities[index];
        let group = Observed {
            utilities,
            log_ratios,
            behaviour,
            value: value.as_ref().map(|(network, hidden)| network.predict(hidden)),
            kept: kept.as_ref().map(|kept| kept[index].as_slice()),
        };
        let terms = objective::rco(&config.options(self.beta), &group);
        if first {
            if let Some((network, hidden)) = value {
                self.sums.value_loss += network.gather(hidden, utilities, self.beta, log_ratios, share);
            }
            self.sums.loss += terms.loss * share;
            self.sums.baseline += terms.baseline * share;
            self.sums.truncated += terms.truncated;
        }
        self.kept = kept;
        scaled(terms.gradient)
    }

    fn prefer(&mut self, index: usize, share: f64) -> Vec<f64> {
        let group = &self.groups[index];
        let pairs = if group.is_zero_variance(Objective::Dpco) { &[] } else { group.preferences.as_slice() };
        let terms = dpco::dpo(self.beta, &self.ratios[index][0], pairs);
        self.sums.loss += share * terms.loss;
        self.sums.accuracy += share * terms.accuracy;
        self.sums.margin += share * terms.margin;
        terms.gradient
    }

    /// Which critiques of each group count; `None`: all. The mask covers the whole step, so all log-ratios must be
    /// known.
    fn kept(&mut self, second_moment_max: f64) -> Option<Vec<Vec<bool>>> {
        if second_moment_max <= 0.0 {
            return None;
        }
        Some(self.kept.take().unwrap_or_else(|| {
            let mut mask = objective::second_moment_mask(&self.all(1), second_moment_max).into_iter();
            self.ratios.iter().map(|[ratios, _]| mask.by_ref().take(ratios.len()).collect()).collect()
        }))
    }

    /// Critiques that were left out.
    pub(super) fn masked(&self) -> usize {
        self.kept.iter().flatten().flatten().filter(|kept| !**kept).count()
    }

    fn all(&self, which: usize) -> Vec<f32> {
        self.ratios.iter().flat_map(|both| &both[which]).copied().collect()
    }

    /// Diagnostics of the step's critiques; `newest` is the critic in service.
    pub(super) fn diagnostics(&self, newest: CriticVersion) -> Diagnostics {
        let versions: Vec<_> = self.groups.iter().flat_map(|g| &g.critiques).map(|c| c.completion.version).collect();
        let newest = versions.iter().copied().fold(newest, CriticVersion::max);
        let ages: Vec<u64> = versions.into_iter().map(|version| version.age(newest)).collect();
        Diagnostics::of(&self.all(0), &self.all(1), &ages)
    }

    /// Estimated mean utility of the critic on the step's prompts: the mean of [`objective::weighted_mean`] over
    /// groups.
    pub(super) fn utility(&self) -> f64 {
        let of = |(group, [_, behaviour]): (&Arc<CritiqueGroup>, &[Vec<f32>; 2])| {
            let utilities: Vec<f32> = group.critiques.iter().map(|critique| critique.utility).collect();
            objective::weighted_mean(&utilities, behaviour)
        };
        self.groups.iter().zip(&self.ratios).map(of).sum::<f64>() / self.groups.len() as f64
    }

    /// Critique tokens.
    pub(super) fn tokens(&self) -> usize {
        self.groups.iter().flat_map(|group| &group.critiques).map(|critique| critique.completion.ids.len()).sum()
    }
}
