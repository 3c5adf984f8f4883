//! What a build's kernels run on, as their PTX states it.

use std::fmt;

/// The driver and the GPUs that a build is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BuildTarget {
    /// The oldest CUDA that reads the kernels, major and minor.
    pub(crate) cuda: (u32, u32),
    /// Compute capability, major and minor.
    capability: (u32, u32),
    /// Whether they run on that capability alone, not on newer ones (`sm_90a`).
    exact: bool,
}

impl BuildTarget {
    /// Reads it from `.version` and `.target` of a module; `None` where the text has none, so is no PTX.
    pub(crate) fn of_ptx(ptx: &str) -> Option<Self> {
        let directive = |name: &str| ptx.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
        let (major, minor) = directive(".version")?.split_once('.')?;
        let architecture = directive(".target")?.split(',').next()?.trim().strip_prefix("sm_")?;
        let digits = architecture.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let capability: u32 = digits.parse().ok()?;
        // PTX 7.x came with CUDA 11, 8.x with CUDA 12, 9.x with CUDA 13.
        let cuda = (major.parse::<u32>().ok()?.checked_add(4)?, minor.trim().parse().ok()?);
        Some(Self { cuda, capability: (capability / 10, capability % 10), exact: digits != architecture })
    }

    /// Whether its kernels run on a GPU of this compute capability: PTX is compiled for newer ones by the driver.
    pub(super) fn runs_on(&self, capability: (u32, u32)) -> bool {
        if self.exact { capability == self.capability } else { capability >= self.capability }
    }
}

impl fmt::Display for BuildTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.capability;
        write!(f, "{major}.{minor}{}", if self.exact { " alone" } else { " or newer" })
    }
}
