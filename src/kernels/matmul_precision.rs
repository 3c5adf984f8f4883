//! The precision of a linear's matrix product in the score pass, and the product over many rows in it.

#[cfg(target_arch = "x86_64")]
use super::bf16_gemm;
use super::gemm_lora::{self, LoraBranch};
#[cfg(target_arch = "x86_64")]
use super::isa::has_bf16_dots;
use super::packed_matrix::PackedMatrix;
use super::thread_pool::Overlap;
use serde::{Deserialize, Serialize};

/// Precision of what a linear multiplies. Sums are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MatmulPrecision {
    /// Values as they are.
    #[default]
    F32,
    /// Values rounded to bf16, where the processor multiplies these faster; else values as they are.
    Bf16,
}

impl MatmulPrecision {
    /// What this processor multiplies where these are asked for.
    pub fn supported(self) -> Self {
        #[cfg(target_arch = "x86_64")]
        if has_bf16_dots() {
            return self;
        }
        Self::F32
    }

    /// Its name in a config.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// `y = x W^T + u B^T` with `u = x A^T` if there is a branch: `x` is `(rows, inputs)`, `y` `(rows, outputs)` and `u`
    /// `(rows, width)`, empty without a branch. The stride of `y` may exceed its width.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub(crate) fn forward(
        self,
        w: &PackedMatrix,
        branch: Option<LoraBranch<'_>>,
        x: &[f32],
        u: &mut [f32],
        y: &mut [f32],
    ) {
        match self.supported() {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16 => bf16_gemm::forward(w, branch, x, u, y),
            _ => gemm_lora::forward(w, branch, x, u, y),
        }
    }

    /// `dx = dy W + du A` with `du = dy B` if there is a branch, in the shapes of [`MatmulPrecision::forward`]. Threads that are
    /// done go on with `overlap`.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub(crate) fn backward(
        self,
        w: &PackedMatrix,
        branch: Option<LoraBranch<'_>>,
        dy: &[f32],
        gradients: [&mut [f32]; 2],
        overlap: Overlap<'_>,
    ) {
        match self.supported() {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16 => bf16_gemm::backward(w, branch, dy, gradients, overlap),
            _ => gemm_lora::backward(w, branch, dy, gradients, overlap),
        }
    }
}
