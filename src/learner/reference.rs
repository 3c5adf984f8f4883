//! Which reference a group is learned against, and the reference's log-probabilities of the groups in use.
//!
//! With resets the reference becomes the critic of that moment every so many steps, as TBA does (arXiv 2503.18929, section 4) and as
//! OAPL's lagged snapshot (arXiv 2602.19362): the anchor then bounds how far the critic moves *between* resets, and it can
//! leave the base model behind. Knows no model: whoever has one computes what is kept here.
//!
//! Invariants: a group keeps the reference it was first learned against, so its residuals do not jump at a reset;
//! what is kept is all that a resumed learner needs to go on bit for bit.

use super::{Error, HostTensor};
use std::collections::BTreeMap;

/// The course of references: index 0 is the base model, index k the critic as it was after `k x every` steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resets {
    /// Steps between two resets; 0: never.
    pub every_steps: u64,
}

impl Resets {
    /// Index of the reference that a group belongs to which was first seen after `steps` steps.
    pub fn index(self, steps: u64) -> u64 {
        steps.checked_div(self.every_steps).unwrap_or(0)
    }

    /// Whether the critic becomes the reference once `steps` steps are taken.
    pub fn falls_after(self, steps: u64) -> bool {
        steps > 0 && self.index(steps) > self.index(steps - 1)
    }
}

/// What the reference says of a group: the log-probability of each id of each critique.
pub type LogProbs = Vec<Vec<f32>>;

/// Log-probabilities of groups, by episode, each under the reference it was first seen with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct References {
    known: BTreeMap<u64, LogProbs>,
}

/// So many groups are remembered; then the oldest half is forgotten.
const GROUPS_MAX: usize = 2048;
const NAME: &str = "reference_log_probs.";

impl References {
    /// What is known of `episode`.
    pub fn get(&self, episode: u64) -> Option<&LogProbs> {
        self.known.get(&episode)
    }

    /// Remembers a group. One that is known keeps what it has.
    pub fn remember(&mut self, episode: u64, log_probs: LogProbs) {
        self.known.entry(episode).or_insert(log_probs);
        if self.known.len() > GROUPS_MAX {
            let oldest_kept = *self.known.keys().nth(self.known.len() / 2).expect("half of many is among them");
            self.known = self.known.split_off(&oldest_kept);
        }
    }

    /// Everything, as tensors named by episode (critiques, longest critique), padded with infinity.
    pub fn tensors(&self) -> Vec<(String, HostTensor)> {
        let tensor = |log_probs: &LogProbs| {
            let longest = log_probs.iter().map(Vec::len).max().unwrap_or_default();
            let padded = |critique: &Vec<f32>| {
                let padding = std::iter::repeat_n(f32::INFINITY, longest - critique.len());
                critique.iter().copied().chain(padding).collect::<Vec<_>>()
            };
            HostTensor { shape: vec![log_probs.len(), longest], data: log_probs.iter().flat_map(padded).collect() }
        };
        self.known.iter().map(|(episode, log_probs)| (format!("{NAME}{episode}"), tensor(log_probs))).collect()
    }

    /// Takes back, from among `tensors`, what [`References::tensors`] gave; the others stay there.
    ///
    /// # Errors
    /// Where one of its tensors has no such shape.
    pub fn restore<'a>(tensors: impl IntoIterator<Item = (&'a String, &'a HostTensor)>) -> Result<Self, Error> {
        let mut known = BTreeMap::new();
        for (name, tensor) in tensors {
            let Some(episode) = name.strip_prefix(NAME) else { continue };
            let broken = || Error::MissingMoment { name: name.clone() };
            let episode: u64 = episode.parse().map_err(|_| broken())?;
            let &[critiques, longest] = tensor.shape.as_slice() else { return Err(broken()) };
            if longest == 0 || tensor.data.len() != critiques * longest {
                return Err(broken());
            }
            let unpadded = |row: &[f32]| row.iter().copied().filter(|value| *value < f32::INFINITY).collect();
            known.insert(episode, tensor.data.chunks(longest).map(unpadded).collect());
        }
        Ok(Self { known })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_a_group_was_first_learned_against_stays_and_survives_a_save() {
        let mut references = References::default();
        references.remember(7, vec![vec![-1.0, -2.0], vec![-0.5], vec![]]);
        references.remember(7, vec![vec![0.0]]);
        references.remember(u64::MAX, vec![vec![-3.0]]);
        assert_eq!(references.get(7).map(Vec::len), Some(3));
        let mut tensors = references.tensors();
        tensors.push(("layers.0.q_proj.lora_A.m".into(), HostTensor { shape: vec![1], data: vec![0.0] }));
        let restored = References::restore(tensors.iter().map(|(name, tensor)| (name, tensor))).unwrap();
        assert_eq!(restored, references);
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let mut references = References::default();
        (0..10_000).for_each(|episode| references.remember(episode, vec![vec![-1.0]]));
        assert!(references.known.len() <= GROUPS_MAX);
        assert!(references.get(9_999).is_some() && references.get(0).is_none());
    }
}
