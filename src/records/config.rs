//! The `episodes` section of the config.

use serde::{Deserialize, Serialize};

/// How much of the episodes is kept for people to look at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpisodesConfig {
    /// Episode records kept on disk, in MiB; up to twice as much while a file fills up. 0 keeps none.
    pub file_mib: u64,
}

/// The largest size of a file: larger ones take too long to read when a run is resumed.
const FILE_MIB_MAX: u64 = 4096;

impl EpisodesConfig {
    /// Complaints about its values.
    pub fn complaints(&self) -> Vec<String> {
        let too_large = || format!("episodes.file_mib: expected at most {FILE_MIB_MAX}, got {}", self.file_mib);
        (self.file_mib > FILE_MIB_MAX).then(too_large).into_iter().collect()
    }

    /// The size at which a file is full, in bytes; none if no records are kept.
    pub fn file_bytes_max(&self) -> Option<u64> {
        Some(self.file_mib.saturating_mul(1 << 20)).filter(|bytes| *bytes > 0)
    }
}
