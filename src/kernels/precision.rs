//! The precision of the decode pass's weights.

use serde::{Deserialize, Serialize};

/// Precision of the decode pass's linears and embedding. Norms and biases stay f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// The score pass's own weights: 4 bytes a weight, one copy for both passes.
    F32,
    /// Rounded to bf16, sums in f32: 2 bytes a weight.
    Bf16,
    /// 8-bit products: weights on 128 steps between the extremes of each 32 inputs, 1.2 bytes a weight; or on 16 steps,
    /// 0.7 bytes, where that loses nothing, as for files with 4 bits a weight. Activations are rounded to 255 steps for
    /// each row and 32 inputs; sums are 32-bit.
    #[default]
    Int8,
}

impl Precision {
    /// Whether it is narrower than f32; keys and values are then bf16.
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
        let known = [Self::F32, Self::Bf16, Self::Int8];
        let found = known.into_iter().find(|precision| precision.name() == name);
        found.ok_or_else(|| format!("expected f32, bf16 or int8, got {name:?}"))
    }
}
