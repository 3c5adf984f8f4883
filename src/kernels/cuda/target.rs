//! What a build's kernels run on, as their PTX states it.

use std::fmt;

/// The driver and the GPUs that a build is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BuildTarget {
    /// The oldest CUDA that reads the kernels, major and minor.
    pub(crate) cuda: (u32, u32),
    /// Compute capability, major and minor.
    capability: (u32, u32),
    reach: Reach,
}

/// The GPUs that kernels for a compute capability run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Those of that capability alone (`sm_90a`).
    Exact,
    /// Those of its generation, from that capability on: compiled to instructions.
    Generation,
    /// All newer ones too: PTX, which the driver compiles.
    Newer,
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
        let reach = if digits == architecture { Reach::Newer } else { Reach::Exact };
        Some(Self { cuda, capability: (capability / 10, capability % 10), reach })
    }

    /// The target of a build that has kernels for the same capability compiled to instructions as well.
    #[cfg_attr(not(feature = "flash-attn"), allow(dead_code, reason = "flash attention's kernels are"))]
    pub(crate) fn with_instructions(self) -> Self {
        let reach = if self.reach == Reach::Newer { Reach::Generation } else { self.reach };
        Self { reach, ..self }
    }

    /// Whether its kernels run on a GPU of this compute capability.
    pub(super) fn runs_on(&self, capability: (u32, u32)) -> bool {
        match self.reach {
            Reach::Exact => capability == self.capability,
            Reach::Generation => capability.0 == self.capability.0 && capability >= self.capability,
            Reach::Newer => capability >= self.capability,
        }
    }
}

impl fmt::Display for BuildTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.capability;
        match self.reach {
            Reach::Exact => write!(f, "{major}.{minor} alone"),
            Reach::Generation => write!(f, "{major}.{minor} to {major}.9"),
            Reach::Newer => write!(f, "{major}.{minor} or newer"),
        }
    }
}
