//! The critics of a server that trains nothing: what it was started with, and what was loaded since.
//!
//! The newest is in service. Invariants: a number is never used again; a critic is in service on the device before it is told.

use super::problem::Problem;
use crate::device::{self, CriticWeights, Device, MadeBy};
use crate::engine::Policy;
use crate::types::CriticVersion;
use axum::http::StatusCode;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

/// Critics that are kept beside the newest: a rollback goes back at most so far.
const KEPT: usize = 4;

/// A critic that can be asked for by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptCritic {
    /// Its version.
    pub version: CriticVersion,
    /// The sha256 of its weights, if it is known.
    pub digest: Option<String>,
}

/// Reads and checks the critic in a folder: its weights and, if it is known, their sha256; else what is wrong with it.
pub type ReadCritic = Arc<dyn Fn(&Path) -> Result<(CriticWeights, Option<String>), String> + Send + Sync>;

/// A critic with its weights; those of the base are none.
#[derive(Clone)]
struct Held {
    version: CriticVersion,
    name: String,
    digest: Option<String>,
    weights: Option<CriticWeights>,
}

/// The critics, the one in service last.
pub struct HeldCritics {
    device: Device,
    read: ReadCritic,
    held: watch::Sender<Vec<Held>>,
    /// The newest number; its lock is held while one is loaded or unloaded.
    newest: Mutex<CriticVersion>,
}

impl HeldCritics {
    /// Those of a server on `device`, whose critic in service is `version` with `digest` and `weights`; `read` reads others.
    pub fn new(
        device: Device,
        read: ReadCritic,
        (version, digest, weights): (CriticVersion, Option<String>, Option<CriticWeights>),
    ) -> Self {
        let started = Held { version, name: String::new(), digest, weights };
        let of_base = Held { version: CriticVersion::BASE, name: String::new(), digest: None, weights: None };
        let held = if version == CriticVersion::BASE { vec![of_base] } else { vec![of_base, started] };
        Self { device, read, held: watch::channel(held).0, newest: Mutex::new(version) }
    }

    /// Them by number, the one in service first.
    pub fn kept(&self) -> Vec<KeptCritic> {
        let held = self.held.borrow();
        let kept = |held: &Held| KeptCritic { version: held.version, digest: held.digest.clone() };
        held.iter().rev().map(kept).collect()
    }

    /// The weights of `version`; none are the base's.
    ///
    /// # Errors
    /// If it is not held.
    pub fn weights(&self, version: CriticVersion) -> Result<Option<CriticWeights>, String> {
        let held = self.held.borrow();
        let found = held.iter().find(|held| held.version == version);
        found.map(|held| held.weights.clone()).ok_or_else(|| "it is not held".to_owned())
    }

    /// Reads the critic in the folder `path` and puts it into service under `name`.
    ///
    /// # Errors
    /// If its files cannot be used, what it computes is no distribution, or the device fails: the one before serves on.
    pub(super) async fn load(&self, name: String, path: PathBuf) -> Result<CriticVersion, Problem> {
        let mut newest = self.newest.lock().await;
        let read = self.read.clone();
        let read = tokio::task::spawn_blocking(move || read(&path))
            .await
            .map_err(|error| Problem::internal(error.to_string()))?;
        let (weights, digest) = read.map_err(|why| Problem::new(StatusCode::BAD_REQUEST, "refused", &why))?;
        let version = CriticVersion(newest.0 + 1);
        self.device.load(version, Some(weights.clone())).await.map_err(|error| rejected(&error))?;
        // The device says of a request whether what the critic computes is a distribution.
        if let Err(error) = self.device.score_candidates(Policy::Version(version), vec![0], vec![0]).await {
            self.device.unload(version).await.map_err(|error| rejected(&error))?;
            return Err(rejected(&error));
        }
        self.device.install(version, Some(weights.clone()), MadeBy::Other).await.map_err(|error| rejected(&error))?;
        *newest = version;
        self.held.send_modify(|held| {
            held.push(Held { version, name: name.clone(), digest, weights: Some(weights) });
            let surplus = held.len().saturating_sub(KEPT + 1);
            held.drain(..surplus);
        });
        tracing::info!(version = version.0, name, "another critic is in service");
        Ok(version)
    }

    /// Forgets the newest critic called `name`. If it is in service, the one before it takes its place.
    ///
    /// # Errors
    /// If there is none, or none before it.
    pub(super) async fn unload(&self, name: &str) -> Result<CriticVersion, Problem> {
        let _one_at_a_time = self.newest.lock().await;
        let held = self.held.borrow().clone();
        let unknown = || Problem::no_model(format!("lora_name: no critic called {name:?} is held"));
        let place = held.iter().rposition(|held| held.name == name && !name.is_empty()).ok_or_else(unknown)?;
        let version = held[place].version;
        if place + 1 == held.len() {
            let Some(before) = place.checked_sub(1).map(|before| &held[before]) else {
                return Err(Problem::new(
                    StatusCode::CONFLICT,
                    "no_parent",
                    "no critic is held that could take its place",
                ));
            };
            let installed = self.device.install(before.version, before.weights.clone(), MadeBy::Other).await;
            installed.map_err(|error| rejected(&error))?;
            tracing::info!(version = before.version.0, "another critic is in service");
        }
        self.held.send_modify(|held| held.retain(|held| held.version != version));
        self.device.unload(version).await.map_err(|error| rejected(&error))?;
        Ok(version)
    }
}

fn rejected(error: &device::Error) -> Problem {
    match error {
        device::Error::Gone => Problem::unavailable("the device was stopped"),
        error => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "rejected", &error.to_string()),
    }
}
