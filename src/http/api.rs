//! What the API serves. It is filled once the node has its models; before that every request is told what the node waits for.
//!
//! Invariant: the device is looked up for each request, because a restart replaces it.

use super::held_critics::{HeldCritics, KeptCritic};
use super::problem::Problem;
use crate::actors::control::Control;
use crate::device::{CriticWeights, Device};
use crate::episode::models::Models;
use crate::run::critics::CriticEntry;
use crate::telemetry::Telemetry;
use crate::types::{CriticVersion, unix_time};
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

/// What a node serves.
pub struct Served {
    /// The models and the roles that they play.
    pub models: Arc<Models>,
    /// Finds the device that is up, if one is.
    pub device: Box<dyn Fn() -> Option<Device> + Send + Sync>,
    /// The sha256 of the base model, if it is known.
    pub base_digest: Option<String>,
    /// The critics that are kept, the one in service first.
    pub critics: Box<dyn Fn() -> Vec<KeptCritic> + Send + Sync>,
    /// Reads the weights of a critic that is kept; none are the base's.
    pub weights: Box<dyn Fn(CriticVersion) -> Result<Option<CriticWeights>, String> + Send + Sync>,
    /// Where critics are loaded if nothing is trained; none for a node, whose swap actor does that.
    pub held: Option<Arc<HeldCritics>>,
}

/// A handle to what is served; clones share it.
#[derive(Clone)]
pub struct Api {
    served: watch::Sender<Option<Arc<Served>>>,
    /// Held while a critic is read for a client.
    loading: Arc<Mutex<()>>,
    telemetry: Telemetry,
    /// When the process began to serve, in seconds since 1970.
    pub(super) created: u64,
}

/// What is served now.
pub(super) struct Open {
    pub(super) served: Arc<Served>,
    pub(super) device: Device,
    pub(super) loading: Arc<Mutex<()>>,
}

impl Api {
    /// An API that has nothing to serve yet; `telemetry` knows what the node waits for.
    pub fn new(telemetry: Telemetry) -> Self {
        let created = unix_time::now().as_secs();
        Self { served: watch::channel(None).0, loading: Arc::default(), telemetry, created }
    }

    /// Serves `served` from now on.
    pub fn open(&self, served: Served) {
        self.served.send_replace(Some(Arc::new(served)));
    }

    /// What is served, and the device.
    ///
    /// # Errors
    /// If the node is not there yet, or its device is being restarted.
    pub(super) fn now(&self) -> Result<Open, Problem> {
        let Some(served) = self.served.borrow().clone() else {
            let what = self.telemetry.waiting().unwrap_or_else(|| "the node to start".to_owned());
            return Err(Problem::unavailable(format!("waiting for {what}")));
        };
        let device = (served.device)().ok_or_else(|| Problem::unavailable("waiting for the device to start"))?;
        Ok(Open { served, device, loading: self.loading.clone() })
    }
}

impl Served {
    /// What a running node serves: its models, with every critic whose weights are kept.
    pub fn of_node(control: Control) -> Self {
        let models = control.models().clone();
        let base_digest = Some(control.base().sha256.clone());
        let (up, known, stored) = (control.clone(), control.clone(), control);
        let critics = move || {
            let critics = known.critics();
            let serving = critics.serving();
            let kept = |version| {
                let entry = critics.entry(version);
                let digest = entry.map(|entry| entry.digest.clone()).filter(|digest| !digest.is_empty());
                KeptCritic { version, digest }
            };
            let stays = |entry: &&CriticEntry| entry.has_weights || entry.version == CriticVersion::BASE;
            let others = critics.entries().filter(stays).map(|entry| entry.version).filter(|other| *other != serving);
            std::iter::once(serving).chain(others).map(kept).collect()
        };
        let weights = move |version| stored.weights(version).map_err(|error| error.to_string());
        let device = Box::new(move || up.device());
        Self { models, device, base_digest, critics: Box::new(critics), weights: Box::new(weights), held: None }
    }
}

impl Open {
    /// The digest of the critic `version`, if it is known.
    fn critic_digest(&self, version: CriticVersion) -> Option<String> {
        (self.served.critics)().into_iter().find(|kept| kept.version == version).and_then(|kept| kept.digest)
    }

    /// Names the weights that wrote an answer: `critic@7/0123456789ab`, or `base/...`.
    pub(super) fn fingerprint(&self, critic: Option<CriticVersion>) -> String {
        let (name, digest) = match critic {
            Some(version) => (format!("critic@{}", version.0), self.critic_digest(version)),
            None => ("base".to_owned(), self.served.base_digest.clone()),
        };
        match digest {
            Some(digest) => format!("{name}/{}", digest.get(..12).unwrap_or(&digest)),
            None => name,
        }
    }
}
