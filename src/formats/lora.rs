//! Low-rank adapters: what they are and how they lie on disk (PEFT's format).
//!
//! An [`Adapter`] is an immutable snapshot on the host. The learner makes one, the engine packs it,
//! a checkpoint holds it; none of them shares a variable with another.

mod peft;

use super::{Error, Result, spec::ModelSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) use peft::{CONFIG_FILE, WEIGHTS_FILE};

/// A linear of a layer that an adapter can sit on, by PEFT's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// Queries.
    QProj,
    /// Keys.
    KProj,
    /// Values.
    VProj,
    /// Attention's output.
    OProj,
    /// Feed-forward gate.
    GateProj,
    /// Feed-forward up.
    UpProj,
    /// Feed-forward down.
    DownProj,
}

impl Projection {
    /// Every site, in the order of the forward pass.
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// The linear's name in Hugging Face models, such as `q_proj`.
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The module it belongs to, such as `self_attn`.
    pub fn module(self) -> &'static str {
        match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        }
    }

    /// `(inputs, outputs)` of the linear.
    pub fn sizes(self, spec: &ModelSpec) -> (usize, usize) {
        let (hidden, queries, keys) = (spec.hidden, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        match self {
            Self::QProj => (hidden, queries),
            Self::KProj | Self::VProj => (hidden, keys),
            Self::OProj => (queries, hidden),
            Self::GateProj | Self::UpProj => (hidden, spec.intermediate),
            Self::DownProj => (spec.intermediate, hidden),
        }
    }
}

/// Rank, scale and targets of an adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Inner width.
    pub rank: usize,
    /// The branch is scaled by `alpha / rank`.
    pub alpha: f32,
    /// Scaled by `alpha / sqrt(rank)` instead (rank-stabilised, arXiv 2312.03732): for large ranks.
    pub rslora: bool,
    /// The linears that carry one.
    pub targets: Vec<Projection>,
}

impl LoraConfig {
    /// What the branch is scaled by.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

/// The two factors on one linear: `y += scale * (x A^T) B^T`.
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
    /// Factors by (layer, site).
    pub factors: BTreeMap<(usize, Projection), Factors>,
}

impl Adapter {
    /// Writes `adapter_config.json` and `adapter_model.safetensors` into the existing folder `dir`, as PEFT does.
    ///
    /// # Errors
    /// Where a factor is missing or not of the size that `spec` and the rank imply, or a file cannot be written.
    pub fn save(&self, dir: &Path, base_model: &str, spec: &ModelSpec) -> Result<()> {
        for (name, bytes) in peft::files(self, dir, base_model, spec)? {
            let path = dir.join(name);
            std::fs::write(&path, bytes).map_err(Error::io(&path))?;
        }
        Ok(())
    }

    /// The names and bytes of the files that [`Adapter::save`] writes; `dir` is only named in errors.
    pub(crate) fn files(&self, dir: &Path, base_model: &str, spec: &ModelSpec) -> Result<[(&'static str, Vec<u8>); 2]> {
        peft::files(self, dir, base_model, spec)
    }

    /// Reads a folder that PEFT or [`Adapter::save`] wrote, checked against `spec`. Tensors in f16 and
    /// bf16 are widened.
    ///
    /// # Errors
    /// Where a file is unreadable, asks for what this node does not do (DoRA, whole modules,
    /// patterns), names another tensor than a linear of `spec`, or lacks one that it promises.
    pub fn load(dir: &Path, spec: &ModelSpec) -> Result<Self> {
        peft::load(dir, spec)
    }
}

impl std::fmt::Display for Projection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
