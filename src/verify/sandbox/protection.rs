//! What a sandbox protects by, and why there is none.

use serde::Deserialize;

/// Why a sandbox cannot be opened or a run failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Python is missing.
    #[error("expected a python3 of at least 3.8 with ctypes on the path, got {0}")]
    NoPython(String),
    /// The machine cannot isolate.
    #[error(
        "code is checked only in isolation (namespaces as root or as a user with user namespaces, and seccomp), and a try \
         gave {0}; judge.allow_unsandboxed = true does without"
    )]
    NoIsolation(String),
    /// The sandbox itself failed, not the program.
    #[error("the sandbox failed: {0}")]
    Broken(String),
}

/// What a run is protected by, as it was measured in the place of the untrusted process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Protection {
    /// Its name.
    pub name: String,
    /// Whether it holds on this machine.
    pub holds: bool,
    /// Whether there is no sandbox without it.
    pub needed: bool,
    /// How it is done, or why it does not hold.
    pub detail: String,
}
