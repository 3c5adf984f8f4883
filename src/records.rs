//! Episode records: the whole tree of each episode on disk, for people to look at. The run itself never reads them.
//!
//! A run appends one line of JSON for each episode that ends, in a thread of its own and at most as many bytes as the config
//! allows. Readers find records by an index in memory, which holds what lists show and where each record is. Knows no actor,
//! no model and no listener.
//!
//! Invariants: what goes wrong here is logged and counted, and costs the run nothing but the record; of an episode that was
//! run again, only the last record is seen; only the last line of a file can be torn, and readers skip it.

mod config;
mod error;
mod filter;
mod index;
mod record;
mod recorder;
mod store;
mod summary;

pub use config::EpisodesConfig;
pub use error::{Error, Result};
pub use filter::{Filter, TextPattern};
pub use record::{CritiqueRecord, EARLIER_FILE, Ending, EpisodeRecord, FILE, PromptRecord, RefinementRecord};
pub use recorder::{EpisodeRecorder, SplitTokens};
pub use store::{EpisodeStore, Page, Span};
pub use summary::{CritiqueSummary, EpisodeSummary};

use std::io::ErrorKind;
use std::path::Path;

/// Whether the run in the directory `run` has records.
///
/// # Errors
/// If the system does not say.
pub fn is_recorded(run: &Path) -> Result<bool> {
    let has = |name| {
        let path = run.join(name);
        match std::fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len() > 0),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io(&path)(error)),
        }
    };
    Ok(has(FILE)? || has(EARLIER_FILE)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
