//! Opening a GPU, and the memory that is in use of one.

#![allow(unsafe_code)]

use crate::kernels::cuda::{self, BuildTarget};
use crate::transformer::error::{self, Error, Result};
use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::result::{device, mem_pool};
use candle_core::cuda_backend::cudarc::driver::sys::{CUmemPool_attribute, CUmemoryPool};
use candle_core::cuda_backend::{CudaDevice, kernels};

/// The most that was in use of a pool.
const PEAK: CUmemPool_attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;

/// Opens GPU `number`.
///
/// # Errors
/// Why it cannot be used, in one line.
pub(super) fn open(number: usize) -> Result<Device> {
    let refused = |why: String| Error::Device { choice: format!("cuda:{number}"), why };
    let gpu = cuda::prepare(number, build_target()).map_err(|why| refused(why.to_string()))?;
    let device = with_one_stream(number).map_err(|error| refused(error::in_one_line(&error)))?;
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

/// Opens GPU `number` with one stream for all threads, so that whatever they ask for is done in the order of asking.
fn with_one_stream(number: usize) -> candle_core::Result<Device> {
    let device = Device::new_cuda_with_stream(number)?;
    // SAFETY: the events, two for each tensor, order several streams, and there is one.
    unsafe { device.as_cuda_device()?.disable_event_tracking() };
    Ok(device)
}

/// The pool of `gpu` that tensors are allocated from.
fn pool(gpu: &CudaDevice) -> Option<CUmemoryPool> {
    let context = gpu.cuda_stream().context().clone();
    context.bind_to_thread().ok()?;
    // SAFETY: the context's own device.
    unsafe { device::get_default_mem_pool(context.cu_device()) }.ok()
}

/// Most bytes of `gpu`'s pool that were in use at once.
pub(super) fn peak_bytes(gpu: &CudaDevice) -> Option<usize> {
    let mut bytes = 0u64;
    // SAFETY: this attribute is a number of 64 bits.
    unsafe { mem_pool::get_attribute(pool(gpu)?, PEAK, (&raw mut bytes).cast()) }.ok()?;
    usize::try_from(bytes).ok()
}

/// Counts [`peak_bytes`] from now on.
#[cfg(test)]
pub(super) fn reset_peak(gpu: &CudaDevice) {
    let mut zero = 0u64;
    if let Some(pool) = pool(gpu) {
        // SAFETY: this attribute is a number of 64 bits, and 0 is what sets it to what is in use.
        let reset = unsafe { mem_pool::set_attribute(pool, PEAK, (&raw mut zero).cast()) };
        if let Err(error) = reset {
            tracing::debug!("the driver does not count the memory in use: {error}");
        }
    }
}

/// What the kernels in this build run on. Of the tensor library's there is PTX; flash attention's are instructions.
fn build_target() -> Option<BuildTarget> {
    let target = BuildTarget::of_ptx(kernels::AFFINE.ptx());
    if cfg!(feature = "flash-attn") { target.map(BuildTarget::with_instructions) } else { target }
}
