//! The reference policy of the loss, and its log-probabilities of the groups in use.
//!
//! With resets, the reference is replaced by the current critic every fixed number of steps, as in TBA (arXiv
//! 2503.18929, section 4) and in OAPL, which uses a lagged snapshot (arXiv 2602.19362). The anchor then limits how far
//! the critic moves *between* resets, so the critic can leave the base model behind. Runs no forward pass: callers
//! pass in the log-probs.
//!
//! Invariants: a group keeps the reference it was first learned against, so a reset does not change its residuals;
//! the saved tensors are all that a learner needs to resume bit for bit.

use super::error::Error;
use super::state::HostTensor;
use crate::formats::adapter::{Adapter, Factors};
use crate::formats::spec::Projection;
use crate::transformer::Transformer;
use crate::transformer::score::ScoreAdapter;
use std::collections::BTreeMap;

/// The critic as it was at the last reset.
#[derive(Debug)]
pub(super) struct Reference {
    adapter: Adapter,
    /// The adapter in the layout of the score pass; built on first use.
    branches: Option<ScoreAdapter>,
}

impl Reference {
    pub(super) fn new(adapter: Adapter) -> Self {
        Self { adapter, branches: None }
    }

    /// The adapter in the layout of the score pass over `model`.
    pub(super) fn branches(&mut self, model: &Transformer) -> Result<&ScoreAdapter, Error> {
        let branches = match self.branches.take() {
            Some(branches) => branches,
            None => ScoreAdapter::new(model, &self.adapter)?,
        };
        Ok(self.branches.insert(branches))
    }

    /// The factors, by name.
    pub(super) fn tensors(&self) -> Vec<(String, HostTensor)> {
        let rank = self.adapter.config.rank;
        let of = |(place, Factors { a, b }): (&(usize, Projection), &Factors)| {
            let [name_a, name_b] = factor_names(*place);
            let a = HostTensor { shape: vec![rank, a.len() / rank], data: a.clone() };
            let b = HostTensor { shape: vec![b.len() / rank, rank], data: b.clone() };
            [(name_a, a), (name_b, b)]
        };
        self.adapter.factors.iter().flat_map(of).collect()
    }

    /// Restores a reference from the tensors of [`Reference::tensors`], with the layout of `adapter`; `None` if none
    /// was saved. `take` removes and returns a tensor by its name.
    pub(super) fn restore(
        adapter: &Adapter,
        take: &mut impl FnMut(&str) -> Option<HostTensor>,
    ) -> Result<Option<Self>, Error> {
        let names: Vec<_> = adapter.factors.keys().copied().flat_map(factor_names).collect();
        let saved: Vec<_> = names.iter().map(|name| take(name)).collect();
        if saved.iter().all(Option::is_none) {
            return Ok(None);
        }
        let mut reference = adapter.clone();
        let places = reference.factors.values_mut().flat_map(|Factors { a, b }| [a, b]);
        for ((name, saved), data) in names.into_iter().zip(saved).zip(places) {
            let saved = saved.filter(|saved| saved.data.len() == data.len());
            *data = saved.ok_or(Error::MissingTensor { name })?.data;
        }
        Ok(Some(Self::new(reference)))
    }
}

fn factor_names((layer, site): (usize, Projection)) -> [String; 2] {
    ["lora_A", "lora_B"].map(|factor| format!("reference.layers.{layer}.{}.{factor}", site.name()))
}

/// The reference's values for one group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReferenceValues {
    /// Log-probability of each token of each critique computed so far (nats).
    pub log_probs: Vec<Vec<f32>>,
    /// Hidden state of the prefix's last token; empty without a value network.
    pub hidden: Vec<f32>,
}

/// Reference values by episode, each under the reference that the group was first learned against.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct References {
    known: BTreeMap<u64, ReferenceValues>,
}

/// Groups kept at most. Beyond it the oldest half is dropped.
const GROUPS_MAX: usize = 2048;
const LOG_PROBS: &str = "reference_log_probs.";
const HIDDEN: &str = "reference_hidden.";
/// Stands behind a critique that is shorter than others. A number, because a checkpoint holds nothing else.
const PADDING: f32 = f32::MAX;

impl References {
    /// Whether all `critiques` of `episode` are known and, if `with_hidden`, also the hidden state of its prefix.
    pub fn knows(&self, episode: u64, critiques: usize, with_hidden: bool) -> bool {
        let is_whole =
            |known: &ReferenceValues| known.log_probs.len() == critiques && !(with_hidden && known.hidden.is_empty());
        self.known.get(&episode).is_some_and(is_whole)
    }

    /// The values known for `episode`.
    pub fn get(&self, episode: u64) -> Option<&ReferenceValues> {
        self.known.get(&episode)
    }

    /// Stores the critiques of `episode` from index `first` on, and the hidden state of its prefix.
    pub fn remember(&mut self, episode: u64, first: usize, log_probs: Vec<Vec<f32>>, hidden: &[f32]) {
        let known = self.known.entry(episode).or_default();
        known.log_probs.truncate(first);
        known.log_probs.extend(log_probs);
        hidden.clone_into(&mut known.hidden);
    }

    /// Drops the oldest half if there are too many groups. Not to be called during a step, which needs its own groups.
    pub fn forget_old(&mut self) {
        if self.known.len() > GROUPS_MAX {
            let oldest_kept = *self.known.keys().nth(self.known.len() / 2).expect("half of many is among them");
            self.known = self.known.split_off(&oldest_kept);
        }
    }

