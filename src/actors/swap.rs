//! The swap actor: the one place where critics are put into service and taken back.
//!
//! A critic that is offered passes a gate (files), a canary (a few prompts) and, if the config asks for it, a trial on a share
//! of the episodes; then it is installed between two steps. What the learner publishes comes the same way, with a glance
//! for a canary. A critic in service that earns less than what served before it is rolled back.
//!
//! Invariants: a critic is registered before it is loaded, and in service on the device before the registry and replay say so;
//! at most one candidate is on trial; nothing here waits for a trial: it runs beside, and its end is a message.

mod candidate;
mod going_back;
mod message;
mod publication;
mod request;
mod service;
mod state;
mod trial;
mod watch;
mod windows;

pub use message::SwapMsg;
pub use request::{Checks, Offer, Share, SwapError, SwapOutcome};
pub use state::{SwapContext, SwapState};

use super::failure::Failure;
use crate::types::{ActorKind, CriticVersion};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::JoinSet;
use windows::Windows;

/// The actor.
pub struct SwapActor;

impl Actor for SwapActor {
    type Msg = SwapMsg;
    type State = SwapState;
    type Arguments = SwapContext;

    async fn pre_start(
        &self,
        myself: ActorRef<SwapMsg>,
        context: SwapContext,
    ) -> Result<SwapState, ActorProcessingErr> {
        context.share.send_replace(None);
        let mut tasks = JoinSet::new();
        if !context.config.watch.is_empty() {
            tasks.spawn(watch::watch(PathBuf::from(&context.config.watch), myself.clone()));
        }
        let windows = Windows::new(context.config.rollback_groups);
        let context = Arc::new(context);
        let state = SwapState {
            myself,
            context,
            trials: 0,
            before: None,
            published: CriticVersion::BASE,
            trial: None,
            waiting: None,
            windows,
            glance: None,
            tasks,
        };
        state.reject_leftovers()?;
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<SwapMsg>,
        message: SwapMsg,
        state: &mut SwapState,
    ) -> Result<(), ActorProcessingErr> {
        while let Some(ended) = state.tasks.try_join_next() {
            ended.map_err(Failure::panicked)?;
        }
        let _job = state.context.events.jobs(ActorKind::Swap).begin(message.words(), "");
        match message {
            SwapMsg::Register { critic, step, reply } => drop(reply.send(state.register(critic, step).await?)),
            SwapMsg::Publish { version, critic, step, reply } => {
                let serves = state.publish(version, critic, step).await?;
                let _ = reply.send(serves);
            }
            SwapMsg::Swap { offer, checks, by, reply } => state.swap(offer, checks, by, Some(reply)).await?,
            SwapMsg::Rollback { to, by, reply } => drop(reply.send(state.rollback(to, &by).await?)),
            SwapMsg::Pin { version, by, reply } => drop(reply.send(state.pin(version, &by).await?)),
            SwapMsg::Evaluated { version, cu } => {
                state.record(|registry| registry.evaluated(version, cu)).await?;
            }
            SwapMsg::Scored { version, task, utility } => state.scored(version, &task, utility).await?,
            SwapMsg::Tried(trial, result) => state.tried(*trial, result).await?,
            SwapMsg::Found { path, reply } => {
                let (share, by) = (state.context.config.canary_share, candidate::WATCH.to_owned());
                state.swap(Offer::Folder(path), Checks { canary: true, share }, by, Some(reply)).await?;
            }
        }
        Ok(())
    }
}
