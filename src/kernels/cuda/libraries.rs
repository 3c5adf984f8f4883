//! CUDA's libraries as shared objects, loaded by name and never unloaded.

use libloading::os::unix;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The release of CUDA whose libraries a build uses.
pub(super) const CUDA_MAJOR: u32 = 13;

/// A library that a GPU needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Library {
    /// The driver, which comes with the GPU.
    Driver,
    /// Needed by [`Self::Blas`].
    BlasLt,
    /// Matrix products.
    Blas,
    /// Random numbers; the tensor library opens it with each device.
    Rand,
}

impl Library {
    /// Those that come with CUDA, in the order in which they need each other.
    pub(super) const BESIDE_DRIVER: [Self; 3] = [Self::BlasLt, Self::Blas, Self::Rand];

    /// Its file name.
    pub(super) const fn file(self) -> &'static str {
        match self {
            Self::Driver => "libcuda.so.1",
            Self::BlasLt => "libcublasLt.so.13",
            Self::Blas => "libcublas.so.13",
            Self::Rand => "libcurand.so.10",
        }
    }
}

/// The libraries that were loaded.
#[derive(Debug, Default)]
pub(super) struct Libraries(BTreeMap<Library, &'static unix::Library>);

impl Libraries {
    /// Loads `library`: from where the system looks, from `lib` beside the program, or from CUDA's own folder.
    pub(super) fn load(&mut self, library: Library) -> Result<&'static unix::Library, String> {
        if let Some(&loaded) = self.0.get(&library) {
            return Ok(loaded);
        }
        let named = open(library.file().into());
        let opened = named.or_else(|why| {
            let elsewhere =
                folders().into_iter().map(|folder| folder.join(library.file())).filter(|path| path.exists());
            // Where a file is there and cannot be loaded, that is what to say.
            elsewhere.map(open).reduce(|found, next| found.or(next)).unwrap_or(Err(why))
        })?;
        // For the life of the process: the functions found in it are kept.
        let kept: &'static unix::Library = Box::leak(Box::new(opened));
        self.0.insert(library, kept);
        Ok(kept)
    }

    /// A library that was loaded.
    #[cfg(feature = "cuda")]
    pub(super) fn loaded(&self, library: Library) -> Option<&'static unix::Library> {
        self.0.get(&library).copied()
    }
}

fn open(path: PathBuf) -> Result<unix::Library, String> {
    // SAFETY: these are NVIDIA's libraries by name, whose initialisers run in any thread.
    let opened = unsafe { unix::Library::open(Some(&path), unix::RTLD_LAZY | unix::RTLD_GLOBAL) };
    opened.map_err(|error| {
        // The system's own words follow.
        std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
    })
}

/// Where CUDA's libraries are besides the system's folders.
fn folders() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("lib")));
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let toolkits = toolkits.chain(std::iter::once(PathBuf::from("/usr/local/cuda")));
    beside.into_iter().chain(toolkits.flat_map(|root| [root.join("lib64"), root.join("lib")])).collect()
}
