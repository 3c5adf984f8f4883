//! The listener: metrics, health, the OpenAI-compatible API, and what operators ask of the node.
//!
//! Each group of routes is a function that returns a router. Texts are asked of the device, through [`Api`]; changes of the
//! node are asked of its [`Node`].
//!
//! Invariant: clients hold a bounded number of connections, each for a bounded time (see `connections`).

mod access;
mod admin;
mod admission;
mod api;
mod config;
mod connections;
mod critique;
mod episodes;
mod handles;
mod held_critics;
mod lora;
mod measure;
mod model;
mod node;
mod openai;
mod openapi;
pub(crate) mod page;
mod probes;
mod problem;
mod reading;
mod request_id;
mod residence;
mod threads;
mod tokens;

pub use access::{Access, AccessError, TOKEN_FILE};
pub use api::{Api, Served};
pub use config::HttpConfig;
pub use held_critics::{HeldCritics, KeptCritic, ReadCritic};
pub use node::Node;

use crate::telemetry::{Error, Telemetry, TelemetryConfig};
use admission::Admission;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method, Uri};
use axum::response::IntoResponse;
use axum::{Router, middleware};
use connections::{Connections, Limits};
use handles::Handles;
use lora::Loader;
use problem::Problem;
use std::any::Any;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use threads::Threads;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{self, AllowHeaders, CorsLayer};

/// The interval at which histograms are folded.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long a request under way at the stop may take.
const GRACE: Duration = Duration::from_millis(500);

/// How long a client may take for the headers of its request.
const HEADERS_DEADLINE: Duration = Duration::from_secs(5);

/// A running server and the upkeep of the metrics.
#[must_use = "a server is stopped by its shutdown future and waited for by `stopped`"]
pub struct Serving {
    address: Option<SocketAddr>,
    task: JoinHandle<()>,
    _threads: Threads,
}

impl Serving {
    /// The address it listens on, with the port that the system chose if 0 was requested; none if there is no server.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Resolves once the shutdown future has resolved and the last request is answered or abandoned.
    pub async fn stopped(mut self) {
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the telemetry server failed");
        }
    }
}

