//! The precision of weights, by pass, and of keys and values.

use super::matmul_precision::MatmulPrecision;
use serde::{Deserialize, Serialize};

/// Precision of a pass's linears and embedding. Norms and biases stay f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 4 bytes a weight.
    F32,
    /// Rounded to bf16, sums in f32: 2 bytes a weight.
    Bf16,
    /// 8-bit products: weights on 128 steps between the extremes of each 32 inputs, 1.2 bytes a weight; or on 16 steps,
    /// 0.7 bytes, where that loses nothing, as for files with 4 bits a weight. In the decode pass activations are rounded to
    /// 255 steps for each row and 32 inputs, and sums are 32-bit; the score pass widens the weights to f32.
    #[default]
    Int8,
}

impl Precision {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// Whether it is narrower than f32.
    pub fn is_narrow(self) -> bool {
        self != Self::F32
    }

    /// Its name in a config.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == name);
        found.ok_or_else(|| format!("expected f32, bf16 or int8, got {name:?}"))
    }
}

/// The precision of each pass. Passes that read the same weights share one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassPrecisions {
    /// What the decode pass reads.
    pub decode: Precision,
    /// What the score pass reads; none for a model that only writes.
    pub score: Option<Precision>,
    /// What the linears of the score pass multiply.
    pub matmul: MatmulPrecision,
}

impl PassPrecisions {
    /// Both passes in f32.
    pub const F32: Self = Self::both(Precision::F32, Precision::F32);

    /// Weights for the decode pass alone.
    pub fn decode_only(decode: Precision) -> Self {
        Self { decode, score: None, matmul: MatmulPrecision::F32 }
    }

    /// Weights for both passes, whose products are of f32.
    pub const fn both(decode: Precision, score: Precision) -> Self {
        Self { decode, score: Some(score), matmul: MatmulPrecision::F32 }
    }

    /// Whether no pass reads weights but those of `precision`.
    pub fn have_only(self, precision: Precision) -> bool {
        Precision::ALL.into_iter().all(|other| self.have(other) == (other == precision))
    }

    /// Whether one of the passes reads weights of `precision`.
    pub fn have(self, precision: Precision) -> bool {
        self.decode == precision || self.score == Some(precision)
    }
}

/// Precision of the KV cache, as a config names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvPrecision {
    /// f32 where the weights are f32, else bf16.
    #[default]
    Auto,
    /// 4 bytes a number.
    F32,
    /// Rounded to bf16, as queries and weights of attention are: 2 bytes a number.
    Bf16,
    /// On 255 steps, of keys for each 32 dimensions, of values for each head: a little more than a byte a number. Queries and
    /// weights of attention are rounded to 16 bits, and sums are exact.
    Int8,
}

impl KvPrecision {
    /// What the cache stores beside weights of `weights`.
    pub fn kind(self, weights: Precision) -> KvKind {
        match self {
            Self::Auto if weights.is_narrow() => KvKind::Bf16,
            Self::Auto | Self::F32 => KvKind::F32,
            Self::Bf16 => KvKind::Bf16,
            Self::Int8 => KvKind::Int8,
        }
    }

    /// Its name in a config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl std::fmt::Display for KvPrecision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for KvPrecision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = [Self::Auto, Self::F32, Self::Bf16, Self::Int8];
        let found = known.into_iter().find(|precision| precision.name() == name);
        found.ok_or_else(|| format!("expected auto, f32, bf16 or int8, got {name:?}"))
    }
}

/// What a KV cache stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvKind {
    /// f32.
    F32,
    /// Pairs of bf16.
    Bf16,
    /// 8-bit codes with steps.
    Int8,
}
