//! Forwards the device thread's reports to metrics and the event bus.
//!
//! Called on the device thread, so it must be quick.

use crate::device;
use crate::run::events::EventBus;
use crate::telemetry::metrics;
use std::cell::Cell;

/// The observer of a device thread that reports to `events`.
pub(crate) fn observer(events: EventBus) -> device::Observer {
    let share = Cell::new(0.0);
    // A moving mean in which each second of work weighs about a twentieth.
    let lately = move |learning: f64, seconds: f64| {
        share.set(share.get() + (learning - share.get()) * (seconds / 20.0).min(1.0));
        metrics::LEARNING_SHARE.set(share.get());
    };
    Box::new(move |event| match event {
        device::Event::Engine { report, duration, running, waiting, kv_usage } => {
            metrics::ENGINE_STEP_SECONDS.record(duration.as_secs_f64());
            metrics::PROMPT_TOKENS.add(report.prefill_tokens as u64);
            metrics::PROMPT_TOKENS_CACHED.add(report.cached_tokens as u64);
            metrics::SHARED_TOKENS.add(report.shared_tokens as u64);
            metrics::BLOCKS_COPIED.add(report.copied_blocks as u64);
            metrics::GENERATED_TOKENS.add(report.sampled_tokens as u64);
            metrics::PREEMPTIONS.add(report.preemptions as u64);
            metrics::SEQUENCES_RUNNING.set(running as f64);
            metrics::SEQUENCES_WAITING.set(waiting as f64);
            metrics::KV_USAGE.set(kv_usage);
            events.sampled(report.sampled_tokens);
            lately(0.0, duration.as_secs_f64());
        }
        device::Event::Learner { duration } => {
            metrics::MICRO_BATCH_SECONDS.record(duration.as_secs_f64());
            lately(1.0, duration.as_secs_f64());
        }
        device::Event::Command { waited } => metrics::COMMAND_WAIT_SECONDS.record(waited.as_secs_f64()),
    })
}
