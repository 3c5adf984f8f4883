//! LoRA adapters on the host: the low-rank factors of some linears of a model, and their scale (arXiv 2106.09685).
//!
//! An [`Adapter`] is an immutable snapshot: the learner makes one, the engine packs it, a checkpoint stores it. Does not
//! know how an adapter is stored.

use super::spec::Projection;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Rank, scale and target linears of an adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Inner dimension of the factors.
    pub rank: usize,
    /// The branch is scaled by `alpha / rank`.
    pub alpha: f32,
    /// Scale by `alpha / sqrt(rank)` instead (rank-stabilised, arXiv 2312.03732), for large ranks.
    pub rslora: bool,
    /// The linears that have factors.
    pub targets: Vec<Projection>,
}

impl LoraConfig {
    /// The factor that scales the low-rank branch.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

/// The two factors of one linear: `y += scale * (x A^T) B^T`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Factors {
    /// `(rank, inputs)`, row-major.
    pub a: Vec<f32>,
    /// `(outputs, rank)`, row-major.
    pub b: Vec<f32>,
}

/// Factors outside of the layers. They are used as they are: the learner trains none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ends {
    /// On the embedding: `A` is `(rank, vocab)`, `B` is `(hidden, rank)`. A tied head does not change with it.
    pub embedding: Option<Factors>,
    /// On the head: `A` is `(rank, hidden)`, `B` is `(vocab, rank)`. A tied embedding does not change with it.
    pub head: Option<Factors>,
    /// Weights of the model that the adapter's file holds too.
    pub brought: Vec<Brought>,
}

/// Weights of the embedding or the head that an adapter's file holds: one value of each row, which tells whether they are
/// those of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Brought {
    /// Whether they are those of the head.
    pub is_head: bool,
    /// A value of each row.
    pub values: Vec<f32>,
}

impl Brought {
    /// The column of the value of `row`, of `columns`.
    pub fn column(row: usize, columns: usize) -> usize {
        row.wrapping_mul(31) % columns
    }
}

impl Ends {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.embedding.is_none() && self.head.is_none()
    }

    fn factors(&self) -> impl Iterator<Item = &Factors> {
        self.embedding.iter().chain(&self.head)
    }
}

/// An immutable adapter on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Rank, scale, targets.
    pub config: LoraConfig,
    /// Factors by (layer, projection). An adapter from elsewhere may lack some of its targets in some layers.
    pub factors: BTreeMap<(usize, Projection), Factors>,
    /// Factors on embedding and head.
    pub ends: Ends,
}

impl Adapter {
    /// An adapter on linears of layers alone.
    pub fn new(config: LoraConfig, factors: BTreeMap<(usize, Projection), Factors>) -> Self {
        Self { config, factors, ends: Ends::default() }
    }

    /// Its size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        let all = self.factors.values().chain(self.ends.factors());
        all.map(|factors| (factors.a.len() + factors.b.len()) * size_of::<f32>()).sum()
    }
}
