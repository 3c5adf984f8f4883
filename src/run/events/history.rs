//! The newest events that an operator asks about, and a channel for those who follow them.
//!
//! Bounded: old events leave, and a follower that is too slow misses some and is told so.

use super::{Event, SwapKind};
use crate::types::{Label, unix_time};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;

/// Events that are kept.
const KEPT: usize = 1024;
/// Events that a follower may lag behind.
const LAG_MAX: usize = 256;

/// An event as clients read it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventRecord {
    /// Its number, from 1.
    pub id: u64,
    /// When, in milliseconds since 1970: what Grafana's annotations take.
    pub time: u64,
    /// What kind of event.
    pub kind: &'static str,
    /// What happened, in one sentence.
    pub text: String,
    /// The particulars.
    pub data: Value,
}

/// The newest events.
pub struct History {
    kept: Mutex<(u64, VecDeque<EventRecord>)>,
    followers: broadcast::Sender<EventRecord>,
}

impl Default for History {
    fn default() -> Self {
        Self { kept: Mutex::default(), followers: broadcast::channel(LAG_MAX).0 }
    }
}

impl History {
    /// Keeps `event`, if operators ask about its kind.
    pub(super) fn note(&self, event: &Event) {
        let Some((kind, text, data)) = describe(event) else { return };
        let time = unix_time::now().as_millis() as u64;
        let mut kept = self.lock();
        kept.0 += 1;
        let record = EventRecord { id: kept.0, time, kind, text, data };
        kept.1.push_back(record.clone());
        if kept.1.len() > KEPT {
            kept.1.pop_front();
        }
        // Without followers nobody misses it.
        let _ = self.followers.send(record);
    }

    /// The events after number `after`, the oldest first; all of them where the number is of an earlier process.
    pub fn since(&self, after: u64) -> Vec<EventRecord> {
        let kept = self.lock();
        let after = if after > kept.0 { 0 } else { after };
        kept.1.iter().filter(|record| record.id > after).cloned().collect()
    }

    /// The events from now on.
    pub fn follow(&self) -> broadcast::Receiver<EventRecord> {
        self.followers.subscribe()
    }

    /// Whole whatever panicked: an event is added in one step.
    fn lock(&self) -> MutexGuard<'_, (u64, VecDeque<EventRecord>)> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Kind, sentence and particulars of an event that is kept.
fn describe(event: &Event) -> Option<(&'static str, String, Value)> {
    Some(match event {
        Event::ActivityChanged(activity) => {
            ("activity", format!("the node waits for {}", activity.words()), json!({ "waits_for": activity.words() }))
        }
        Event::Published { version, step } => (
            "publication",
            format!("critic {version} of step {step} is in service"),
            json!({ "version": version.0, "step": step }),
        ),
        Event::CriticEntered { version, kind, reason, by, why } => {
            let name = if *kind == SwapKind::Rollback { "rollback" } else { "swap" };
            let data = json!({ "version": version.0, "by": by, "reason": reason.value(), "why": why });
            (name, format!("critic {version} is in service: {why}"), data)
        }
        Event::CriticRejected { version, reason, by, why } => {
            let data = json!({ "version": version.0, "by": by, "reason": reason.value(), "why": why });
            ("rejection", format!("critic {version} was rejected: {why}"), data)
        }
        Event::TrialBegan { version } => (
            "trial",
            format!("critic {version} writes the critiques of a share of the episodes"),
            json!({ "version": version.0 }),
        ),
        Event::CriticRefused { by, why } => {
            ("refusal", format!("what {by} offered was refused: {why}"), json!({ "by": by, "why": why }))
        }
        Event::Controlled { what, by } => ("control", what.clone(), json!({ "by": by })),
        Event::Evaluated { version, step, summary, .. } => {
            let cu = summary.cu.map(|cu| cu.value);
            let data = json!({ "version": version.0, "step": step, "cu": cu });
            ("evaluation", format!("critic {version} was evaluated"), data)
        }
        Event::EvalFailed(why) => ("evaluation_failed", format!("the evaluation failed: {why}"), json!({ "why": why })),
        Event::CheckpointSaved { step, seconds } => {
            ("checkpoint", format!("wrote a checkpoint of step {step}"), json!({ "step": step, "seconds": seconds }))
        }
        Event::CheckpointFailed => ("checkpoint_failed", "a checkpoint was not written".to_owned(), Value::Null),
        Event::Restarted { actor_kind, restarts } => {
            let data = json!({ "actor": actor_kind.value(), "restarts": restarts });
            ("restart", format!("restarted {}", actor_kind.value()), data)
        }
        Event::BatchDiscarded { batch, why } => {
            ("discarded", format!("discarded batch {batch}: {why}"), json!({ "batch": batch, "why": why }))
        }
        Event::DeviceStalled { since } => {
            let text = if since.is_some() { "the device thread stands still" } else { "the device thread goes on" };
            ("device", text.to_owned(), json!({ "stalled": since.is_some() }))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::CriticVersion;

    #[test]
    fn the_newest_events_are_kept_and_followed_in_order() {
        let history = History::default();
        let mut following = history.follow();
        for step in 0..KEPT as u64 + 10 {
            history.note(&Event::Published { version: CriticVersion(step + 1), step });
        }
        history.note(&Event::DeadlineMissed(crate::types::Role::Judge));
        let all = history.since(0);
        assert_eq!((all.len(), all[0].id), (KEPT, 11));
        assert_eq!(history.since(KEPT as u64 + 9).len(), 1);
        assert_eq!(history.since(1_000_000).len(), KEPT, "a number of an earlier process");
        assert_eq!(all[KEPT - 1].text, format!("critic v{} of step {} is in service", KEPT + 10, KEPT + 9));
        // A slow follower is told how many it missed.
        let lagged = following.try_recv();
        assert!(matches!(lagged, Err(broadcast::error::TryRecvError::Lagged(missed)) if missed > 0), "{lagged:?}");
    }
}
