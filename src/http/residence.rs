//! Critics that are asked for by number: their weights are read from disk when they are first asked for, and stay in memory
//! until another needs the room.

use super::api::Open;
use super::model::Model;
use super::problem::Problem;
use crate::device;
use crate::engine::{self, Policy};
use crate::types::CriticVersion;

impl Open {
    /// Sees to it that `version` is in memory.
    ///
    /// # Errors
    /// If it is not kept, or there is no room for it.
    pub(super) async fn hold(&self, version: CriticVersion) -> Result<(), Problem> {
        if !(self.served.critics)().iter().any(|kept| kept.version == version) {
            return Err(Problem::no_model(format!("model: critic@{} is not kept", version.0)));
        }
        if self.has(version).await? {
            return Ok(());
        }
        // One load at a time: a critic that two clients ask for is read once.
        let _loading = self.loading.lock().await;
        if self.has(version).await? {
            return Ok(());
        }
        let served = self.served.clone();
        let read = tokio::task::spawn_blocking(move || (served.weights)(version)).await;
        let weights = read.map_err(|error| Problem::internal(error.to_string()))?;
        let weights = weights.map_err(|why| Problem::no_model(format!("model: critic@{}: {why}", version.0)))?;
        match self.device.lend(version, weights).await {
            Err(device::Error::Engine(engine::Error::VersionsFull { .. })) => Err(full(version)),
            lent => lent.map_err(|error| failed(&error)),
        }
    }

    /// Sees to it that the critic that `model` names by its number is in memory.
    ///
    /// # Errors
    /// As [`Open::hold`].
    pub(super) async fn hold_for(&self, model: &Model) -> Result<(), Problem> {
        match model.policy {
            Policy::Version(version) => self.hold(version).await,
            Policy::Base | Policy::Serving => Ok(()),
        }
    }

    /// Whether `version` is in memory.
    async fn has(&self, version: CriticVersion) -> Result<bool, Problem> {
        // The device says so only of a request. This is the shortest.
        match self.device.score_candidates(Policy::Version(version), vec![0], vec![0]).await {
            Ok(_) => Ok(true),
            Err(device::Error::Engine(engine::Error::Version { .. })) => Ok(false),
            Err(error) => Err(failed(&error)),
        }
    }
}

fn full(version: CriticVersion) -> Problem {
    let why = "as many critics are in memory as engine.versions_max allows, and all of them are on trial";
    Problem::unavailable(format!("model: no room for critic@{}: {why}", version.0))
}

fn failed(error: &device::Error) -> Problem {
    match error {
        device::Error::Gone => Problem::unavailable("the device was stopped or is being restarted"),
        error => Problem::internal(error.to_string()),
    }
}
