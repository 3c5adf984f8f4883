//! Commands to the device thread, each with its reply channel.

use super::error::Error;
use super::stream::StreamSender;
use crate::engine::{self, Holder};
use crate::learner::{self, LearnerConfig};
use crate::transformer::decode::PackedAdapter;
use crate::transformer::full_weights::CriticWeights;
use crate::types::{Completion, CriticVersion, CritiqueGroup};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Which engine a handle uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EngineSlot {
    /// The node's own.
    Own,
    /// The judge's, or the node's own if the judge has none.
    Judge,
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

pub(super) enum Command {
    Write(EngineSlot, engine::Request, Reply<Vec<Completion>>),
    Stream(EngineSlot, engine::Request, StreamSender, Reply<()>),
    WriteAs(CriticVersion, CriticWeights, engine::Request, Reply<Vec<Completion>>),
    ScoreCandidates(EngineSlot, engine::Policy, Vec<u32>, Vec<u32>, Reply<Vec<Completion>>),
    Learn(u64, Vec<Arc<CritiqueGroup>>, Reply<learner::Report>),
    Snapshot(Reply<learner::State>),
    Install(CriticVersion, Option<PendingInstall>, MadeBy, Reply<()>),
    Configure(Box<LearnerConfig>, Reply<()>),
    Adopt(Option<CriticWeights>, Reply<()>),
    Load(CriticVersion, Option<PendingInstall>, Holder, Reply<()>),
    Unload(CriticVersion, Reply<bool>),
    SetShare(f64, Reply<()>),
    Abandon(Reply<()>),
    #[cfg(feature = "faults")]
    Fault(String),
    #[cfg(feature = "faults")]
    Stall(std::time::Duration),
    Stop,
}

/// Who made a critic that is put into service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadeBy {
    /// The learner: it has exactly these weights.
    Learner,
    /// Somebody else, or the learner earlier.
    Other,
}

/// A critic that is about to be installed.
pub(super) enum PendingInstall {
    /// The thread packs it, since it owns the device.
    Plain(CriticWeights),
    /// Packed already.
    Packed(Arc<PackedAdapter>),
}

/// A command with the time it was sent and its permit.
pub(super) struct Envelope {
    pub(super) command: Command,
    pub(super) sent: Instant,
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}
