//! Forwards the device thread's reports to metrics and the event bus.
//!
//! Called on the device thread, so it must be quick.

use crate::device;
use crate::engine::StepCost;
use crate::run::events::EventBus;
use crate::telemetry::metrics::{self, MemoryOwner};
use std::cell::Cell;

/// The observer of a device thread that reports to `events`; `cost` is what a step of its engine costs.
pub(crate) fn observer(events: EventBus, cost: StepCost) -> device::Observer {
    let share = Cell::new(0.0);
    // A moving mean in which each second of work weighs about a twentieth.
    let lately = move |learning: f64, seconds: f64| {
        share.set(share.get() + (learning - share.get()) * (seconds / 20.0).min(1.0));
        metrics::LEARNING_SHARE.set(share.get());
    };
    Box::new(move |event| match event {
        device::Event::Engine { report, duration, load } => {
            metrics::ENGINE_STEP_SECONDS.record(duration.as_secs_f64());
            metrics::PROMPT_TOKENS.add(report.prefill_tokens as u64);
            metrics::PROMPT_TOKENS_CACHED.add(report.cached_tokens as u64);
            metrics::SHARED_TOKENS.add(report.shared_tokens as u64);
            metrics::BLOCKS_COPIED.add(report.copied_blocks as u64);
            metrics::GENERATED_TOKENS.add(report.sampled_tokens as u64);
            metrics::HTTP_TOKENS.add(report.http_tokens as u64);
            metrics::OPERATIONS.add(cost.flops(&report.work) as u64);
            for admitted in &report.admitted {
                metrics::QUEUE_SECONDS.record(admitted.origin, admitted.waited.as_secs_f64());
            }
            for first in &report.first_tokens {
                metrics::FIRST_TOKEN_SECONDS.record(first.origin, first.waited.as_secs_f64());
            }
            metrics::PREEMPTIONS.add(report.preemptions as u64);
            metrics::SEQUENCES_RUNNING.set(load.running as f64);
            metrics::SEQUENCES_WAITING.set(load.waiting as f64);
            metrics::KV_USAGE.set(load.kv_usage);
            metrics::VERSIONS_ALIVE.set(load.versions_alive as f64);
            events.memory().holds(MemoryOwner::KvCache, load.kv_bytes);
            events.memory().holds(MemoryOwner::Critics, load.versions_bytes);
            events.stepped(report.sampled_tokens, load);
            lately(0.0, duration.as_secs_f64());
        }
        device::Event::Installed { duration } => metrics::INSTALL_SECONDS.record(duration.as_secs_f64()),
        device::Event::Learner { duration, bytes } => {
            events.memory().holds(MemoryOwner::Learner, bytes);
            metrics::MICRO_BATCH_SECONDS.record(duration.as_secs_f64());
            lately(1.0, duration.as_secs_f64());
        }
        device::Event::Command { waited } => metrics::COMMAND_WAIT_SECONDS.record(waited.as_secs_f64()),
    })
}
