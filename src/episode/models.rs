//! The models of all roles: prompts and sampling of each role, the local models, and clients of remote servers.
//!
//! Loaded once and shared for the lifetime of a node or of an evaluation. Knows no episode and no learner.

use super::judge::Judges;
use super::observer;
use super::sampling::{PolicyRef, SamplingClient};
use crate::device::{self, Device, JudgeSetup, LearnerSetup};
use crate::engine::{EngineConfig, StepCost, sampler::SamplingConfig};
use crate::remote::Client;
use crate::roles::{critic::Critic, generator::Generator, refiner::Refiner};
use crate::run::events::EventBus;
use crate::telemetry::metrics::Role;
use crate::transformer::{full_weights::CriticWeights, load::Loaded};
use crate::types::{CriticVersion, Origin};
use std::sync::Arc;
use std::time::Duration;

/// A role's prompts and sampling.
pub struct RoleConfig<R> {
    /// Renders its conversations.
    pub role: Arc<R>,
    /// Its sampling parameters.
    pub sampling: SamplingConfig,
}

/// Clients of remote servers that replace local models.
#[derive(Default)]
pub struct Remotes {
    /// For generator and refiner.
    pub generator: Option<Arc<Client>>,
    /// For the judge.
    pub judge: Option<Arc<Client>>,
}

/// The models of all roles.
pub struct Models {
    /// Base weights, tokenizer and chat template.
    pub model: Loaded,
    /// The engine's limits.
    pub engine: EngineConfig,
    /// The generator.
    pub generator: RoleConfig<Generator>,
    /// The critic.
    pub critic: RoleConfig<Critic>,
    /// The refiner.
    pub refiner: RoleConfig<Refiner>,
    /// The judges of refinements and of critiques.
    pub judges: Judges,
    /// The sampling of a judge that is a model.
    pub judging: SamplingConfig,
    /// Remote servers that replace local models.
    pub remotes: Remotes,
    /// The judge's own model and its engine's limits, if it has one.
    pub judge_model: Option<(Loaded, EngineConfig)>,
    /// Deadline of one request to a role.
    pub deadline: Duration,
    /// Receives events.
    pub events: EventBus,
}

impl Models {
    /// The setup of a device thread for these models, serving the critic `served` as `version`.
    pub(crate) fn setup(
        &self,
        learner: Option<LearnerSetup>,
        version: CriticVersion,
        served: Option<CriticWeights>,
    ) -> device::Setup {
        let lora = learner.as_ref().map(|learner| &learner.config.lora);
        let cost = StepCost::new(&self.model.transformer, self.engine.kv, lora);
        let judge = self.judge_model.as_ref().map(|(model, engine)| JudgeSetup {
            model: model.transformer.clone(),
            tokenizer: model.tokenizer.clone(),
            engine: engine.clone(),
        });
        device::Setup {
            model: self.model.transformer.clone(),
            tokenizer: self.model.tokenizer.clone(),
            engine: self.engine.clone(),
            judge,
            learner,
            version,
            served,
            observer: observer::observer(self.events.clone(), cost),
        }
    }

    /// The sampling client of `role`.
    pub(crate) fn sampler(&self, role: Role, device: &Device) -> SamplingClient {
        let sampling = match role {
            Role::Generator => &self.generator.sampling,
            Role::Critic => &self.critic.sampling,
            Role::Refiner => &self.refiner.sampling,
            Role::Judge => &self.judging,
        };
        let (model, device) = match (role, &self.judge_model) {
            (Role::Judge, Some((model, _))) => (model, device.for_judge()),
            _ => (&self.model, device.clone()),
        };
        let remote = match role {
            Role::Generator | Role::Refiner => &self.remotes.generator,
            Role::Judge => &self.remotes.judge,
            Role::Critic => &None,
        };
        SamplingClient {
            role,
            policy: if role == Role::Critic { PolicyRef::Serving } else { PolicyRef::Base },
            remote: remote.clone(),
            sampling: sampling.clone(),
            deadline: self.deadline,
            device,
            template: model.template.clone(),
            tokenizer: model.tokenizer.clone(),
            events: self.events.clone(),
            origin: Origin::Rollout,
        }
    }
}