    /// All values as tensors named by episode: log-probabilities (critiques, longest critique), padded with the largest float,
    /// and the hidden state (hidden).
    pub fn tensors(&self) -> Vec<(String, HostTensor)> {
        let of = |(episode, ReferenceValues { log_probs, hidden }): (&u64, &ReferenceValues)| {
            let longest = log_probs.iter().map(Vec::len).max().unwrap_or_default();
            let padded = |critique: &Vec<f32>| {
                let padding = std::iter::repeat_n(PADDING, longest - critique.len());
                critique.iter().copied().chain(padding).collect::<Vec<_>>()
            };
            let data = log_probs.iter().flat_map(padded).collect();
            let log_probs = HostTensor { shape: vec![log_probs.len(), longest], data };
            let hidden = HostTensor { shape: vec![hidden.len()], data: hidden.clone() };
            let hidden = (!hidden.data.is_empty()).then(|| (format!("{HIDDEN}{episode}"), hidden));
            [Some((format!("{LOG_PROBS}{episode}"), log_probs)), hidden].into_iter().flatten()
        };
        self.known.iter().flat_map(of).collect()
    }

    /// Restores the values that [`References::tensors`] saved from among `tensors`.
    ///
    /// # Errors
    /// If one of the tensors has a malformed name or shape.
    pub fn restore<'a>(tensors: impl IntoIterator<Item = (&'a String, &'a HostTensor)>) -> Result<Self, Error> {
        let mut known: BTreeMap<u64, ReferenceValues> = BTreeMap::new();
        for (name, HostTensor { shape, data }) in tensors {
            let broken = || Error::MissingTensor { name: name.clone() };
            let number = |episode: &str| episode.parse::<u64>().map_err(|_| broken());
            if let Some(episode) = name.strip_prefix(HIDDEN) {
                data.clone_into(&mut known.entry(number(episode)?).or_default().hidden);
            } else if let Some(episode) = name.strip_prefix(LOG_PROBS) {
                let &[critiques, longest] = shape.as_slice() else { return Err(broken()) };
                if longest == 0 || data.len() != critiques * longest {
                    return Err(broken());
                }
                let unpadded = |row: &[f32]| row.iter().copied().filter(|value| *value < PADDING).collect();
                known.entry(number(episode)?).or_default().log_probs = data.chunks(longest).map(unpadded).collect();
            }
        }
        Ok(Self { known })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::formats::adapter::LoraConfig;
    use crate::learner::config::Resets;

    #[test]
    fn a_group_belongs_to_the_reference_in_force_when_it_was_first_seen() {
        let resets = Resets { every_steps: 10 };
        assert_eq!([0, 9, 10, 19, 20].map(|steps| resets.index(steps)), [0, 0, 1, 1, 2]);
        let fallen: Vec<u64> = (0..25).filter(|&steps| resets.falls_after(steps)).collect();
        assert_eq!(fallen, [10, 20]);
        let never = Resets { every_steps: 0 };
        assert!((0..1000).all(|steps| never.index(steps) == 0 && !never.falls_after(steps)));
    }

    #[test]
    fn what_is_known_of_groups_survives_a_save_among_other_tensors() {
        let mut references = References::default();
        references.remember(7, 0, vec![vec![-1.0, -2.0], vec![-0.5]], &[0.5, 2.0]);
        assert!(!references.knows(7, 3, true), "a part of it is missing");
        references.remember(7, 2, vec![vec![]], &[0.5, 2.0]);
        references.remember(u64::MAX, 0, vec![vec![-3.0]], &[]);
        assert!(references.knows(7, 3, true) && references.knows(u64::MAX, 1, false) && !references.knows(8, 1, false));
        let mut tensors = references.tensors();
        // A checkpoint with other numbers is refused.
        assert!(tensors.iter().all(|(_, tensor)| tensor.data.iter().all(|value| value.is_finite())));
        tensors.push(("layers.0.q_proj.lora_A.m".into(), HostTensor { shape: vec![1], data: vec![0.0] }));
        let restored = References::restore(tensors.iter().map(|(name, tensor)| (name, tensor))).unwrap();
        assert_eq!(restored, references);
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let mut references = References::default();
        for episode in 0..10_000 {
            references.remember(episode, 0, vec![vec![-1.0]], &[]);
            references.forget_old();
        }
        assert!(references.known.len() <= GROUPS_MAX);
        assert!(
            references.knows(9_999, 1, false) && !references.knows(9_999, 1, true) && !references.knows(0, 1, false)
        );
    }

    #[test]
    fn a_reference_survives_a_save_and_half_of_one_is_refused() {
        let factors = |x: f32| Factors { a: vec![x; 6], b: vec![-x; 4] };
        let config =
            LoraConfig { rank: 2, alpha: 4.0, rslora: false, targets: vec![Projection::QProj, Projection::VProj] };
        let of = |x| {
            [((0, Projection::QProj), factors(x)), ((0, Projection::VProj), factors(2.0 * x))].into_iter().collect()
        };
        let (adapter, earlier) = (Adapter::new(config.clone(), of(1.0)), Adapter::new(config, of(3.0)));
        let tensors = Reference::new(earlier.clone()).tensors();
        let restore = |mut tensors: std::collections::HashMap<String, HostTensor>| {
            Reference::restore(&adapter, &mut |name| tensors.remove(name))
        };
        let restored = restore(tensors.iter().cloned().collect()).unwrap().unwrap();
        assert_eq!(restored.adapter, earlier);
        assert!(restore(Default::default()).unwrap().is_none());
        for left_out in 0..tensors.len() {
            let rest = tensors.iter().enumerate().filter(|(index, _)| *index != left_out);
            assert!(restore(rest.map(|(_, tensor)| tensor.clone()).collect()).is_err());
        }
    }
}
