//! What the node does: every actor, its queues, versions, rates and memory.

use crate::actors::control::{Control, ControlError, Part};
use crate::actors::swap::SwapError;
use crate::http::admission::Admission;
use crate::http::node::{Node, started};
use crate::http::problem::{ErrorBody, Problem};
use crate::run::critics::{CriticEntry, Error as RegistryError};
use crate::run::events::Sample;
use crate::run::jobs::{JobReport, JobsReport};
use crate::run::memory::MemoryRow;
use crate::types::{ActorKind, CriticVersion, Label};
use axum::Json;
use axum::extract::{FromRef, Path, Query, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::IntoParams;

/// The node, and who is let in.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) node: Node,
    pub(super) admission: Admission,
}

impl FromRef<Seen> for Node {
    fn from_ref(seen: &Seen) -> Self {
        seen.node.clone()
    }
}

/// The state of the node.
#[derive(Serialize)]
pub(super) struct Status {
    waits_for: &'static str,
    paused: Paused,
    episodes: u64,
    groups: u64,
    zero_variance: u64,
    dropped: u64,
    /// Why episodes were dropped since the process began, in words.
    drop_reasons: String,
    /// What makes most of the work useless, and what helps.
    warnings: Vec<String>,
    utility_mean: Option<f32>,
    step: u64,
    loss: Option<f32>,
    versions: Versions,
    staleness: Option<Staleness>,
    rates: Rates,
    queues: Queues,
    actors: Vec<ActorStatus>,
    /// The job that has taken longest, of all actors.
    oldest: Option<OldestJob>,
    memory: Vec<MemoryRow>,
    restarts: u64,
    device_stalled_seconds: Option<u64>,
}

#[derive(Serialize)]
struct Paused {
    rollout: bool,
    learner: bool,
}

#[derive(Serialize)]
struct Versions {
    serving: CriticVersion,
    pinned: Option<CriticVersion>,
    on_trial: Option<CriticVersion>,
    trial_share: Option<f64>,
    in_memory: usize,
}

/// Ages of the critiques that were learned from last, in publications.
#[derive(Serialize)]
struct Staleness {
    mean: f32,
    max: u64,
}

#[derive(Serialize)]
struct Rates {
    tokens_per_second: f64,
    episodes_per_minute: f64,
    steps_per_minute: f64,
}

#[derive(Serialize)]
struct Queues {
    episodes_in_flight: usize,
    groups_held: usize,
    device_commands: usize,
    sequences_running: usize,
    sequences_waiting: usize,
    kv_usage: f64,
    http_requests: usize,
}

/// An actor, or `http`: the clients of the API.
#[derive(Serialize)]
struct ActorStatus {
    actor: &'static str,
    #[serde(flatten)]
    jobs: JobsReport,
}

#[derive(Serialize)]
struct OldestJob {
    actor: &'static str,
    #[serde(flatten)]
    job: JobReport,
}

