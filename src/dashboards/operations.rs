//! *Operations*: what is in service, what failed, what is stuck, and what it takes.

use super::board::{Board, Panel, Row, Unit, row};
use super::query::{Expr, Scope};
use crate::telemetry::metrics;

/// The dashboard.
pub(super) fn board() -> Board {
    Board {
        name: "operations",
        title: "Operations",
        description: "What is in service, what failed or is stuck, and what the node takes of its machine.",
        by_task: false,
        rows: vec![swaps(), failures(), http(), memory(), disk()],
    }
}

fn swaps() -> Row {
    let q = Scope::panel();
    row(
        "Critics in service",
        [
            Panel::lines("Version in service", "0 is the base. It may go down: after a rollback.", Unit::Exact)
                .query(q.gauge(&metrics::CRITIC_VERSION), "{{instance}}"),
            Panel::stack(
                "Offered critics",
                "Critics that were offered in each interval, by what became of them.",
                Unit::Number,
            )
            .query(q.increase(&metrics::SWAPS).sum(&["outcome"]), "{{outcome}}")
            .colours(&[
                ("published", "blue"),
                ("swapped", "purple"),
                ("rolled_back", "orange"),
                ("rejected|refused", "red"),
            ]),
            Panel::lines(
                "Time to install",
                "Time that decoding paused between two steps to put a critic into service or to load one.",
                Unit::Seconds,
            )
            .query(q.quantile(0.5, &metrics::INSTALL_SECONDS, &[]), "median")
            .query(q.quantile(0.99, &metrics::INSTALL_SECONDS, &[]), "99 %"),
            Panel::stack("Decided by", "Offered critics in each interval, by what decided about them.", Unit::Number)
                .query(q.increase(&metrics::SWAPS).sum(&["reason"]), "{{reason}}"),
            Panel::lines(
                "Time of a swap",
                "From the offer of a critic until it serves, is on trial or is refused.",
                Unit::Seconds,
            )
            .query(q.mean_of(&metrics::SWAP_SECONDS, &["instance"]), "mean {{instance}}"),
            Panel::lines(
                "Canary of a publication",
                "Time that the logits of a publication are compared.",
                Unit::Seconds,
            )
            .query(q.quantile(0.5, &metrics::GLANCE_SECONDS, &[]), "median")
            .query(q.quantile(0.99, &metrics::GLANCE_SECONDS, &[]), "99 %"),
        ],
    )
}

fn failures() -> Row {
    let q = Scope::panel();
    row(
        "Failures and stalls",
        [
            Panel::stack("Restarts", "Restarts in each interval, by the actor that failed.", Unit::Number)
                .query(q.increase(&metrics::RESTARTS).sum(&["actor"]), "{{actor}}"),
            Panel::lines("Oldest by stage", "Age of the oldest request at each stage.", Unit::Seconds)
                .query(q.gauge(&metrics::STAGE_OLDEST_SECONDS).max(&["stage"]), "{{stage}}")
                .bad_above(300.0, 900.0),
            Panel::lines("Time in a stage", "95th percentile of the time in each stage.", Unit::Seconds)
                .query(q.quantile(0.95, &metrics::STAGE_SECONDS, &["stage"]), "{{stage}}"),
            Panel::lines("Episodes in flight", "Episodes that run, and how many may.", Unit::Number)
                .query(q.gauge(&metrics::EPISODES_IN_FLIGHT), "in flight {{instance}}")
                .query(q.gauge(&metrics::EPISODES_LIMIT), "limit {{instance}}"),
            Panel::lines("Episode time", "Time from an episode's prompt to its end.", Unit::Seconds)
                .query(q.quantile(0.5, &metrics::EPISODE_SECONDS, &[]), "median")
                .query(q.quantile(0.95, &metrics::EPISODE_SECONDS, &[]), "95 %"),
            Panel::lines(
                "Admission",
                "Episodes begun, those that the curriculum passed over, and times that rollout waited for the learner.",
                Unit::PerSecond,
            )
            .query(q.rate(&metrics::EPISODES_STARTED).sum(&["instance"]), "begun {{instance}}")
            .query(q.rate(&metrics::EPISODES_PASSED_OVER).sum(&["instance"]), "passed over {{instance}}")
            .query(q.rate(&metrics::REPLAY_WAITS).sum(&["instance"]), "waits {{instance}}"),
        ],
    )
}

/// The share of the requests that the node failed to answer, by instance.
pub(super) fn http_errors(scope: &Scope) -> Expr {
    let all = scope.rate(&metrics::HTTP_REQUESTS).sum(&["instance"]);
    scope.only("code", "5xx").rate(&metrics::HTTP_REQUESTS).sum(&["instance"]).per(&all)
}

