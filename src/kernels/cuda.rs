//! NVIDIA's libraries, loaded when a GPU is opened: whether this machine has a GPU that this build can use, and why not.
//!
//! A build with the feature `cuda` links none of them ([`symbols`]), so it starts everywhere. Knows no tensors.

mod driver;
mod libraries;
#[cfg(feature = "cuda")]
mod symbols;
mod target;
mod unusable;

pub(crate) use driver::Gpu;
pub(crate) use target::BuildTarget;
pub(crate) use unusable::Unusable;

use driver::Driver;
use libraries::{Libraries, Library};
use std::sync::Mutex;

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
