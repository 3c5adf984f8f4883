//! How a node is started, besides its config.

use crate::episode::judge::Compare;
use crate::run::events::EventBus;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// How a node is started, besides its config.
#[derive(Clone, Default)]
pub struct Options {
    /// Resume from the newest whole checkpoint of the run directory.
    pub resume: bool,
    /// Stop after this many learner steps in all.
    pub learner_steps: Option<u64>,
    /// Judge with this instead of the config's judge.
    pub judge: Option<Arc<Compare>>,
    /// The request to stop; it may come before the node is up.
    pub stop: CancellationToken,
    /// Where events go; a new bus if none is given.
    pub events: Option<EventBus>,
}
