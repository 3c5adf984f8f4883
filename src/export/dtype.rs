//! The types that weights are exported in, and their names in safetensors headers and PyTorch configs.

use half::{bf16, f16};
use std::fmt;

/// The type of exported weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats, as computed.
    F32,
    /// bfloat16: rounded to nearest, 8 bits of mantissa.
    Bf16,
    /// IEEE half: rounded to nearest, 11 bits of mantissa.
    F16,
}

impl Dtype {
    /// PyTorch's name.
    pub(super) fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// The name in a safetensors header.
    pub(super) fn safetensors_name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// Bytes of a value.
    pub(super) fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// `values` as little-endian bytes, or the first finite value that overflows.
    pub(super) fn bytes(self, values: &[f32]) -> Result<Vec<u8>, f32> {
        let check = |value: f32, finite: bool| if value.is_finite() && !finite { Err(value) } else { Ok(()) };
        let mut bytes = Vec::with_capacity(values.len() * self.width());
        for &value in values {
            match self {
                Self::F32 => bytes.extend(value.to_le_bytes()),
                Self::Bf16 => {
                    let rounded = bf16::from_f32(value);
                    check(value, rounded.is_finite())?;
                    bytes.extend(rounded.to_le_bytes());
                }
                Self::F16 => {
                    let rounded = f16::from_f32(value);
                    check(value, rounded.is_finite())?;
                    bytes.extend(rounded.to_le_bytes());
                }
            }
        }
        Ok(bytes)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.torch_name())
    }
}
