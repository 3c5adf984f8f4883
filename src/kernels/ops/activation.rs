//! Gates of feed-forward blocks, as one formula.

use serde::{Deserialize, Serialize};
use std::f32::consts::{FRAC_2_SQRT_PI, SQRT_2};

/// The gate of a gated linear unit (arXiv 2002.05202): `x * sigmoid(x (a + b x^2))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// The tanh approximation of GELU (arXiv 1606.08415).
    GeluTanh,
}

impl Activation {
    /// `(a, b)` of the formula above. GELU follows from `(1 + tanh u) / 2 = sigmoid(2 u)`.
    pub(crate) fn coefficients(self) -> (f32, f32) {
        const TWICE_ROOT: f32 = FRAC_2_SQRT_PI * SQRT_2; // 2 sqrt(2 / pi)
        match self {
            Self::Silu => (1.0, 0.0),
            Self::GeluTanh => (TWICE_ROOT, TWICE_ROOT * 0.044_715),
        }
    }
}
