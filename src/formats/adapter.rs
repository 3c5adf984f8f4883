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

/// An immutable adapter on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Rank, scale, targets.
    pub config: LoraConfig,
    /// Factors by (layer, projection).
    pub factors: BTreeMap<(usize, Projection), Factors>,
}

impl Adapter {
    /// Its size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.factors.values().map(|factors| (factors.a.len() + factors.b.len()) * size_of::<f32>()).sum()
    }
}
