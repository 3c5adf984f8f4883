//! Asks a node, on threads of its own: the screen waits for nobody.

use super::app::{News, Request};
use super::look::Look;
use crate::cli::exit::CommandError;
use crate::cli::node_client::{NodeArguments, NodeClient};
use crate::cli::operate;
use crate::config::Config;
use crossbeam_channel::{Receiver, Sender};
use serde_json::json;
use std::time::Duration;

/// The pause between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// How long a look may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Looks at the node until nobody listens. It is found anew where it did not answer: a new process listens elsewhere.
pub(super) fn look(config: &Config, node: &NodeArguments, news: &Sender<News>) {
    let (mut client, mut last_event) = (None, 0);
    loop {
        let looked = look_once(config, node, &mut client, &mut last_event);
        let heard = match looked {
            Ok(look) => News::Look(Box::new(look)),
            Err(error) => {
                (client, last_event) = (None, 0);
                News::Silent(error.in_one_line())
            }
        };
        if news.send(heard).is_err() {
            return;
        }
        std::thread::sleep(LOOK);
    }
}

fn look_once(
    config: &Config,
    node: &NodeArguments,
    client: &mut Option<NodeClient>,
    last_event: &mut u64,
) -> Result<Look, CommandError> {
    let client = match client {
        Some(client) => client,
        None => client.insert(NodeClient::find_patient(config, node, DEADLINE)?),
    };
    let status = client.get("/admin/status")?;
    let metrics = client.get("/metrics")?;
    let events = client.get(&format!("/events?after={last_event}"))?;
    let look = Look::read(&status, metrics.as_str().unwrap_or_default(), &events);
    *last_event = look.happened.last().map_or(*last_event, |event| event.id);
    Ok(look)
}

/// Asks the node for each of `requests`, until there are no more.
pub(super) fn ask(config: &Config, node: &NodeArguments, requests: &Receiver<Request>, news: &Sender<News>) {
    for request in requests {
        let answer = NodeClient::find(config, node).and_then(|client| asked(&client, &request));
        if news.send(News::Answer(answer.map_err(|error| error.in_one_line()))).is_err() {
            return;
        }
    }
}

/// What became of `request`.
fn asked(client: &NodeClient, request: &Request) -> Result<String, CommandError> {
    match request {
        Request::Pause { what, paused } => {
            let path = if *paused { "/admin/pause" } else { "/admin/resume" };
            client.post(path, &json!({ "what": what }))?;
            Ok(format!("the {what} is {}", if *paused { "paused" } else { "running" }))
        }
        Request::Checkpoint => client.post("/admin/checkpoint", &json!({})).map(|_| "wrote a checkpoint".to_owned()),
        Request::Swap(critic) => {
            let mut body = operate::offer(critic)?;
            body["by"] = json!(operate::operator());
            Ok(operate::outcome(&client.post("/admin/swap", &body)?))
        }
        Request::Rollback => {
            let body = json!({ "version": null, "by": operate::operator() });
            Ok(operate::outcome(&client.post("/admin/rollback", &body)?))
        }
    }
}
