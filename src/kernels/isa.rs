//! Which instructions this processor has, and which tile serves a product with them.
//!
//! Every instruction set does the same operations in the same order: what differs is how many at once.

use super::layout::ROWS_MAX;
use std::sync::OnceLock;

/// The instructions a kernel is written for. Ordered: a later one includes the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Isa {
    Portable,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512F besides.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The 8-bit dot products of AVX-512 VNNI besides.
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

impl Isa {
    /// The best that this processor has.
    pub(super) fn detect() -> Self {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(Self::look)
    }

    #[cfg(target_arch = "x86_64")]
    fn look() -> Self {
        if !has_avx2_fma() || !is_x86_feature_detected!("f16c") {
            Self::Portable
        } else if !is_x86_feature_detected!("avx512f") {
            Self::Avx2
        } else if !is_x86_feature_detected!("avx512vnni") {
            Self::Avx512
        } else {
            Self::Vnni
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn look() -> Self {
        Self::Portable
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

    /// Whether a float tile of it is as wide as a whole panel.
    pub(super) fn is_wide(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self >= Self::Avx512;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Rows of its largest tile of floats: sums in 12 of 16 registers on AVX2; on AVX-512, of three panels, in 24 of 32.
    pub(super) fn rows(self) -> usize {
        if self.is_wide() { 8 } else { 6 }
    }

    /// Rows of its largest tile of a panel that stands alone.
    pub(super) fn rows_alone(self) -> usize {
        if self.is_wide() { 12 } else { 6 }
    }

    /// Panels of its largest tile. What a tile loads at each step is an element a row and a line a panel, what it computes
    /// their product: the nearer it is to a square, the fewer loads come upon a multiply-add. AVX-512 does no more of these
    /// at a time than loads, and so gains by every load that it is spared.
    pub(super) fn panels(self) -> usize {
        if self.is_wide() { 3 } else { 1 }
    }

    /// Rows of its largest tile of bf16: on AVX2 widening takes four registers, and a sixth row's sums would have to
    /// pass through memory at every input.
    pub(super) fn bf16_rows(self) -> usize {
        if self.is_wide() { ROWS_MAX } else { 5 }
    }

    /// Whether its 8-bit product takes eight rows as the lanes of a register: what AVX2 wins by it, since broadcasting is
    /// an operation of its own there.
    pub(super) fn uses_row8(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self, Self::Avx2 | Self::Avx512);
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Rows of its largest tile of the 8-bit product: with twelve, and two registers a row, AVX-512 runs out of them.
    pub(super) fn int8_rows(self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Vnni {
            return 11;
        }
        6
    }
}

/// Whether this processor's elementwise loops can use AVX-512.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512() -> bool {
    has_avx2_fma()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// Whether this processor's elementwise loops can use AVX2.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx2_fma() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Whether tiles are more than loops: without them they are no faster, and round otherwise.
pub(crate) fn has_tiles() -> bool {
    Isa::detect() >= Isa::Avx2
}
