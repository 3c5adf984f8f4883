//! Bounds the requests in flight: one more is refused at once, with the time after which to ask again.

use super::config::HttpConfig;
use super::connections::Claim;
use super::problem::Problem;
use super::reading::BODY_DEADLINE;
use crate::run::jobs::{Job, Jobs};
use crate::telemetry::metrics::{Guard, HTTP_IN_FLIGHT};
use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How much longer than its deadline an answer may hold its connection.
const GRACE: Duration = Duration::from_secs(5);

/// Admits requests; clones share the limit.
#[derive(Clone)]
pub(super) struct Admission {
    permits: Arc<Semaphore>,
    requests_max: usize,
    deadline_seconds: u64,
    /// Texts that one request may ask for.
    pub(super) texts_max: usize,
    /// The requests in flight.
    pub(super) jobs: Jobs,
}

impl Admission {
    pub(super) fn new(config: &HttpConfig) -> Self {
        let requests_max = config.requests_max.min(Semaphore::MAX_PERMITS);
        let (deadline_seconds, texts_max) = (config.request_deadline_seconds, config.texts_max);
        Self {
            permits: Arc::new(Semaphore::new(requests_max)),
            requests_max,
            deadline_seconds,
            texts_max,
            jobs: Jobs::default(),
        }
    }
}

/// A request's place among those in flight; it travels with the answer and ends with it.
pub(super) struct Admitted {
    claim: Claim,
    deadline_seconds: u64,
    _permit: OwnedSemaphorePermit,
    _job: Job,
    _in_flight: Guard,
}

impl Admitted {
    /// The time by which the answer must end. From here on the connection lasts as long as the answer.
    pub(super) fn deadline(&self) -> Deadline {
        let at = Instant::now() + Duration::from_secs(self.deadline_seconds);
        // The refusal of a late answer takes a moment more.
        self.claim.until(at + GRACE);
        Deadline { at, seconds: self.deadline_seconds }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.claim.end();
    }
}

/// When an answer must end.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    seconds: u64,
}

impl Deadline {
    /// What `work` gives, or a problem if it is late.
    pub(super) async fn within<T>(self, work: impl Future<Output = T>) -> Result<T, Problem> {
        tokio::time::timeout_at(self.at, work).await.map_err(|_| Problem::deadline(self.seconds))
    }
}

impl<S: Sync> FromRequestParts<S> for Admitted
where
    Admission: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let admission = Admission::from_ref(state);
        let claim = parts.extensions.get::<Claim>().cloned().unwrap_or_default();
        let permit =
            admission.permits.clone().try_acquire_owned().map_err(|_| Problem::busy(admission.requests_max))?;
        claim.until(Instant::now() + BODY_DEADLINE);
        let job = admission.jobs.begin("answers", parts.uri.path());
        let (deadline_seconds, in_flight) = (admission.deadline_seconds, HTTP_IN_FLIGHT.guard());
        Ok(Self { claim, deadline_seconds, _permit: permit, _job: job, _in_flight: in_flight })
    }
}
