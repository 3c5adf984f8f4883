//! The connections that clients hold.
//!
//! Invariant: their number and the time of each are bounded, so that they leave the node the descriptors it needs. A new
//! client is always served: the oldest connection that has claimed no time makes room for it. Requests for texts claim
//! theirs when they are admitted, which bounds them too.

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tower::Layer;

/// Connections that clients hold at once, at most.
const CONNECTIONS_MAX: usize = 256;
/// The share of the process's descriptors that clients may hold: one in so many.
const DESCRIPTORS_SHARE: u64 = 4;
/// How long a connection may last: one request and its answer, which may be a stream. Answers that take longer claim their
/// time.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(600);
/// The pause after a connection could not be accepted, as when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a client that came in a burst has for its request before it may have to make room.
const ROOM_PATIENCE: Duration = Duration::from_millis(50);

/// The limits of the connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at once, without those that claimed their time.
    pub(super) connections_max: usize,
    /// How long a client may take for the headers of its request.
    pub(super) headers_deadline: Duration,
}

impl Limits {
    /// As many connections as leave the process its descriptors.
    pub(super) fn of_process(headers_deadline: Duration) -> Self {
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let share = descriptors.map_or(CONNECTIONS_MAX as u64, |descriptors| descriptors / DESCRIPTORS_SHARE);
        let connections_max = usize::try_from(share).unwrap_or(CONNECTIONS_MAX).clamp(1, CONNECTIONS_MAX);
        Self { connections_max, headers_deadline }
    }
}

/// A connection's claim of more time than others have.
#[derive(Clone, Default)]
pub(super) struct Claim(Arc<Mutex<Option<Instant>>>);

impl Claim {
    /// Claims the connection until `deadline`: until then it makes no room for others.
    pub(super) fn until(&self, deadline: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(deadline);
    }

    /// Ends the claim.
    pub(super) fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn deadline(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the connection has had its time.
    async fn expired(&self) {
        let mut deadline = Instant::now() + CONNECTION_DEADLINE;
        loop {
            tokio::time::sleep_until(deadline).await;
            match self.deadline() {
                Some(claimed) if claimed > deadline => deadline = claimed,
                _ => return,
            }
        }
    }
}

struct Connection {
    handle: AbortHandle,
    claim: Claim,
    since: Instant,
}

/// The open connections.
pub(super) struct Connections {
    routes: Router,
    limits: Limits,
    open: JoinSet<()>,
    /// Those in `open`, the oldest first.
    by_age: VecDeque<Connection>,
}

impl Connections {
    pub(super) fn new(routes: Router, limits: Limits) -> Self {
        Self { routes, limits, open: JoinSet::new(), by_age: VecDeque::new() }
    }

    /// Accepts every connection. Without room for one more, the oldest is closed.
    pub(super) async fn accept_from(&mut self, listener: &TcpListener) -> std::convert::Infallible {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    self.make_room().await;
                    self.add(stream);
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection was not accepted");
                    self.close_oldest();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Closes the oldest connection if there are too many and it has had a moment.
    async fn make_room(&mut self) {
        loop {
            while self.open.try_join_next().is_some() {}
            self.by_age.retain(|connection| !connection.handle.is_finished());
            let mut waiting = self.by_age.iter().filter(|connection| connection.claim.deadline().is_none());
            let Some(oldest) = waiting.next() else { return };
            if 1 + waiting.count() < self.limits.connections_max {
                return;
            }
            if oldest.since.elapsed() >= ROOM_PATIENCE {
                return self.close_oldest();
            }
            tokio::time::sleep(ROOM_PATIENCE / 10).await;
        }
    }

    fn add(&mut self, stream: TcpStream) {
        let (claim, since) = (Claim::default(), Instant::now());
        let handle = self.open.spawn(serve(stream, self.routes.clone(), claim.clone(), self.limits.headers_deadline));
        self.by_age.push_back(Connection { handle, claim, since });
    }

    fn close_oldest(&mut self) {
        let oldest = self.by_age.iter().position(|connection| connection.claim.deadline().is_none());
        if let Some(oldest) = oldest.and_then(|place| self.by_age.remove(place)) {
            oldest.handle.abort();
        }
    }

    /// Resolves when every request under way is answered.
    pub(super) async fn ended(&mut self) {
        while self.open.join_next().await.is_some() {}
    }
}

/// Answers one request.
async fn serve(stream: TcpStream, routes: Router, claim: Claim, headers_deadline: Duration) {
    // Tokens of a stream are small packets that must not wait for one another.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection delays small packets");
    }
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(headers_deadline).keep_alive(false);
    let service = Extension(claim.clone()).layer(routes);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::select! {
        served = connection => if let Err(error) = served {
            tracing::debug!(%error, "a client broke off");
        },
        () = claim.expired() => tracing::debug!("a client took too long"),
    }
}
