//! Metrics, health and logs of the node, and one live status line.
//!
//! Knows no other room but `types`: they call [`metrics`] with label enums and pass in a [`status::Status`].
//! Invariants: every exported metric is described, and every label has a closed set of values.

mod live_block;
pub mod logs;
pub mod metrics;
pub mod stages;
pub mod status;
mod terminal;
pub mod under_way;
pub mod work_progress;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Metrics, health endpoints and logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Address of `/metrics`, `/healthz` and `/readyz`; empty for none.
    pub address: String,
    /// Format of log lines.
    pub log_format: LogFormat,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human-readable.
    Text,
    /// One JSON object per line.
    Json,
}

impl TelemetryConfig {
    /// Complaints about its values, all at once.
    pub fn complaints(&self) -> Vec<String> {
        if self.address.is_empty() || self.address.parse::<SocketAddr>().is_ok() {
            return Vec::new();
        }
        vec![format!(
            "telemetry.address: expected an address and port such as \"127.0.0.1:9464\", or \"\" for none, got {:?}",
            self.address
        )]
    }
}

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process already has another metrics recorder.
    #[error("metrics recorder: {0}")]
    Recorder(String),
    /// The address is malformed.
    #[error("telemetry.address: expected an address and port, got {0:?}")]
    Address(String),
    /// The address cannot be listened on.
    #[error(
        "telemetry.address: cannot listen on {address}: {source}; another node may be there: set another address, or \"\" for none"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// A thread that writes the log or serves clients cannot be started.
    #[error("starting a thread: {0}")]
    Thread(std::io::Error),
    /// The log filter is invalid.
    #[error("{variable}={given:?}: {why}")]
    Filter {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        given: String,
        /// What is wrong.
        why: String,
    },
}

/// One recorder per process, for all its nodes.
static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// When the first node of this process began.
static PROCESS_BEGAN: OnceLock<SystemTime> = OnceLock::new();

/// A node's telemetry; clones share it. Several nodes in one process share the metrics but not readiness.
#[derive(Clone)]
pub struct Telemetry {
    recorder: PrometheusHandle,
    /// What the node waits for; `None` once it is ready.
    waiting: watch::Sender<Option<String>>,
    /// What `/readyz` says beside whether the node is ready.
    detail: watch::Sender<String>,
    /// Since when the device thread has stood still; `None` while it works or waits for work.
    stalled: watch::Sender<Option<Instant>>,
}

impl Telemetry {
    /// Installs the process's recorder if there is none yet, describes every metric, and starts as not ready.
    ///
    /// # Errors
    /// If the process already has another recorder.
    pub fn install() -> Result<Self, Error> {
        static INSTALLING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let recorder = match RECORDER.get() {
            Some(recorder) => recorder.clone(),
            None => {
                let recorder = builder()
                    .and_then(PrometheusBuilder::install_recorder)
                    .map_err(|error| Error::Recorder(error.to_string()))?;
                metrics::describe_all();
                RECORDER.get_or_init(|| recorder).clone()
            }
        };
        metrics::NODE_UP.set(1.0);
        metrics::NODE_INFO.publish(metrics::Build { version: env!("CARGO_PKG_VERSION") });
        let started = PROCESS_BEGAN.get_or_init(SystemTime::now).duration_since(UNIX_EPOCH);
        metrics::NODE_STARTED.set(started.map_or(0.0, |since| since.as_secs_f64()));
        let (waiting, _) = watch::channel(Some("the node to start".to_owned()));
        let (stalled, detail) = (watch::channel(None).0, watch::channel(String::new()).0);
        Ok(Self { recorder, waiting, detail, stalled })
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        stages::export();
        self.recorder.render()
    }

    /// Drains histogram samples into buckets; without it memory grows between two scrapes.
    pub fn run_upkeep(&self) {
        self.recorder.run_upkeep();
    }

    /// Marks the node as not ready, waiting for `what`, such as `the model's weights`.
    pub fn wait_for(&self, what: impl Into<String>) {
        metrics::NODE_READY.set(0.0);
        self.waiting.send_replace(Some(what.into()));
    }

    /// Marks the node as ready.
    pub fn ready(&self) {
        metrics::NODE_READY.set(1.0);
        self.waiting.send_replace(None);
    }

    /// Marks the node as unhealthy since the device thread stands still, or as healthy if it does not.
    pub fn set_stalled(&self, since: Option<Instant>) {
        self.stalled.send_if_modified(|stalled| std::mem::replace(stalled, since) != since);
    }

    /// How long the device thread has stood still; `None` if it does not.
    pub fn stalled(&self) -> Option<Duration> {
        self.stalled.borrow().map(|since| since.elapsed())
    }

    /// Says what is to be known beside whether the node is ready, in whole lines.
    pub fn set_detail(&self, detail: String) {
        self.detail.send_replace(detail);
    }

    /// What is to be known beside whether the node is ready.
    pub fn detail(&self) -> String {
        self.detail.borrow().clone()
    }

    /// What the node waits for; `None` once it is ready.
    pub fn waiting(&self) -> Option<String> {
        self.waiting.borrow().clone()
    }
}

/// A recorder builder with the table's histogram buckets.
fn builder() -> Result<PrometheusBuilder, metrics_exporter_prometheus::BuildError> {
    metrics::TABLE
        .iter()
        .filter(|row| !row.buckets.bounds.is_empty())
        .try_fold(PrometheusBuilder::new(), |builder, row| {
            builder.set_buckets_for_metric(Matcher::Full(row.name.to_owned()), row.buckets.bounds)
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::metrics::Named;
    use super::*;

    fn config(address: &str) -> TelemetryConfig {
        TelemetryConfig { address: address.to_owned(), log_format: LogFormat::Text }
    }

    #[test]
    fn an_address_is_an_ip_and_a_port_or_nothing() {
        for good in ["", "127.0.0.1:9464", "0.0.0.0:1", "[::1]:0"] {
            assert!(config(good).complaints().is_empty(), "{good}");
        }
        for bad in ["localhost", "127.0.0.1", ":9464", "127.0.0.1:70000"] {
            let complaints = config(bad).complaints();
            assert!(
                complaints.len() == 1 && complaints[0].contains("telemetry.address") && complaints[0].contains(bad)
            );
        }
    }

    #[test]
    fn several_nodes_in_one_process_share_metrics_but_not_readiness() {
        let (one, two) = (Telemetry::install().unwrap(), Telemetry::install().unwrap());
        one.ready();
        two.wait_for("the model");
        assert_eq!((one.waiting(), two.waiting()), (None, Some("the model".to_owned())));
        let name = metrics::REPLAY_WAITS.name();
        metrics::REPLAY_WAITS.add(3);
        let value = |text: &str| -> u64 {
            let line = text.lines().find(|l| l.starts_with(name)).unwrap();
            line.split(' ').nth(1).unwrap().parse().unwrap()
        };
        let first = value(&one.render());
        assert!(first >= 3 && value(&two.render()) >= first);
    }
}
