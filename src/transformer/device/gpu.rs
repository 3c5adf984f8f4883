//! Opening a GPU.

use crate::kernels::cuda::{self, BuildTarget};
use crate::transformer::error::{self, Error, Result};
use candle_core::Device;
use candle_core::cuda_backend::kernels;

/// Opens GPU `number`.
///
/// # Errors
/// Why it cannot be used, in one line.
pub(super) fn open(number: usize) -> Result<Device> {
    let refused = |why: String| Error::Device { choice: format!("cuda:{number}"), why };
    let gpu = cuda::prepare(number, build_target()).map_err(|why| refused(why.to_string()))?;
    let device = Device::new_cuda(number).map_err(|error| refused(error::in_one_line(&error)))?;
    tracing::debug!(gpu.name, ?gpu.capability, "opened gpu {number}");
    Ok(device)
}

/// The first GPU, if there is one that can be used.
pub(super) fn first() -> Option<Device> {
    match open(0) {
        Ok(device) => Some(device),
        Err(why) => {
            tracing::info!("running on the cpu: {why}");
            None
        }
    }
}

/// What the tensor library's kernels in this build run on.
fn build_target() -> Option<BuildTarget> {
    BuildTarget::of_ptx(kernels::AFFINE.ptx())
}
