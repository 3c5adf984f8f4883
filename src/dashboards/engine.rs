//! *Engine*: how texts are written, and how the device's time is spent.

use super::board::{Board, Panel, Row, Unit, row};
use super::query::Scope;
use crate::telemetry::metrics;

/// The dashboard.
pub(super) fn board() -> Board {
    Board {
        name: "engine",
        title: "Engine",
        description: "How fast texts are written, for whom, and what limits it.",
        by_task: false,
        rows: vec![throughput(), latency(), cache(), device()],
    }
}

fn throughput() -> Row {
    let q = Scope::panel();
    let critic = q.only("role", "critic");
    row(
        "Throughput",
        [
            Panel::stack("Tokens by role", "Tokens of texts that each role finished.", Unit::PerSecond)
                .query(q.rate(&metrics::ROLE_WRITTEN).sum(&["role"]), "{{role}}"),
            Panel::stack(
                "Tokens by critic",
                "Tokens of critiques, by the critic that wrote them: the one in service, the one on trial, others.",
                Unit::PerSecond,
            )
            .query(critic.rate(&metrics::ROLE_WRITTEN).sum(&["version"]), "{{version}}"),
            Panel::lines(
                "Sampled and computed",
                "Tokens sampled, those of them for clients of the API, and prompt tokens computed.",
                Unit::PerSecond,
            )
            .query(q.rate(&metrics::GENERATED_TOKENS).sum(&[]), "sampled")
            .query(q.rate(&metrics::HTTP_TOKENS).sum(&[]), "sampled for HTTP")
            .query(q.rate(&metrics::PROMPT_TOKENS).sum(&[]), "prompts computed")
            .query(q.gauge(&metrics::TOKENS_PER_SECOND).sum(&[]), "as the status line says"),
            Panel::lines("Sequences", "Sequences that are decoding or prefilling, and those that wait.", Unit::Number)
                .query(q.gauge(&metrics::SEQUENCES_RUNNING), "running {{instance}}")
                .query(q.gauge(&metrics::SEQUENCES_WAITING), "waiting {{instance}}"),
            Panel::lines("Texts", "Texts finished by each role.", Unit::PerSecond)
                .query(q.count_rate(&metrics::ROLE_TOKENS).sum(&["role"]), "{{role}}"),
            Panel::lines("Critics in memory", "Critic versions whose weights are in memory.", Unit::Number)
                .query(q.gauge(&metrics::VERSIONS_ALIVE), "{{instance}}"),
        ],
    )
}

fn latency() -> Row {
    let q = Scope::panel();
    let first = &metrics::FIRST_TOKEN_SECONDS;
    row(
        "Latency",
        [
            Panel::lines(
                "First token",
                "Time from a request to its first token, waiting and prefill included, by who asked.",
                Unit::Seconds,
            )
            .query(q.quantile(0.5, first, &["origin"]), "median {{origin}}")
            .query(q.quantile(0.95, first, &["origin"]), "95 % {{origin}}"),
            Panel::lines(
                "Between tokens",
                "Time of one engine step: each running sequence gets one token from it.",
                Unit::Seconds,
            )
            .query(q.quantile(0.5, &metrics::ENGINE_STEP_SECONDS, &[]), "median")
            .query(q.quantile(0.99, &metrics::ENGINE_STEP_SECONDS, &[]), "99 %"),
            Panel::lines(
                "Answers",
                "95th percentile of the time from a request to a role until its answer.",
                Unit::Seconds,
            )
            .query(q.quantile(0.95, &metrics::ROLE_SECONDS, &["role"]), "{{role}}"),
            Panel::heat("Step time", "Engine steps by their time.", Unit::Seconds)
                .query(q.buckets(&metrics::ENGINE_STEP_SECONDS), "{{le}}"),
            Panel::lines(
                "Queued",
                "Time from a request until its prompt begins to be computed, by who asked.",
                Unit::Seconds,
            )
            .query(q.quantile(0.5, &metrics::QUEUE_SECONDS, &["origin"]), "median {{origin}}")
            .query(q.quantile(0.95, &metrics::QUEUE_SECONDS, &["origin"]), "95 % {{origin}}"),
            Panel::lines("Commands", "Time that commands waited for the device thread.", Unit::Seconds)
                .query(q.quantile(0.5, &metrics::COMMAND_WAIT_SECONDS, &[]), "median")
                .query(q.quantile(0.99, &metrics::COMMAND_WAIT_SECONDS, &[]), "99 %"),
            Panel::lines("Missed deadlines", "Requests that a role did not answer in time.", Unit::PerSecond)
                .query(q.rate(&metrics::ROLE_DEADLINES).sum(&["role"]), "{{role}}"),
        ],
    )
}

