//! Going back: on request, by a pin, and by itself when the critic in service earns less than what served before it.

use super::candidate::Pairs;
use super::request::{SwapError, SwapOutcome};
use super::service::Entry;
use super::state::SwapState;
use crate::actors::failure::Failure;
use crate::device::MadeBy;
use crate::run::critics::{CriticState, Scores};
use crate::run::events::{Event, SwapKind};
use crate::types::{CriticVersion, SwapReason};

impl SwapState {
    /// Takes the critic in service back.
    pub(super) async fn rollback(
        &mut self,
        to: Option<CriticVersion>,
        by: &str,
    ) -> Result<Result<SwapOutcome, SwapError>, Failure> {
        let target = {
            let critics = self.context.critics();
            let serving = critics.serving();
            let parent = critics.entry(serving).filter(|_| serving != CriticVersion::BASE);
            match to.or(self.before).or(parent.map(|entry| entry.parent)) {
                None => return Ok(Err(SwapError::NoParent(serving))),
                Some(target) => target,
            }
        };
        let why = "asked for".to_owned();
        self.go_back(target, SwapReason::Operator, by, why).await
    }

    async fn go_back(
        &mut self,
        version: CriticVersion,
        reason: SwapReason,
        by: &str,
        why: String,
    ) -> Result<Result<SwapOutcome, SwapError>, Failure> {
        let critic = match self.weights(version).await? {
            Ok(critic) => critic,
            Err(error) => return Ok(Err(error.into())),
        };
        match reason {
            // The candidate is compared with what serves from now on.
            SwapReason::Utility => self.trial.iter_mut().for_each(|trial| trial.pairs = Pairs::default()),
            _ => self.supersede(version).await?,
        }
        if self.context.critics().pinned().is_some_and(|pinned| pinned != version) {
            // Who goes back no longer wants what was pinned.
            self.record(|registry| registry.pin(None, by)).await?;
        }
        let (made, kind) = (MadeBy::Other, SwapKind::Rollback);
        let entry = Entry { version, critic, made, kind, reason, by, why: why.clone() };
        self.enter(entry).await?;
        self.windows.cooldown = self.context.config.rollback_cooldown_groups;
        Ok(Ok(SwapOutcome { version, state: CriticState::Serving, why }))
    }

    /// Pins a version and puts it into service, or lets the learner's newest publication serve again.
    pub(super) async fn pin(
        &mut self,
        version: Option<CriticVersion>,
        by: &str,
    ) -> Result<Result<SwapOutcome, SwapError>, Failure> {
        let serving = self.context.critics().serving();
        let Some(version) = version else {
            self.record(|registry| registry.pin(None, by)).await?;
            self.context.events.emit(Event::Controlled { what: "unpinned".to_owned(), by: by.to_owned() });
            self.serve_waiting().await?;
            let version = self.context.critics().serving();
            let why = "the learner's publications serve again".to_owned();
            return Ok(Ok(SwapOutcome { version, state: CriticState::Serving, why }));
        };
        self.supersede(version).await?;
        if version != serving {
            let critic = match self.weights(version).await? {
                Ok(critic) => critic,
                Err(error) => return Ok(Err(error.into())),
            };
            let (made, kind, reason, why) = (MadeBy::Other, SwapKind::Swap, SwapReason::Operator, "pinned".to_owned());
            self.enter(Entry { version, critic, made, kind, reason, by, why }).await?;
        }
        self.record(|registry| registry.pin(Some(version), by)).await?;
        self.context.events.emit(Event::Controlled { what: format!("pinned {version}"), by: by.to_owned() });
        Ok(Ok(SwapOutcome { version, state: CriticState::Serving, why: "pinned".to_owned() }))
    }

    /// Counts a scored group; ends the trial or rolls back if that decides it.
    pub(super) async fn scored(&mut self, version: CriticVersion, task: &str, utility: f64) -> Result<(), Failure> {
        let known = || self.context.critics().entry(version).map_or(Scores::default(), |entry| entry.scores);
        self.windows.scores.entry(version).or_insert_with(known).add(utility);
        if let Some(decided) = self.trial.as_mut().and_then(|trial| trial.scored(version, task, utility)) {
            return self.decide(decided).await;
        }
        let serving = self.context.critics().serving();
        if version != serving {
            return Ok(());
        }
        self.windows.add(utility);
        let config = self.context.config.clone();
        let look = self.windows.look(config.rollback_margin, config.canary_confidence);
        let Some(look) = look.filter(|look| look.is_worse) else { return Ok(()) };
        let critics = self.context.critics();
        // What is pinned stays until it is unpinned.
        if critics.pinned().is_some() {
            return Ok(());
        }
        let parent = self.before.or(critics.entry(serving).map(|entry| entry.parent));
        let Some(parent) = parent.filter(|parent| *parent != serving) else { return Ok(()) };
        let why = format!(
            "its utility over {} groups is {:.3} below that of what served before it, with confidence {:.3}",
            config.rollback_groups, -look.difference, look.lower
        );
        if let Err(error) = self.go_back(parent, SwapReason::Utility, "rollback", why).await? {
            tracing::warn!(%error, "the critic in service was not rolled back");
            self.windows.cooldown = config.rollback_cooldown_groups;
        }
        Ok(())
    }

    /// Writes what critics have earned since the last time.
    pub(super) async fn flush_scores(&self) -> Result<(), Failure> {
        for (version, scores) in &self.windows.scores {
            self.record(|registry| registry.scored(*version, *scores)).await?;
        }
        Ok(())
    }
}
