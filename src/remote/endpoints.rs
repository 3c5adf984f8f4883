//! The servers of one model: which of them a request goes to.
//!
//! A request goes to the server with the fewest under way among those that are up. One that cannot be reached or fails rests, twice
//! as long after each failure in a row; one that asks for a pause gets it. If all rest, requests wait for the first to end
//! its rest, so that a lone server is asked again after each of its pauses.

use super::error::Error;
use reqwest::Url;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The first rest after a failure, where there are others, and the longest.
const REST: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(60);

/// What is known of one server.
#[derive(Debug)]
struct Health {
    under_way: usize,
    /// Failures in a row.
    failures: u32,
    /// It is asked nothing before this time.
    rests_until: Instant,
}

/// All servers.
#[derive(Debug)]
pub(super) struct Endpoints {
    urls: Vec<Url>,
    health: Mutex<Vec<Health>>,
}

/// A request's place at a server; given back when dropped.
pub(super) struct Lease<'a> {
    endpoints: &'a Endpoints,
    index: usize,
}

impl Endpoints {
    pub(super) fn new(urls: Vec<Url>) -> Self {
        let up = || Health { under_way: 0, failures: 0, rests_until: Instant::now() };
        let health = urls.iter().map(|_| up()).collect();
        Self { urls, health: Mutex::new(health) }
    }

    /// A place at the server that a request goes to, once one is not resting.
    pub(super) async fn ready(&self) -> Lease<'_> {
        loop {
            match self.next(Instant::now()) {
                Ok(lease) => return lease,
                Err(until) => tokio::time::sleep_until(until.into()).await,
            }
        }
    }

    /// A place at the idlest server that is up at `now`, or when the first of them will be.
    fn next(&self, now: Instant) -> Result<Lease<'_>, Instant> {
        let mut health = lock(&self.health);
        let up = health.iter().enumerate().filter(|(_, health)| health.rests_until <= now);
        match up.min_by_key(|(_, health)| health.under_way).map(|(index, _)| index) {
            Some(index) => {
                health[index].under_way += 1;
                Ok(Lease { endpoints: self, index })
            }
            None => Err(health.iter().map(|health| health.rests_until).min().unwrap_or(now)),
        }
    }
}

impl Lease<'_> {
    pub(super) fn url(&self) -> &Url {
        &self.endpoints.urls[self.index]
    }

    /// The server asks for no requests before `until`.
    pub(super) fn wait_until(&self, until: Instant) {
        let mut health = lock(&self.endpoints.health);
        let rests_until = &mut health[self.index].rests_until;
        *rests_until = until.max(*rests_until);
    }

    /// How the request ended. A lone server does not rest: its requests have pauses of their own.
    pub(super) fn note(&self, error: Option<&Error>) {
        let mut health = lock(&self.endpoints.health);
        let alone = health.len() == 1;
        let one = &mut health[self.index];
        match error {
            Some(Error::Unreachable(_) | Error::Timeout { .. } | Error::ServerError(_) | Error::Busy) => {
                let rest = REST.saturating_mul(1 << one.failures.min(8)).min(REST_MAX);
                one.failures += 1;
                if !alone {
                    one.rests_until = one.rests_until.max(Instant::now() + rest);
                }
            }
            _ => one.failures = 0,
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        lock(&self.endpoints.health)[self.index].under_way -= 1;
    }
}

/// Locks plain numbers, which a panic cannot leave inconsistent.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn endpoints(count: usize) -> Endpoints {
        Endpoints::new((0..count).map(|port| format!("http://127.0.0.1:{}/v1", 8000 + port).parse().unwrap()).collect())
    }

    #[test]
    fn requests_go_to_the_idlest_server() {
        let endpoints = endpoints(2);
        let now = Instant::now();
        let [one, two] = [0, 1].map(|_| endpoints.next(now).ok().unwrap());
        assert_ne!(one.url(), two.url());
        let url = one.url().clone();
        drop(one);
        assert_eq!(endpoints.next(now).ok().unwrap().url(), &url);
        drop(two);
    }

    #[test]
    fn a_server_that_fails_rests_and_the_other_is_asked() {
        let endpoints = endpoints(2);
        let now = Instant::now();
        let one = endpoints.next(now).ok().unwrap();
        one.note(Some(&Error::ServerError(503)));
        let failed = one.url().clone();
        drop(one);
        for _ in 0..3 {
            assert_ne!(endpoints.next(Instant::now()).ok().unwrap().url(), &failed);
        }
        let later = Instant::now() + REST * 2;
        let [one, two] = [0, 1].map(|_| endpoints.next(later).ok().unwrap());
        assert!([one.url(), two.url()].contains(&&failed), "it is asked again after its rest");
    }

    #[test]
    fn a_lone_server_is_asked_again_but_for_the_pause_that_it_asks_for() {
        let endpoints = endpoints(1);
        let one = endpoints.next(Instant::now()).ok().unwrap();
        one.note(Some(&Error::Busy));
        assert!(endpoints.next(Instant::now()).is_ok());
        let until = Instant::now() + Duration::from_secs(9);
        one.wait_until(until);
        assert_eq!(endpoints.next(Instant::now()).err(), Some(until));
    }
}