fn cache() -> Row {
    let q = Scope::panel();
    let cached = q.rate(&metrics::PROMPT_TOKENS_CACHED).sum(&["instance"]);
    let asked = cached.plus(&q.rate(&metrics::PROMPT_TOKENS).sum(&["instance"]));
    row(
        "KV cache",
        [
            Panel::lines("In use", "Share of the KV blocks that sequences hold.", Unit::Share)
                .query(q.gauge(&metrics::KV_USAGE), "{{instance}}")
                .bad_above(0.9, 0.98),
            Panel::lines("Prefix hits", "Share of the prompt tokens that were found in the cache.", Unit::Share)
                .query(cached.per(&asked), "{{instance}}"),
            Panel::lines(
                "Preemptions",
                "Sequences preempted because blocks ran out; what they had is computed again.",
                Unit::PerSecond,
            )
            .query(q.rate(&metrics::PREEMPTIONS).sum(&["instance"]), "{{instance}}"),
            Panel::lines("Computed once", "Tokens that were computed once for several continuations.", Unit::PerSecond)
                .query(q.rate(&metrics::SHARED_TOKENS).sum(&["instance"]), "{{instance}}"),
            Panel::lines("Copied blocks", "Blocks copied because others still read them.", Unit::PerSecond)
                .query(q.rate(&metrics::BLOCKS_COPIED).sum(&["instance"]), "{{instance}}"),
        ],
    )
}

fn device() -> Row {
    let q = Scope::panel();
    let busy = |histogram| q.sum_rate(histogram).sum(&["instance"]);
    row(
        "Device",
        [
            Panel::stack(
                "Time of the device thread",
                "Share of each second spent on engine steps, on learning and on installing critics. The rest is idle.",
                Unit::Share,
            )
            .query(busy(&metrics::ENGINE_STEP_SECONDS), "engine {{instance}}")
            .query(busy(&metrics::MICRO_BATCH_SECONDS), "learner {{instance}}")
            .query(busy(&metrics::INSTALL_SECONDS), "critics {{instance}}"),
            Panel::lines(
                "Arithmetic",
                "Operations of linears and attention a second, as a share of the most that the processor does in f32. A text \
                 that is decoded alone is bound by memory: this is low then.",
                Unit::Share,
            )
            .query(q.rate(&metrics::OPERATIONS).per(&q.gauge(&metrics::OPERATIONS_PEAK)), "{{instance}}"),
            Panel::lines(
                "At one thing",
                "How long the thread has been at one step, micro-batch or command.",
                Unit::Seconds,
            )
            .query(q.gauge(&metrics::DEVICE_BUSY_SECONDS), "{{instance}}")
            .bad_above(60.0, 300.0),
            Panel::lines(
                "Micro-batches",
                "Time of a learner micro-batch: the longest that decoding waits for.",
                Unit::Seconds,
            )
            .query(q.quantile(0.5, &metrics::MICRO_BATCH_SECONDS, &[]), "median")
            .query(q.quantile(0.99, &metrics::MICRO_BATCH_SECONDS, &[]), "99 %"),
        ],
    )
}
