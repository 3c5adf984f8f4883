//! Why a GPU cannot be used, each reason as one line that says what to do.

use super::libraries::CUDA_MAJOR;
use super::target::BuildTarget;

/// Why no GPU can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    /// The driver's library cannot be loaded.
    #[error("this machine has no NVIDIA driver ({why})")]
    NoDriver {
        /// What the system says.
        why: String,
    },
    /// The driver is older than the build.
    #[error(
        "the NVIDIA driver supports CUDA {}.{}, this build needs {}.{}: update the driver, or build with an older CUDA toolkit",
        .got.0, .got.1, .needed.0, .needed.1
    )]
    OldDriver {
        /// The newest CUDA that the driver supports, major and minor.
        got: (u32, u32),
        /// The CUDA of the build.
        needed: (u32, u32),
    },
    /// The driver sees no GPU.
    #[error("the NVIDIA driver finds no GPU; `nvidia-smi -L` lists those it has, CUDA_VISIBLE_DEVICES those it shows")]
    NoDevice,
    /// There is no GPU of this number.
    #[error("there is no GPU of that number, expected a number less than {count}")]
    NoSuchDevice {
        /// The number of GPUs.
        count: u32,
    },
    /// The build's kernels do not run on this GPU.
    #[error(
        "{gpu} has compute capability {}.{}, this build is for {needed}: build with CUDA_COMPUTE_CAP={}{}",
        .got.0, .got.1, .got.0, .got.1
    )]
    Capability {
        /// The GPU's name.
        gpu: String,
        /// Its compute capability, major and minor.
        got: (u32, u32),
        /// What the build is for.
        needed: BuildTarget,
    },
    /// A library beside the driver cannot be loaded.
    #[error(
        "{file} cannot be loaded ({why}): install CUDA {}'s libraries, or name their folder in LD_LIBRARY_PATH or CUDA_HOME",
        CUDA_MAJOR
    )]
    NoLibrary {
        /// Its file name.
        file: &'static str,
        /// What the system says.
        why: String,
    },
    /// The driver fails.
    #[error("the NVIDIA driver fails: {call} gives {code}")]
    Driver {
        /// The function.
        call: &'static str,
        /// Its error, a `CUresult`.
        code: i32,
    },
}
