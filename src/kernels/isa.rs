//! The processor's instruction set, and the tile sizes for it.
//!
//! Every instruction set does the same operations in the same order; only the number done at once differs. Products that are
//! asked for in bf16 are the exception: where the processor lacks them they are in f32.

use super::layout::ROWS_MAX;
use std::sync::OnceLock;

/// The environment variable that limits the instruction sets to one of [`Isa::name`] and those before it, for measurements
/// and tests.
#[cfg(target_arch = "x86_64")]
const LIMIT: &str = "RCO_ISA";

/// The instruction sets that kernels are written for. Ordered: a later one includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Isa {
    Portable,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// And AVX-512F.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// And the 8-bit dot products of AVX-512 VNNI.
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

impl Isa {
    /// The best one that this processor has.
    pub(super) fn detect() -> Self {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(Self::best)
    }

    #[cfg(target_arch = "x86_64")]
    fn best() -> Self {
        let best = if !has_avx2_fma() || !is_x86_feature_detected!("f16c") {
            Self::Portable
        } else if !is_x86_feature_detected!("avx512f") {
            Self::Avx2
        } else if !is_x86_feature_detected!("avx512vnni") {
            Self::Avx512
        } else {
            Self::Vnni
        };
        best.min(Self::limit())
    }

    /// The most that the environment variable [`LIMIT`] allows.
    #[cfg(target_arch = "x86_64")]
    fn limit() -> Self {
        static ALLOWED: OnceLock<Isa> = OnceLock::new();
        *ALLOWED.get_or_init(|| {
            let Ok(name) = std::env::var(LIMIT) else { return Self::Vnni };
            let known = [Self::Portable, Self::Avx2, Self::Avx512, Self::Vnni];
            known.into_iter().find(|isa| isa.name() == name).unwrap_or_else(|| {
                let expected = known.map(Self::name).join(", ");
                tracing::warn!("{LIMIT}: expected one of {expected}, got {name:?}: nothing is limited");
                Self::Vnni
            })
        })
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn best() -> Self {
        Self::Portable
    }

    /// Its name, as people read it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => "avx512-vnni",
        }
    }

    /// Every instruction set that this processor has.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let known = vec![Self::Portable, Self::Avx2, Self::Avx512, Self::Vnni];
        #[cfg(not(target_arch = "x86_64"))]
        let known = vec![Self::Portable];
        known.into_iter().filter(|&isa| isa <= Self::detect()).collect()
    }

    /// Whether a register holds a whole panel's lane of floats.
    pub(super) fn is_wide(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self >= Self::Avx512;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Rows of the largest float tile: sums in 12 of 16 registers on AVX2; for three panels in 24 of 32 on AVX-512.
    pub(super) fn rows(self) -> usize {
        if self.is_wide() { 8 } else { 6 }
    }

    /// Rows of the largest float tile with one panel.
    pub(super) fn single_panel_rows(self) -> usize {
        if self.is_wide() { 12 } else { 6 }
    }

    /// Panels of the largest float tile. Each step loads an element a row and a line a panel and multiplies all pairs,
    /// so the nearer to a square, the fewer loads a multiply-add needs. AVX-512 executes no more multiply-adds than
    /// loads at a time, so every load saved counts.
    pub(super) fn panels(self) -> usize {
        if self.is_wide() { 3 } else { 1 }
    }

    /// Rows of the largest bf16 tile: on AVX2 widening takes four registers, and a sixth row's sums would be spilled at
    /// every input.
    pub(super) fn bf16_rows(self) -> usize {
        if self.is_wide() { ROWS_MAX } else { 5 }
    }

    /// Whether the 8-bit product has eight rows as a register's lanes. AVX2 is faster that way, since it broadcasts by
    /// a separate operation.
    pub(super) fn uses_row8(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self, Self::Avx2 | Self::Avx512);
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether the 8-bit product of many rows has tiles of two panels.
    pub(super) fn has_panel_pairs(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Vnni;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Rows of the largest 8-bit tile of one panel: at two registers a row, twelve rows would be too many for AVX-512.
    pub(super) fn int8_rows(self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Vnni {
            return 11;
        }
        6
    }
}

/// Whether elementwise loops use AVX-512.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512() -> bool {
    has_avx2_fma()
        && Isa::limit() >= Isa::Avx512
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// Whether attention, and products in bf16, use bf16 dot products.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_bf16_dots() -> bool {
    has_avx512() && Isa::limit() >= Isa::Vnni && is_x86_feature_detected!("avx512bf16")
}

/// Whether attention over 8-bit keys and values uses 8-bit dot products.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_int8_dots() -> bool {
    has_avx512() && Isa::limit() >= Isa::Vnni && is_x86_feature_detected!("avx512vnni")
}

/// Whether elementwise loops use AVX2.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx2_fma() -> bool {
    Isa::limit() >= Isa::Avx2 && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Whether tiles use intrinsics. The portable tile is no faster than a loop, and rounds differently.
pub(crate) fn has_tiles() -> bool {
    Isa::detect() >= Isa::Avx2
}