impl Telemetry {
    /// Serves the endpoints and `routes` (if `config` names an address), and keeps the metrics folded until `shutdown`
    /// resolves, on threads of their own.
    ///
    /// # Errors
    /// If the address is invalid or cannot be listened on, or no thread can be started.
    pub async fn serve(
        &self,
        config: &TelemetryConfig,
        routes: Option<NodeRoutes>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Serving, Error> {
        let threads = Threads::start().map_err(Error::Thread)?;
        let listener = match config.address.as_str() {
            "" => None,
            given => Some(listen(given, &threads).await?),
        };
        let (listener, address) = listener.unzip();
        let probes = probes::routes(self.clone());
        let routes = match routes {
            Some(node) => node.beside(probes),
            None => openapi::documented(probes),
        };
        let task = threads.spawn(run(self.clone(), routes, listener, shutdown));
        Ok(Serving { address, task, _threads: threads })
    }
}

/// Binds the address `given`, for `threads`.
async fn listen(given: &str, threads: &Threads) -> Result<(TcpListener, SocketAddr), Error> {
    let address: SocketAddr = given.parse().map_err(|_| Error::Address(given.to_owned()))?;
    let failed = |source| Error::Listen { address, source };
    let bind = TcpListener::bind(address);
    let listener = threads.spawn(bind).await.map_err(std::io::Error::other).flatten().map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Serves and folds until `shutdown`, then waits a moment for requests under way.
async fn run(
    telemetry: Telemetry,
    routes: Router,
    listener: Option<TcpListener>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let stop = CancellationToken::new();
    let server = listener.map(|listener| {
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            let mut connections = Connections::new(routes, Limits::of_process(HEADERS_DEADLINE));
            tokio::select! {
                () = stopped => {}
                never = connections.accept_from(&listener) => match never {},
            }
            drop(listener);
            connections.ended().await;
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

/// The routes that a listener has beside metrics and health.
pub struct NodeRoutes {
    /// Who is let in.
    pub access: Access,
    /// How much at once.
    pub config: HttpConfig,
    /// The node whose operators ask; none where nothing can be changed.
    pub node: Option<Node>,
    /// The models that texts are asked of.
    pub api: Api,
}

impl NodeRoutes {
    /// These routes beside `probes`, behind one guard.
    fn beside(self, probes: utoipa_axum::router::OpenApiRouter) -> Router {
        let Self { access, config, node, api } = self;
        let handles = Handles { api: api.clone(), admission: Admission::new(&config) };
        let admission = handles.admission.clone();
        let mut documented = probes
            .merge(openai::routes(handles.clone()))
            .merge(critique::routes(handles))
            .merge(tokens::routes(api.clone()));
        let loader = node.clone().map_or(Loader::Server(api), Loader::Node);
        documented = documented.merge(lora::routes(loader, access.clone()));
        if let Some(node) = node {
            documented = documented
                .merge(page::routes())
                .merge(episodes::routes(node.clone()))
                .merge(admin::reads(node.clone(), admission))
                .merge(admin::changes(node, access.clone()));
        }
        let routes = openapi::documented(documented)
            .fallback(no_route)
            .method_not_allowed_fallback(no_method)
            .layer(CatchPanicLayer::custom(panicked))
            .layer(DefaultBodyLimit::max(config.body_bytes_max()))
            .layer(middleware::from_fn_with_state(access, access::guard))
            .layer(middleware::from_fn(measure::measure));
        let routes = match cors(&config.cors_origins) {
            Some(cors) => routes.layer(cors),
            None => routes,
        };
        routes.layer(middleware::from_fn(request_id::stamp))
    }
}

async fn no_route(method: Method, uri: Uri) -> Problem {
    Problem::no_route(format!("no such address: {method} {}", uri.path()))
}

async fn no_method(method: Method, uri: Uri) -> Problem {
    Problem::no_method(format!("{} is not answered to {method}", uri.path()))
}

fn panicked(_: Box<dyn Any + Send>) -> axum::response::Response {
    Problem::internal("the request panicked").into_response()
}

/// Lets pages of `origins` ask; none if there are none.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    let any = || CorsLayer::new().allow_methods(cors::Any).allow_headers(AllowHeaders::mirror_request());
    (!origins.is_empty()).then(|| any().allow_origin(origins))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::telemetry::LogFormat;
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpStream;
    use std::time::Instant;
    use tokio::sync::oneshot;

    fn config(address: &str) -> TelemetryConfig {
        TelemetryConfig { address: address.to_owned(), log_format: LogFormat::Text }
    }

    async fn serve(telemetry: &Telemetry) -> (Serving, oneshot::Sender<()>) {
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
        };
        (telemetry.serve(&config("127.0.0.1:0"), None, shutdown).await.unwrap(), stop)
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
    async fn health_says_how_long_the_device_has_stood_still() {
        let telemetry = Telemetry::install().unwrap();
        let (serving, stop) = serve(&telemetry).await;
        let address = serving.address().unwrap();
        telemetry.set_stalled(Instant::now().checked_sub(Duration::from_secs(73)));
        let (head, body) = fetch(address, "/healthz").await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        let said = ["the device thread has stood still for 73 s\n", "the device thread has stood still for 74 s\n"];
        assert!(said.contains(&body.as_str()), "{body}");
        telemetry.set_stalled(None);
        assert!(fetch(address, "/healthz").await.0.starts_with("HTTP/1.1 200"));
        stop.send(()).unwrap();
        serving.stopped().await;
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

    /// How many of `clients` the server closes within `patience`.
    async fn closed(clients: Vec<TcpStream>, patience: Duration) -> usize {
        let is_closed = move |client: &TcpStream| {
            client.set_read_timeout(Some(patience)).unwrap();
            // The end of the stream, or a reset.
            let read = (&*client).read(&mut [0]);
            !matches!(read, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
        };
        tokio::task::spawn_blocking(move || clients.iter().filter(|client| is_closed(client)).count()).await.unwrap()
    }

    #[tokio::test]
    async fn idle_clients_hold_few_connections_and_do_not_keep_a_scrape_out() {
        let telemetry = Telemetry::install().unwrap();
        let (serving, stop) = serve(&telemetry).await;
        let address = serving.address().unwrap();
        let idle = move || {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"GET /metrics HTTP/1.1\r\nHost:").unwrap();
            client
        };
        let (max, surplus) = (Limits::of_process(HEADERS_DEADLINE).connections_max, 44);
        let open = move || (0..max + surplus).map(|_| idle()).collect::<Vec<_>>();
        let clients = tokio::task::spawn_blocking(open).await.unwrap();
        let (head, _) = tokio::time::timeout(Duration::from_secs(4), fetch(address, "/metrics")).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let early = clients.into_iter().take(surplus).collect();
        assert_eq!(closed(early, Duration::from_secs(1)).await, surplus);
        stop.send(()).unwrap();
        serving.stopped().await;
    }

    #[tokio::test]
    async fn a_client_without_headers_is_closed_at_their_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = Connections::new(
            openapi::documented(probes::routes(Telemetry::install().unwrap())),
            Limits::of_process(Duration::from_millis(100)),
        );
        let accepting = tokio::spawn(async move { connections.accept_from(&listener).await });
        let silent = TcpStream::connect(address).unwrap();
        let mut dripping = TcpStream::connect(address).unwrap();
        dripping.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
        assert_eq!(closed(vec![silent, dripping], Duration::from_secs(3)).await, 2);
        assert!(fetch(address, "/healthz").await.0.starts_with("HTTP/1.1 200"));
        accepting.abort();
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_and_no_address_is_no_server() {
        let telemetry = Telemetry::install().unwrap();
        let (serving, stop) = serve(&telemetry).await;
        let taken = serving.address().unwrap().to_string();
        let error = telemetry.serve(&config(&taken), None, async {}).await.err().unwrap();
        assert!(error.to_string().contains(&taken), "{error}");
        let error = telemetry.serve(&config("nowhere"), None, async {}).await.err().unwrap();
        assert!(error.to_string().contains("nowhere"), "{error}");
        let silent = telemetry.serve(&config(""), None, async {}).await.unwrap();
        assert_eq!(silent.address(), None);
        silent.stopped().await;
        drop(stop);
        serving.stopped().await;
    }
}
