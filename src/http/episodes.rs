//! `/episodes`: the records of episodes, in lists and one by one.
//!
//! Reads only, each bounded: a list has a limit, and a search in texts a time.

use super::node::{Node, started};
use super::problem::{ErrorBody, Problem, expect};
use crate::records::{EpisodeStore, EpisodeSummary, Error, Filter, Page, Span, TextPattern};
use crate::types::{CriticVersion, EpisodeId};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Episodes of a list, unless the client says otherwise.
const LIMIT: usize = 50;
/// Episodes of a list at most.
const LIMIT_MAX: usize = 1000;
/// How long one request may search texts.
const PATIENCE: Duration = Duration::from_millis(500);
/// Requests that read the disk at once.
const READERS_MAX: usize = 2;

/// The node, and the requests that may read the disk now.
#[derive(Clone)]
struct Reading {
    node: Node,
    readers: Arc<Semaphore>,
}

/// The routes of episode records.
pub(super) fn routes(node: Node) -> OpenApiRouter {
    let readers = Arc::new(Semaphore::new(READERS_MAX));
    OpenApiRouter::new().routes(routes!(episodes)).routes(routes!(episode)).with_state(Reading { node, readers })
}

/// Which episodes. All conditions that are given have to hold.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// Of this task.
    task: Option<String>,
    /// Of the prompt with this id.
    prompt: Option<String>,
    /// With a critique by this version of the critic.
    version: Option<u64>,
    /// With a critique (by that version, if one is given) whose CU is at least this, from 0 to 1.
    cu_min: Option<f32>,
    /// ... and at most this.
    cu_max: Option<f32>,
    /// `true`: in which a verdict is invalid, or a critique or the episode was dropped.
    invalid: bool,
    /// With this text in the prompt, the response, a critique or a refinement, whatever the case of letters.
    text: Option<String>,
    /// Goes on where an earlier list ended: its `next`.
    before: Option<u64>,
    /// Episodes at most, from 1 to 1000; 50 if absent.
    limit: Option<usize>,
}

/// A list of episodes, the newest first.
#[derive(Serialize)]
struct Listed {
    episodes: Vec<Arc<EpisodeSummary>>,
    /// `before` of the rest of the list; null at its end. A search that took too long ends early, perhaps without an episode.
    next: Option<u64>,
    /// Episodes from `before` on that pass; null where texts are searched.
    total: Option<usize>,
    /// Episodes that are kept.
    kept: usize,
    /// Their tasks, whatever was asked for; the first 256 by name.
    tasks: Vec<String>,
}

impl Asked {
    fn filter(&self) -> Result<Filter, Problem> {
        for (name, bound) in [("cu_min", self.cu_min), ("cu_max", self.cu_max)] {
            let fits = bound.is_none_or(|cu| (0.0..=1.0).contains(&cu));
            expect(name, fits, "a critique utility from 0 to 1", bound.unwrap_or_default())?;
        }
        let text = self.text.as_ref().filter(|text| !text.is_empty()).map(|text| TextPattern::new(text)).transpose();
        Ok(Filter {
            task: self.task.clone(),
            prompt_id: self.prompt.clone(),
            is_invalid: self.invalid,
            version: self.version.map(CriticVersion),
            cu_min: self.cu_min,
            cu_max: self.cu_max,
            text: text.map_err(|error| Problem::invalid("text", format!("text: {error}")))?,
        })
    }

    fn span(&self) -> Result<Span, Problem> {
        let limit = self.limit.unwrap_or(LIMIT);
        expect("limit", (1..=LIMIT_MAX).contains(&limit), "from 1 to 1000", limit)?;
        Ok(Span { before: self.before, limit, patience: PATIENCE })
    }
}

/// Episodes that have ended, the newest first.
#[utoipa::path(get, path = "/episodes", tag = "operation", params(Asked), responses(
    (status = 200, body = serde_json::Value), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 503, body = ErrorBody)
))]
async fn episodes(
    State(reading): State<Reading>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Listed>, Problem> {
    let Query(asked) = asked.map_err(|rejection| Problem::bad_request("invalid_query", &rejection.body_text()))?;
    let (filter, span) = (asked.filter()?, asked.span()?);
    let page = reading.read(move |store| store.page(&filter, span)).await?;
    let Page { episodes, next, total, kept, tasks } = page;
    Ok(Json(Listed { episodes, next, total, kept, tasks }))
}

/// One episode's whole tree, as it is on disk.
#[utoipa::path(get, path = "/episodes/{id}", tag = "operation", params(("id" = u64, Path)), responses(
    (status = 200, body = serde_json::Value), (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)
))]
async fn episode(State(reading): State<Reading>, Path(id): Path<u64>) -> Result<Response, Problem> {
    let record = reading.read(move |store| store.json(EpisodeId(id))).await?;
    let unknown = || {
        let what = format!("episode {id}: expected one that has ended and is still kept");
        Problem::new(StatusCode::NOT_FOUND, "unknown_episode", &what)
    };
    let record = record.ok_or_else(unknown)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], record).into_response())
}

impl Reading {
    /// What `read` finds in the store; it may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&EpisodeStore) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Problem> {
        let none = || {
            let what = "this run keeps no episode records: episodes.file_mib is 0";
            Problem::new(StatusCode::NOT_FOUND, "no_episodes", what)
        };
        let store = started(&self.node)?.episodes().cloned().ok_or_else(none)?;
        // Nobody closes it.
        let permit = self.readers.clone().acquire_owned().await;
        let work = move || {
            let _permit = permit;
            read(&store)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(read) => read.map_err(|error| Problem::internal(error.to_string())),
            Err(_) => Err(Problem::internal("the request panicked")),
        }
    }
}
