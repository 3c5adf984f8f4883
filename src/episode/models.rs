//! Everyone who is asked: wording and sampling of each role, the models that play them, and the servers that do.
//!
//! Loaded once and shared, by a node's whole life or by one evaluation. Knows no episode and no learner.

use super::judge::Judges;
use super::observer;
use super::sampling::{PolicyRef, SamplingClient};
use crate::device::{self, Device, JudgeSetup, LearnerSetup};
use crate::engine::{EngineConfig, sampler::SamplingConfig};
use crate::remote::Client;
use crate::roles::{critic::Critic, generator::Generator, refiner::Refiner};
use crate::run::events::EventBus;
use crate::telemetry::metrics::Role;
use crate::transformer::{full_weights::CriticWeights, load::Loaded};
use crate::types::CriticVersion;
use std::sync::Arc;
use std::time::Duration;

/// A role's wording and how it samples.
pub struct RoleConfig<R> {
    /// The wording.
    pub role: Arc<R>,
    /// How it samples.
    pub sampling: SamplingConfig,
}

/// Clients of the servers that stand in for local models.
#[derive(Default)]
pub struct Remotes {
    /// Answers and refines.
    pub generator: Option<Arc<Client>>,
    /// Judges.
    pub judge: Option<Arc<Client>>,
}

/// Everyone who is asked.
pub struct Models {
    /// Base weights, tokenizer and chat template.
    pub model: Loaded,
    /// Limits of the engine.
    pub engine: EngineConfig,
    /// Answers.
    pub generator: RoleConfig<Generator>,
    /// Criticises.
    pub critic: RoleConfig<Critic>,
    /// Refines.
    pub refiner: RoleConfig<Refiner>,
    /// Compare.
    pub judges: Judges,
    /// How the judge samples, where it writes.
    pub judging: SamplingConfig,
    /// Servers that stand in for local models.
    pub remotes: Remotes,
    /// The judge's own model and the limits of its engine, where it has one.
    pub judge_model: Option<(Loaded, EngineConfig)>,
    /// How long one role may take for one answer.
    pub deadline: Duration,
    /// Who is told.
    pub events: EventBus,
}

impl Models {
    /// What a device thread for all of them starts from, with `served` in service as `version`.
    pub(crate) fn setup(
        &self,
        learner: Option<LearnerSetup>,
        version: CriticVersion,
        served: Option<CriticWeights>,
    ) -> device::Setup {
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
            observer: observer::observer(self.events.clone()),
        }
    }

    /// What `role` writes with.
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
        }
    }
}
