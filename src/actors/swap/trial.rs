//! The trial of a candidate: gate, canary, and a share of the episodes.

use super::candidate::Trial;
use super::message::SwapMsg;
use super::request::{Checks, Offer, Share, SwapError, SwapOutcome};
use super::service::Entry;
use super::state::{SwapContext, SwapState};
use crate::actors::ask::Reply;
use crate::actors::failure::Failure;
use crate::actors::replay::CriticChange;
use crate::checkpoint;
use crate::device::{CriticWeights, MadeBy, Policy};
use crate::episode::canary::{Canary, CanaryError, Depth};
use crate::run::critics::{Comparison, CriticState, NewCritic, Origin};
use crate::run::events::{Event, SwapKind};
use crate::types::{ActorKind, CriticVersion, SwapReason};
use std::sync::Arc;

/// Why a candidate whose trial was under way is rejected when an operator decides otherwise.
const SUPERSEDED: &str = "another critic was asked for during its trial";

impl SwapState {
    /// Begins the trial of an offer; its end is a message.
    pub(super) async fn swap(
        &mut self,
        offer: Offer,
        checks: Checks,
        by: String,
        reply: Option<Reply<Result<SwapOutcome, SwapError>>>,
    ) -> Result<(), Failure> {
        let version = Self::known(&offer).unwrap_or_default();
        self.trials += 1;
        let (number, groups) = (self.trials, self.context.config.canary_groups);
        let jobs = self.context.events.jobs(ActorKind::Swap);
        let mut trial = Trial::new(number, version, checks, by, reply, groups).noted(jobs);
        if let Some(other) = &self.trial {
            trial.answer(Err(SwapError::Busy(other.version)));
            return Ok(());
        }
        let pinned = self.context.critics().pinned();
        if let Some(pinned) = pinned.filter(|pinned| Some(*pinned) != Self::known(&offer)) {
            trial.answer(Err(SwapError::Pinned(pinned)));
            return Ok(());
        }
        // Its place is taken until the end of the canary: a second offer is refused meanwhile.
        self.trial =
            Some(Trial::new(number, version, Checks { canary: false, share: 0.0 }, String::new(), None, groups));
        let (context, myself) = (self.context.clone(), self.myself.clone());
        self.tasks.spawn(async move {
            let tried = try_out(&context, &offer, &mut trial).await;
            // If the actor is gone, so is the asker's answer.
            let _ = myself.send_message(SwapMsg::Tried(Box::new(trial), tried));
        });
        Ok(())
    }

    /// The canary of a candidate has ended.
    pub(super) async fn tried(&mut self, mut trial: Trial, result: Result<(), SwapError>) -> Result<(), Failure> {
        let version = trial.version;
        let is_wanted = self.trial.as_ref().is_some_and(|under_way| under_way.number == trial.number);
        let result = match (is_wanted, result) {
            (false, Ok(())) => Err(SwapError::Rejected { version, why: SUPERSEDED.to_owned() }),
            (_, result) => result,
        };
        if is_wanted {
            drop(self.end_trial());
        }
        if let Err(error) = result {
            if let SwapError::Rejected { version, why } = &error {
                let reason = if is_wanted { SwapReason::Canary } else { SwapReason::Operator };
                self.context.device.unload(*version).await?;
                self.reject(*version, reason, &trial.by, why).await?;
            } else {
                self.context.events.emit(Event::CriticRefused { by: trial.by.clone(), why: error.to_string() });
            }
            trial.answer(Err(error));
            return self.serve_waiting().await;
        }
        if version == self.context.critics().serving() {
            let why = "it was in service already".to_owned();
            trial.answer(Ok(SwapOutcome { version, state: CriticState::Serving, why }));
            return self.serve_waiting().await;
        }
        if trial.checks.share > 0.0 {
            return self.begin_share(trial).await;
        }
        let (reason, why) = (trial.offered_by(), format!("{} offered it", trial.by));
        self.promote(&trial, reason, why.clone()).await?;
        trial.answer(Ok(SwapOutcome { version, state: CriticState::Serving, why }));
        self.serve_waiting().await
    }

    /// Another critic is asked for: the candidate on trial is rejected, unless it is `wanted`.
    pub(super) async fn supersede(&mut self, wanted: CriticVersion) -> Result<(), Failure> {
        // One whose canary is under way is rejected at its end.
        let Some(trial) = self.end_trial().filter(|trial| trial.checks.share > 0.0) else { return Ok(()) };
        if trial.version == wanted {
            return Ok(());
        }
        self.context.device.unload(trial.version).await?;
        self.reject(trial.version, SwapReason::Operator, &trial.by, SUPERSEDED).await
    }