/// The state of the node.
#[utoipa::path(get, path = "/admin/status", tag = "operation", responses(
    (status = 200, body = serde_json::Value), (status = 503, body = ErrorBody)
))]
pub(super) async fn status(State(seen): State<Seen>) -> Result<Json<Status>, Problem> {
    let control = started(&seen.node)?;
    let progress = control.events().progress();
    let device = control.device();
    let busy = device.as_ref().and_then(|device| device.busy());
    let actors = actors(&control, &seen.admission, busy.map(|busy| busy.as_secs_f64()));
    let jobs = actors.iter().filter_map(|status| Some((status.actor, status.jobs.oldest.clone()?)));
    let oldest = jobs.max_by(|(_, one), (_, other)| one.seconds.total_cmp(&other.seconds));
    let on_trial = control.on_trial();
    Ok(Json(Status {
        waits_for: progress.activity.words(),
        paused: Paused { rollout: control.is_paused(Part::Rollout), learner: control.is_paused(Part::Learner) },
        episodes: progress.counters.episodes,
        groups: progress.counters.groups,
        zero_variance: progress.counters.zero_variance,
        dropped: progress.counters.dropped,
        drop_reasons: progress.rollout.drop_reasons(),
        warnings: progress.warnings().iter().map(ToString::to_string).collect(),
        utility_mean: progress.counters.utility_mean,
        step: progress.step,
        loss: progress.loss,
        versions: Versions {
            serving: progress.version,
            pinned: control.critics().pinned(),
            on_trial: on_trial.map(|(version, _)| version),
            trial_share: on_trial.map(|(_, share)| share),
            in_memory: progress.engine.versions_alive,
        },
        staleness: progress.staleness.map(|(mean, max)| Staleness { mean, max }),
        rates: Rates {
            tokens_per_second: progress.tokens_per_second,
            episodes_per_minute: progress.episodes_per_minute,
            steps_per_minute: progress.steps_per_minute,
        },
        queues: Queues {
            episodes_in_flight: progress.in_flight,
            groups_held: progress.held,
            device_commands: device.as_ref().map_or(0, |device| device.queued()),
            sequences_running: progress.engine.running,
            sequences_waiting: progress.engine.waiting,
            kv_usage: progress.engine.kv_usage,
            http_requests: seen.admission.jobs.report().in_flight,
        },
        actors,
        oldest: oldest.map(|(actor, job)| OldestJob { actor, job }),
        memory: control.events().memory().rows(),
        restarts: progress.restarts,
        device_stalled_seconds: progress.device_stalled.map(|since| since.elapsed().as_secs()),
    }))
}

/// What every actor is at, and the clients of the API; `busy` is how long the device has been at one step.
fn actors(control: &Control, admission: &Admission, busy: Option<f64>) -> Vec<ActorStatus> {
    let of_actor = |actor: &ActorKind| {
        let jobs = match (actor, busy) {
            (ActorKind::Device, Some(seconds)) => {
                let job = JobReport { what: "computes a step", subject: String::new(), seconds };
                JobsReport { in_flight: 1, oldest: Some(job) }
            }
            (actor, _) => control.events().jobs(*actor).report(),
        };
        ActorStatus { actor: actor.value(), jobs }
    };
    let http = ActorStatus { actor: "http", jobs: admission.jobs.report() };
    ActorKind::ALL.iter().map(of_actor).chain([http]).collect()
}

/// From when.
#[derive(Deserialize, IntoParams)]
pub(super) struct Since {
    /// The time of the last sample that is known, in milliseconds since 1970.
    #[serde(default)]
    after: u64,
}

/// The last hour: a few numbers every five seconds, for charts.
#[utoipa::path(get, path = "/admin/series", tag = "operation", params(Since), responses(
    (status = 200, body = serde_json::Value), (status = 503, body = ErrorBody)
))]
pub(super) async fn series(
    State(node): State<Node>,
    Query(Since { after }): Query<Since>,
) -> Result<Json<Vec<Sample>>, Problem> {
    Ok(Json(started(&node)?.events().series().since(after)))
}

/// The critics of the run.
#[utoipa::path(get, path = "/admin/critics", tag = "operation", responses(
    (status = 200, body = serde_json::Value), (status = 503, body = ErrorBody)
))]
pub(super) async fn critics(State(node): State<Node>) -> Result<Json<Value>, Problem> {
    let critics = started(&node)?.critics();
    let entries: Vec<&CriticEntry> = critics.entries().collect();
    Ok(Json(json!({ "serving": critics.serving(), "pinned": critics.pinned(), "critics": entries })))
}

/// One critic of the run.
#[utoipa::path(get, path = "/admin/critics/{version}", tag = "operation", params(("version" = u64, Path)), responses(
    (status = 200, body = serde_json::Value), (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)
))]
pub(super) async fn critic(State(node): State<Node>, Path(version): Path<u64>) -> Result<Json<CriticEntry>, Problem> {
    let version = CriticVersion(version);
    let unknown = || ControlError::Swap(SwapError::Registry(RegistryError::Unknown { version }));
    Ok(Json(started(&node)?.critics().entry(version).cloned().ok_or_else(unknown)?))
}