fn http() -> Row {
    let q = Scope::panel();
    row(
        "Listener",
        [
            Panel::stack("Requests", "Requests answered, by route and code.", Unit::PerSecond)
                .query(q.rate(&metrics::HTTP_REQUESTS).sum(&["route", "code"]), "{{route}} {{code}}"),
            Panel::lines("Until the answer begins", "95th percentile, by route.", Unit::Seconds)
                .query(q.quantile(0.95, &metrics::HTTP_SECONDS, &["route"]), "{{route}}"),
            Panel::lines("Failed requests", "Share of the requests that the node failed to answer (5xx).", Unit::Share)
                .query(http_errors(&q), "{{instance}}")
                .bad_above(0.01, 0.05),
            Panel::lines("Requests for texts", "Requests for texts that are being answered.", Unit::Number)
                .query(q.gauge(&metrics::HTTP_IN_FLIGHT), "{{instance}}"),
            Panel::stack("Jobs of actors", "What each actor is at.", Unit::Number)
                .query(q.gauge(&metrics::JOBS).sum(&["actor"]), "{{actor}}"),
            Panel::lines("Oldest job", "How long each actor has been at its oldest job.", Unit::Seconds)
                .query(q.gauge(&metrics::JOB_OLDEST_SECONDS).max(&["actor"]), "{{actor}}"),
        ],
    )
}

/// The process's memory as a share of what was planned, by instance.
pub(super) fn memory_of_plan(scope: &Scope) -> Expr {
    scope.gauge(&metrics::MEMORY).sum(&["instance"]).per(&scope.gauge(&metrics::MEMORY_PLANNED).sum(&["instance"]))
}

/// Bytes by which the process is over its plan, by instance.
pub(super) fn memory_over_plan(scope: &Scope) -> Expr {
    let of = |gauge| scope.gauge(gauge).sum(&["instance"]);
    of(&metrics::MEMORY).less(&of(&metrics::MEMORY_PLANNED))
}

fn memory() -> Row {
    let q = Scope::panel();
    row(
        "Memory",
        [
            Panel::stack("By owner", "Memory by owner; together they are the process's resident memory.", Unit::Bytes)
                .query(q.gauge(&metrics::MEMORY).sum(&["owner"]), "{{owner}}"),
            Panel::stack("Planned", "The same, as it was planned at the start.", Unit::Bytes)
                .query(q.gauge(&metrics::MEMORY_PLANNED).sum(&["owner"]), "{{owner}}"),
            Panel::lines("Measured of planned", "Above 1.15 the plan was wrong.", Unit::Number)
                .query(memory_of_plan(&q), "{{instance}}")
                .bad_above(1.0, 1.15),
        ],
    )
}

/// Learner steps by which a checkpoint is overdue, by instance; below 0 while there is time.
pub(super) fn steps_overdue(scope: &Scope) -> Expr {
    scope.gauge(&metrics::LEARNER_STEP).less(&scope.gauge(&metrics::CHECKPOINT_DUE_STEP))
}

/// The share of the disk that is free.
pub(super) fn disk_free(scope: &Scope) -> Expr {
    scope.gauge(&metrics::DISK_FREE_BYTES).per(&scope.gauge(&metrics::DISK_BYTES))
}

fn disk() -> Row {
    let q = Scope::panel();
    row(
        "Checkpoints and disk",
        [
            Panel::lines("Age of the newest checkpoint", "What would be learned again after a crash.", Unit::Seconds)
                .query(Expr::now().less(&q.gauge(&metrics::CHECKPOINT_TIMESTAMP)), "{{instance}}"),
            Panel::lines("Steps until the next", "Learner steps until the next checkpoint is due.", Unit::Number)
                .query(steps_overdue(&q).times(-1.0), "{{instance}}")
                .free(),
            Panel::lines(
                "Writing",
                "Checkpoints written and failed in each interval, and the time to write one.",
                Unit::Number,
            )
            .query(q.increase(&metrics::CHECKPOINTS).sum(&["instance"]), "written {{instance}}")
            .query(q.increase(&metrics::CHECKPOINT_FAILURES).sum(&["instance"]), "failed {{instance}}")
            .query_right(
                q.mean_of(&metrics::CHECKPOINT_SECONDS, &["instance"]),
                "time {{instance}}",
                Unit::Seconds,
            ),
            Panel::lines(
                "Files",
                "Sizes of the newest checkpoint, the journal, the recorded groups and the episode records.",
                Unit::Bytes,
            )
            .query(q.gauge(&metrics::CHECKPOINT_BYTES), "checkpoint {{instance}}")
            .query(q.gauge(&metrics::JOURNAL_BYTES), "journal {{instance}}")
            .query(q.gauge(&metrics::GROUPS_FILE_BYTES), "groups {{instance}}")
            .query(q.gauge(&metrics::EPISODES_FILE_BYTES), "episodes {{instance}}"),
            Panel::stack(
                "Episode records",
                "Records of episodes in each interval, by whether they were written.",
                Unit::Number,
            )
            .query(q.increase(&metrics::EPISODE_RECORDS).sum(&["result"]), "{{result}}"),
            Panel::lines("Disk", "Free space on the run directory's file system, and its size.", Unit::Bytes)
                .query(q.gauge(&metrics::DISK_FREE_BYTES), "free {{instance}}")
                .query(q.gauge(&metrics::DISK_BYTES), "size {{instance}}"),
            Panel::lines("Free share", "Free share of that file system.", Unit::Share)
                .query(disk_free(&q), "{{instance}}")
                .bad_below(0.03, 0.1),
        ],
    )
}
