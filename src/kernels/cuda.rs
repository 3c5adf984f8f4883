//! NVIDIA's libraries, loaded when a GPU is opened: whether this machine has a GPU that this build can use, and why not.
//!
//! A build with the feature `cuda` links none of them ([`symbols`]), so it starts everywhere. Knows no tensors.

mod driver;
mod libraries;
#[cfg(feature = "cuda")]
mod symbols;
mod target;

pub(crate) use driver::Gpu;
pub(crate) use target::BuildTarget;

use driver::Driver;
use libraries::{Libraries, Library};
use std::sync::Mutex;

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
    #[error("there are {count} GPUs, expected a number less than that")]
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
        libraries::CUDA_MAJOR
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

/// Loads CUDA's libraries, and checks that GPU `number` can run a build for `target`. Everything is loaded at most once; after
/// an error it is tried again.
///
/// # Errors
/// Why the GPU cannot be used.
pub(crate) fn prepare(number: usize, target: Option<BuildTarget>) -> Result<Gpu, Unusable> {
    static LOADED: Mutex<Option<Libraries>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let libraries = loaded.get_or_insert_with(Libraries::default);
    let driver = libraries.load(Library::Driver).map_err(|why| Unusable::NoDriver { why })?;
    let gpu = check(&Driver::of(driver)?, number, target)?;
    for library in Library::BESIDE_DRIVER {
        libraries.load(library).map_err(|why| Unusable::NoLibrary { file: library.file(), why })?;
    }
    #[cfg(feature = "cuda")]
    symbols::connect(libraries);
    Ok(gpu)
}

/// Checks that GPU `number` of `driver` runs a build for `target`.
fn check(driver: &Driver, number: usize, target: Option<BuildTarget>) -> Result<Gpu, Unusable> {
    let version = driver.version()?;
    if let Some(needed) = target.map(|target| target.cuda).filter(|needed| version < *needed) {
        return Err(Unusable::OldDriver { got: version, needed });
    }
    let count = driver.start()?;
    let number = u32::try_from(number).ok().filter(|number| *number < count);
    let gpu = driver.gpu(number.ok_or(Unusable::NoSuchDevice { count })?)?;
    match target.filter(|target| !target.runs_on(gpu.capability)) {
        Some(needed) => Err(Unusable::Capability { gpu: gpu.name, got: gpu.capability, needed }),
        None => Ok(gpu),
    }
}

#[cfg(test)]
mod tests;
