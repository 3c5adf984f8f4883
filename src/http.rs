//! `/metrics`, `/healthz` and `/readyz` over HTTP, and the upkeep of the metrics behind them.
//!
//! Read-only: nothing here changes the node. `/healthz` answers 200 while the process serves; `/readyz`
//! answers 503 with what the node waits for until it is ready.

use crate::telemetry::{Error, Telemetry, TelemetryConfig};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::routing::get;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The interval at which histograms are folded.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long a request under way at the stop may take.
const GRACE: Duration = Duration::from_millis(500);

/// A running server and the upkeep of the metrics.
#[must_use = "a server is stopped by its shutdown future and waited for by `stopped`"]
pub struct Serving {
    address: Option<SocketAddr>,
    task: JoinHandle<()>,
}

impl Serving {
    /// The address it listens on, with the port that the system chose if 0 was requested; none if there is no server.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Resolves once the shutdown future has resolved and the last request is answered or abandoned.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the telemetry server failed");
        }
    }
}

impl Telemetry {
    /// Serves the endpoints (if `config` names an address) and keeps the metrics folded until `shutdown` resolves.
    ///
    /// # Errors
    /// If the address is invalid or cannot be listened on.
    pub async fn serve(
        &self,
        config: &TelemetryConfig,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Serving, Error> {
        let listener = match config.address.as_str() {
            "" => None,
            given => Some(listen(given).await?),
        };
        let (listener, address) = listener.unzip();
        let task = tokio::spawn(run(self.clone(), listener, shutdown));
        Ok(Serving { address, task })
    }
}

/// Binds the address `given`.
async fn listen(given: &str) -> Result<(TcpListener, SocketAddr), Error> {
    let address: SocketAddr = given.parse().map_err(|_| Error::Address(given.to_owned()))?;
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Serves and folds until `shutdown`, then waits a moment for requests under way.
async fn run(telemetry: Telemetry, listener: Option<TcpListener>, shutdown: impl Future<Output = ()> + Send) {
    let stop = CancellationToken::new();
    let server = listener.map(|listener| {
        let routes = routes(telemetry.clone());
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stopped).await {
                tracing::error!(%error, "the telemetry server failed");
            }
        })
    });
    let mut upkeep = tokio::time::interval(UPKEEP);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            _ = upkeep.tick() => telemetry.run_upkeep(),
        }
    }
    stop.cancel();
    if let Some(mut server) = server
        && tokio::time::timeout(GRACE, &mut server).await.is_err()
    {
        server.abort();
    }
}

/// The three routes.
fn routes(telemetry: Telemetry) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(telemetry)
}

/// Prometheus' text format.
async fn metrics(State(telemetry): State<Telemetry>) -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], telemetry.render())
}

/// 200 once the node is ready; before that 503 and what it waits for.
async fn readyz(State(telemetry): State<Telemetry>) -> (StatusCode, String) {
    match telemetry.waiting() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {what}\n")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::telemetry::LogFormat;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use tokio::sync::oneshot;

    fn config(address: &str) -> TelemetryConfig {
        TelemetryConfig { address: address.to_owned(), log_format: LogFormat::Text }
    }

    async fn serve(telemetry: &Telemetry) -> (Serving, oneshot::Sender<()>) {
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
        };
        (telemetry.serve(&config("127.0.0.1:0"), shutdown).await.unwrap(), stop)
    }

    /// Head and body of a GET.
    async fn fetch(address: SocketAddr, path: &'static str) -> (String, String) {
        let get = move || {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head.to_owned(), body.to_owned())
        };
        tokio::task::spawn_blocking(get).await.unwrap()
    }

    #[tokio::test]
    async fn readiness_says_what_the_node_waits_for_until_it_is_ready() {
        let telemetry = Telemetry::install().unwrap();
        let (serving, stop) = serve(&telemetry).await;
        let address = serving.address().unwrap();
        assert_ne!(address.port(), 0);
        telemetry.wait_for("the model's weights");
        let (head, body) = fetch(address, "/readyz").await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert_eq!(body, "waiting for the model's weights\n");
        assert!(fetch(address, "/healthz").await.0.starts_with("HTTP/1.1 200"));
        telemetry.ready();
        assert!(fetch(address, "/readyz").await.0.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/secrets").await.0.starts_with("HTTP/1.1 404"));
        stop.send(()).unwrap();
        serving.stopped().await;
        assert!(TcpStream::connect(address).is_err(), "nobody listens after the stop");
    }

    #[tokio::test]
    async fn metrics_are_served_in_the_text_format() {
        let telemetry = Telemetry::install().unwrap();
        let (serving, stop) = serve(&telemetry).await;
        let (head, body) = fetch(serving.address().unwrap(), "/metrics").await;
        assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("# TYPE rco_engine_generated_tokens_total counter"), "{body}");
        stop.send(()).unwrap();
        serving.stopped().await;
    }

    #[tokio::test]
    async fn a_client_that_never_finishes_does_not_hold_the_stop() {
        let telemetry = Telemetry::install().unwrap();
        let (serving, stop) = serve(&telemetry).await;
        let mut stream = TcpStream::connect(serving.address().unwrap()).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:").unwrap();
        fetch(serving.address().unwrap(), "/healthz").await;
        stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(5), serving.stopped()).await.unwrap();
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_and_no_address_is_no_server() {
        let telemetry = Telemetry::install().unwrap();
        let (serving, stop) = serve(&telemetry).await;
        let taken = serving.address().unwrap().to_string();
        let error = telemetry.serve(&config(&taken), async {}).await.err().unwrap();
        assert!(error.to_string().contains(&taken), "{error}");
        let error = telemetry.serve(&config("nowhere"), async {}).await.err().unwrap();
        assert!(error.to_string().contains("nowhere"), "{error}");
        let silent = telemetry.serve(&config(""), async {}).await.unwrap();
        assert_eq!(silent.address(), None);
        silent.stopped().await;
        drop(stop);
        serving.stopped().await;
    }
}
