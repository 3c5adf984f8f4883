//! Why the device refuses or fails a command.

use crate::{engine, learner};

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The thread is gone: it was stopped or it panicked.
    #[error("the device thread is gone")]
    Gone,
    /// The node runs without a learner.
    #[error("this device has no learner")]
    NoLearner,
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The learner refused or failed.
    #[error(transparent)]
    Learner(#[from] learner::Error),
    /// The model could not be laid out on the device.
    #[error(transparent)]
    Model(#[from] crate::transformer::Error),
    /// The thread could not be started.
    #[error("starting the device thread: {0}")]
    Spawn(#[from] std::io::Error),
}

impl Error {
    /// Whether as many critics are resident as the config allows.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Engine(engine::Error::VersionsFull { .. }))
    }
}

/// Whether what the engine or the learner failed with says that the GPU's context is lost: every later call of this process fails.
pub(crate) fn has_lost_gpu(text: &str) -> bool {
    const LOST: [&str; 14] = [
        "ASSERT",
        "CONTAINED",
        "ECC_UNCORRECTABLE",
        "EXTERNAL_DEVICE",
        "HARDWARE_STACK_ERROR",
        "ILLEGAL_ADDRESS",
        "ILLEGAL_INSTRUCTION",
        "INVALID_ADDRESS_SPACE",
        "INVALID_PC",
        "LAUNCH_FAILED",
        "LAUNCH_TIMEOUT",
        "MISALIGNED_ADDRESS",
        "NVLINK_UNCORRECTABLE",
        "TENSOR_MEMORY_LEAK",
    ];
    // A product is where an earlier kernel's fault may show first.
    text.contains("CUBLAS_STATUS_EXECUTION_FAILED")
        || text.split("CUDA_ERROR_").skip(1).any(|rest| LOST.iter().any(|name| rest.starts_with(name)))
}

#[cfg(test)]
mod tests {
    use super::has_lost_gpu;

    #[test]
    fn a_lost_context_is_told_from_an_error_that_passes() {
        assert!(has_lost_gpu("engine step: DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access\")"));
        assert!(!has_lost_gpu("engine step: DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")"));
        assert!(!has_lost_gpu("engine step: ILLEGAL_ADDRESS"));
        assert!(has_lost_gpu("CublasError(CUBLAS_STATUS_EXECUTION_FAILED)"));
    }
}
