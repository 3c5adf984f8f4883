//! What the learner publishes: registered, looked at, and put into service, or kept waiting.

use super::candidate::LEARNER;
use super::request::{Checks, Offer};
use super::service::Entry;
use super::state::{SwapState, Waiting};
use crate::actors::failure::Failure;
use crate::actors::on_disk::on_disk;
use crate::actors::replay::CriticChange;
use crate::device::{CriticWeights, MadeBy, Policy};
use crate::episode::canary::{Canary, CanaryError, Depth};
use crate::run::critics::{self, CriticState, NewCritic, Origin};
use crate::run::events::{Event, SwapKind};
use crate::telemetry::metrics;
use crate::types::{CriticVersion, SwapReason};
use std::time::Instant;

impl SwapState {
    /// Registers what the learner is about to publish.
    pub(super) async fn register(
        &self,
        critic: CriticWeights,
        step: u64,
    ) -> Result<Result<CriticVersion, critics::Error>, Failure> {
        let context = self.context.clone();
        let add = move || {
            let mut registry = context.registry();
            let parent = registry.critics().serving();
            let origin = Origin::Learner { step };
            registry.add(NewCritic { weights: &critic, parent, origin, by: "learner".to_owned() })
        };
        on_disk("registering a critic", add).await
    }

    /// Puts a publication into service, unless it does not pass the canary, the critic in service is pinned, or a candidate is
    /// on trial: then the newest publication waits.
    pub(super) async fn publish(
        &mut self,
        version: CriticVersion,
        critic: CriticWeights,
        step: u64,
    ) -> Result<bool, Failure> {
        // A message whose answer was late is sent again.
        if version <= self.published {
            return Ok(self.context.critics().serving() == version);
        }
        self.published = version;
        self.tell_replay(CriticChange::Published { version, step }).await?;
        let started = Instant::now();
        let passed = self.glance(version, &critic).await?;
        metrics::GLANCE_SECONDS.record(started.elapsed().as_secs_f64());
        if let Err(error) = passed {
            self.reject(version, SwapReason::Canary, "learner", &error.to_string()).await?;
            return Ok(false);
        }
        let is_free = self.trial.is_none() && self.context.critics().pinned().is_none();
        if is_free && self.context.config.canary_publications {
            self.try_publication(version).await?;
            return Ok(false);
        }
        if is_free {
            self.enter(self.publication(version, critic, step)).await?;
            self.context.events.emit(Event::Published { version, step });
            return Ok(true);
        }
        // It is loaded again when it is installed: what waits takes no room.
        self.context.device.unload(version).await?;
        if let Some(before) = self.waiting.replace(Waiting { version, critic, step }) {
            let why = format!("{version} was published while it waited");
            self.record(|registry| registry.change(before.version, CriticState::Retired, "learner", &why)).await?;
        }
        Ok(false)
    }

    /// Lets a publication pass what an operator's offer passes.
    async fn try_publication(&mut self, version: CriticVersion) -> Result<(), Failure> {
        let checks = Checks { canary: true, share: self.context.config.canary_share };
        self.swap(Offer::Version(version), checks, LEARNER.to_owned(), None).await
    }

    fn publication(&self, version: CriticVersion, critic: CriticWeights, step: u64) -> Entry<'static> {
        let why = format!("published after step {step}");
        Entry {
            version,
            critic: Some(critic),
            made: MadeBy::Learner,
            kind: SwapKind::Publication,
            reason: SwapReason::Learner,
            by: "learner",
            why,
        }
    }

    /// The canary of a publication: loads it and looks at the logits of one prompt.
    async fn glance(
        &mut self,
        version: CriticVersion,
        critic: &CriticWeights,
    ) -> Result<Result<(), CanaryError>, Failure> {
        let context = self.context.clone();
        let (device, canary) = (&context.device, &context.canary);
        let serving = context.critics().serving();
        if self.glance.as_ref().is_none_or(|(of, _)| *of != serving) {
            match canary.distributions(device, Policy::Serving, Depth::Glance).await {
                Ok(incumbent) => self.glance = Some((serving, incumbent)),
                Err(CanaryError::Device(error)) => return Err(error.into()),
                // A critic in service that computes nothing is no measure.
                Err(_) => self.glance = None,
            }
        }
        match device.load(version, Some(critic.clone())).await {
            Ok(()) => {}
            Err(error) if error.is_full() => {
                tracing::warn!(version = version.0, "no room for the canary of a publication (engine.versions_max)");
                return Ok(Ok(()));
            }
            Err(error) => return Err(error.into()),
        }
        let candidate = canary.distributions(device, Policy::Version(version), Depth::Glance).await;
        let passed = match (candidate, &self.glance) {
            (Err(CanaryError::Device(error)), _) => return Err(error.into()),
            (Err(error), _) => Err(error),
            (Ok(candidate), None) => Ok(candidate),
            (Ok(candidate), Some((_, incumbent))) => {
                Canary::compare(&candidate, incumbent, context.config.canary_kl_max).map(|_| candidate)
            }
        };
        Ok(match passed {
            Ok(candidate) => {
                self.glance = Some((version, candidate));
                Ok(())
            }
            Err(error) => {
                device.unload(version).await?;
                Err(error)
            }
        })
    }

    /// The critic `version` entered service: a publication that waits is forgotten if that is the one, or makes it old, or if an
    /// operator went back.
    pub(super) async fn forget_waiting(&mut self, version: CriticVersion, kind: SwapKind) -> Result<(), Failure> {
        let is_over = |waiting: &mut Waiting| waiting.version == version || kind != SwapKind::Swap;
        let Some(waiting) = self.waiting.take_if(is_over).filter(|waiting| waiting.version != version) else {
            return Ok(());
        };
        let why = format!("{version} entered service while it waited");
        self.record(|registry| registry.change(waiting.version, CriticState::Retired, "node", &why)).await
    }

    /// Puts the publication that waits into service, if there is one and nothing keeps it waiting.
    pub(super) async fn serve_waiting(&mut self) -> Result<(), Failure> {
        let is_pinned = self.context.critics().pinned().is_some();
        if is_pinned || self.trial.is_some() {
            return Ok(());
        }
        match self.waiting.take() {
            Some(Waiting { version, .. }) if self.context.config.canary_publications => {
                self.try_publication(version).await
            }
            // The learner may have taken steps since: it no longer has exactly these weights.
            Some(Waiting { version, critic, step }) => {
                let entry = Entry { made: MadeBy::Other, ..self.publication(version, critic, step) };
                self.enter(entry).await?;
                self.context.events.emit(Event::Published { version, step });
                Ok(())
            }
            None => Ok(()),
        }
    }
}