    /// Lets the candidate write the critiques of a share of the episodes.
    async fn begin_share(&mut self, mut trial: Trial) -> Result<(), Failure> {
        let (version, share) = (trial.version, trial.checks.share);
        let why = format!("writes the critiques of {share} of the episodes, for {} groups", trial.groups);
        self.record(|registry| registry.change(version, CriticState::Canary, &trial.by, &why)).await?;
        self.tell_replay(CriticChange::EnteredTrial { version }).await?;
        self.context.share.send_replace(Some(Share { version, share }));
        self.context.events.emit(Event::TrialBegan { version });
        // Whoever asked sees the trial once there is an answer.
        trial.answer(Ok(SwapOutcome { version, state: CriticState::Canary, why }));
        self.trial = Some(trial);
        Ok(())
    }

    /// The trial has its groups: the candidate goes into service unless it is the worse one.
    pub(super) async fn decide(&mut self, comparison: Comparison) -> Result<(), Failure> {
        let Some(trial) = self.end_trial() else { return Ok(()) };
        self.flush_scores().await?;
        let Comparison { difference, lower } = comparison;
        let why = format!(
            "{} pairs of groups: its utility less the incumbent's is {difference:+.3}, lower with confidence {lower:.3}",
            trial.pairs.differences.len()
        );
        if lower >= self.context.config.canary_confidence {
            self.context.device.unload(trial.version).await?;
            self.reject(trial.version, SwapReason::Trial, &trial.by, &why).await?;
        } else {
            self.promote(&trial, SwapReason::Trial, why).await?;
        }
        self.serve_waiting().await
    }

    async fn promote(&mut self, trial: &Trial, reason: SwapReason, why: String) -> Result<(), Failure> {
        let (version, critic) = (trial.version, trial.critic.clone());
        let (made, kind, by) = (MadeBy::Other, SwapKind::Swap, trial.by.as_str());
        self.enter(Entry { version, critic, made, kind, reason, by, why }).await
    }
}

/// Gate and canary of an offer. The device goes on meanwhile.
async fn try_out(context: &Arc<SwapContext>, offer: &Offer, trial: &mut Trial) -> Result<(), SwapError> {
    let (gate, offer, by) = (context.clone(), offer.clone(), trial.by.clone());
    let passed = tokio::task::spawn_blocking(move || pass_gate(&gate, &offer, by)).await;
    let (version, critic) = passed.map_err(|panic| SwapError::Refused(panic.to_string()))??;
    (trial.version, trial.critic) = (version, critic.clone());
    let rejected = |error: &dyn std::fmt::Display| SwapError::Rejected { version, why: error.to_string() };
    let serving = context.critics().serving();
    if serving == version {
        return Ok(());
    }
    context.device.load(version, critic).await.map_err(|error| rejected(&error))?;
    if !trial.checks.canary {
        return Ok(());
    }
    pass_canary(context, version).await.map_err(|error| rejected(&error))?;
    pass_eval(context, version).await.map_err(|why| rejected(&why))
}

/// The evaluation of an operator's offer beside the critic in service, if there is one; else why it does not pass.
async fn pass_eval(context: &SwapContext, version: CriticVersion) -> Result<(), String> {
    let Some((eval, models)) = &context.eval else { return Ok(()) };
    let differences = eval.differences(models.clone(), context.device.clone(), version).await;
    let differences = differences.map_err(|error| error.to_string())?;
    match Comparison::paired(&differences) {
        Some(Comparison { difference, lower }) if lower >= context.config.canary_confidence => Err(format!(
            "on {} held-out prompts its utility less the incumbent's is {difference:+.3}, lower with confidence {lower:.3}",
            differences.len()
        )),
        _ => Ok(()),
    }
}

/// The gate: reads the files and registers what they hold.
fn pass_gate(
    context: &SwapContext,
    offer: &Offer,
    by: String,
) -> Result<(CriticVersion, Option<CriticWeights>), SwapError> {
    let path = match offer {
        Offer::Version(version) => {
            return Ok((*version, context.stored(*version)?.read()?));
        }
        Offer::Folder(path) => path,
    };
    // Read without the registry's lock: it may take seconds.
    let weights = checkpoint::read_offer(path, &context.checkpoints.spec, &context.base)
        .map_err(|error| SwapError::Refused(error.to_string()))?;
    let mut registry = context.registry();
    let (parent, origin) = (registry.critics().serving(), Origin::Folder { path: path.clone() });
    let version = registry.add(NewCritic { weights: &weights, parent, origin, by })?;
    Ok((version, Some(weights)))
}

/// The canary of an operator's offer: all prompts, and texts.
async fn pass_canary(context: &SwapContext, version: CriticVersion) -> Result<(), CanaryError> {
    let SwapContext { device, canary, config, .. } = context;
    let candidate = canary.distributions(device, Policy::Version(version), Depth::All).await?;
    match canary.distributions(device, Policy::Serving, Depth::All).await {
        Ok(incumbent) => drop(Canary::compare(&candidate, &incumbent, config.canary_kl_max)?),
        Err(CanaryError::Device(error)) => return Err(error.into()),
        // A critic in service that computes nothing is no measure.
        Err(_) => {}
    }
    canary.texts(device, Policy::Version(version), config.canary_texts).await
}
