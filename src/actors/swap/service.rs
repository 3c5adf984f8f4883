//! What is in service: installing, and the registry, replay and learner that follow.

use super::candidate::Trial;
use super::request::Offer;
use super::state::SwapState;
use crate::actors::ask::{ask, ask_patiently};
use crate::actors::failure::{Failure, dependency_lost};
use crate::actors::on_disk::on_disk;
use crate::actors::publish::write_checkpoint;
use crate::actors::replay::{CriticChange, ReplayMsg};
use crate::device::{self, CriticWeights, MadeBy};
use crate::run::critics::{self, CriticRegistry, CriticState, LearnerAfterSwap};
use crate::run::events::{Event, SwapKind};
use crate::types::{CriticVersion, Label, SwapReason};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, RuntimeFlavor};

/// The pause before the registry is written again to a disk that fails.
const RETRY: Duration = Duration::from_secs(1);

/// How a critic enters service.
pub(super) struct Entry<'a> {
    pub(super) version: CriticVersion,
    pub(super) critic: Option<CriticWeights>,
    pub(super) made: MadeBy,
    pub(super) kind: SwapKind,
    pub(super) reason: SwapReason,
    pub(super) by: &'a str,
    pub(super) why: String,
}

impl SwapState {
    /// Puts a critic into service: device, registry, replay, event.
    pub(super) async fn enter(&mut self, entry: Entry<'_>) -> Result<(), Failure> {
        let Entry { version, critic, made, kind, reason, by, why } = entry;
        let context = self.context.clone();
        self.flush_scores().await?;
        let replaced = context.critics().serving();
        context.device.install(version, critic.clone(), made).await?;
        let before = match kind {
            SwapKind::Rollback => CriticState::RolledBack,
            SwapKind::Publication | SwapKind::Swap => CriticState::Retired,
        };
        self.record(|registry| registry.serve(version, by, &why, before)).await?;
        self.tell_replay(CriticChange::EnteredService { version, critic: critic.clone() }).await?;
        if replaced != version {
            self.before = (kind != SwapKind::Rollback).then_some(replaced);
        }
        self.forget_waiting(version, kind).await?;
        let before = self.before;
        self.record(|registry| registry.prune(context.config.versions_kept, before)).await?;
        self.windows.turn();
        if kind != SwapKind::Publication && context.config.learner == LearnerAfterSwap::Follow {
            self.follow(version, critic).await?;
        }
        if kind != SwapKind::Publication {
            context.events.emit(Event::CriticEntered { version, kind, reason, by: by.to_owned(), why });
        }
        Ok(())
    }

    /// Lets the learner go on from the critic in service.
    async fn follow(&self, version: CriticVersion, critic: Option<CriticWeights>) -> Result<(), Failure> {
        match self.context.device.adopt(critic).await {
            Ok(()) => {
                tracing::info!(
                    version = version.0,
                    "the learner goes on from the critic in service; Adam's moments are zero"
                );
                self.checkpoint_adopted().await
            }
            Err(device::Error::Learner(error)) => {
                tracing::warn!(version = version.0, %error, "the learner goes on from its own weights");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a checkpoint with what the learner goes on from: a resume goes on from there too.
    async fn checkpoint_adopted(&self) -> Result<(), Failure> {
        let (context, started) = (&self.context, Instant::now());
        let learner = context.device.snapshot().await?;
        let snapshot = ask_patiently(&context.replay, context.deadline, |reply| ReplayMsg::Snapshot { reply }).await;
        let Some(run_state) = snapshot else { return Err(dependency_lost("replay", context.deadline).await) };
        match write_checkpoint(context.checkpoints.clone(), &context.events, started, learner, run_state).await {
            Err(failure) if failure.is_of_disk() => {
                let until = "until the next checkpoint, a resume lets the learner go on from its earlier weights";
                tracing::error!(error = %failure, "the checkpoint was not written: {until}");
                Ok(())
            }
            written => written,
        }
    }

    /// The weights of a registered version.
    pub(super) async fn weights(
        &self,
        version: CriticVersion,
    ) -> Result<Result<Option<CriticWeights>, critics::Error>, Failure> {
        let context = self.context.clone();
        on_disk("reading a critic", move || context.stored(version)?.read()).await
    }

    /// Changes the registry; waits while the disk fails.
    pub(super) async fn record(
        &self,
        mut change: impl FnMut(&mut CriticRegistry) -> Result<(), critics::Error>,
    ) -> Result<(), Failure> {
        loop {
            match blocking(|| change(&mut self.context.registry())) {
                Err(error) if error.is_of_disk() => {
                    tracing::error!(%error, "the registry of critics was not written: swaps wait for the disk");
                }
                done => return Ok(done?),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Rejects a candidate.
    pub(super) async fn reject(
        &self,
        version: CriticVersion,
        reason: SwapReason,
        by: &str,
        why: &str,
    ) -> Result<(), Failure> {
        self.record(|registry| registry.change(version, CriticState::Rejected, reason.value(), why)).await?;
        self.context.events.emit(Event::CriticRejected { version, reason, by: by.to_owned(), why: why.to_owned() });
        Ok(())
    }

    /// Tells replay, which answers at once.
    pub(super) async fn tell_replay(&self, change: CriticChange) -> Result<(), Failure> {
        let context = &self.context;
        match ask(&context.replay, context.deadline, |reply| ReplayMsg::Critic { change, reply }).await {
            Ok(()) => Ok(()),
            Err(_) => Err(dependency_lost("replay", context.deadline).await),
        }
    }

    /// An offer's origin, and its version if it has one.
    pub(super) fn known(offer: &Offer) -> Option<CriticVersion> {
        match offer {
            Offer::Version(version) => Some(*version),
            Offer::Folder(_) => None,
        }
    }

    /// A trial is over: the next one may begin.
    pub(super) fn end_trial(&mut self) -> Option<Trial> {
        self.context.share.send_replace(None);
        self.trial.take()
    }
}

/// Does `work`, which waits for the disk or for who writes to it, where the runtime can spare the thread.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}
