//! *Judges*: whether the verdicts can be trusted.

use super::board::{Board, Panel, Row, Unit, row};
use super::query::{Expr, Scope};
use crate::telemetry::metrics;

/// The dashboard.
pub(super) fn board() -> Board {
    Board {
        name: "judges",
        title: "Judges",
        description: "Whether the verdicts that the critic learns from can be trusted, and what remote judges cost.",
        by_task: false,
        rows: vec![agreement(), invalid(), remote()],
    }
}

/// Verdicts that are invalid, as the values of their label begin.
pub(super) const INVALID: &str = "invalid.*";

/// The share of the verdicts that are invalid, by instance.
pub(super) fn invalid_share(scope: &Scope) -> Expr {
    let all = scope.rate(&metrics::VERDICTS).sum(&["instance"]);
    scope.like("verdict", INVALID).rate(&metrics::VERDICTS).sum(&["instance"]).per(&all)
}

/// A model judge's position bias, by instance: from -1 (always the second text) to 1 (always the first).
pub(super) fn position_bias(scope: &Scope) -> Expr {
    let of = |answer| scope.only("answer", answer).rate(&metrics::JUDGE_ANSWERS).sum(&["instance"]);
    of("first").less(&of("second")).per(&of("first").plus(&of("second")))
}

fn agreement() -> Row {
    let q = Scope::panel();
    let pairs = q.rate(&metrics::JUDGE_ORDERS).sum(&["instance"]);
    let same = q.only("orders", "same").rate(&metrics::JUDGE_ORDERS).sum(&["instance"]);
    row(
        "Both orders of a pair",
        [
            Panel::lines(
                "Order agreement",
                "Share of the pairs of which both orders say the same. Only a model that judges is asked in both orders.",
                Unit::Share,
            )
            .query(same.per(&pairs), "{{instance}}")
            .bad_below(0.3, 0.6),
            Panel::lines(
                "Position bias",
                "From -1, where the text shown second always wins, to 1, where the first does.",
                Unit::Number,
            )
            .query(position_bias(&q), "{{instance}}")
            .within(-1.0, 1.0),
            Panel::stack("Pairs", "Pairs judged, by whether the orders agree.", Unit::PerSecond)
                .query(q.rate(&metrics::JUDGE_ORDERS).sum(&["orders"]), "{{orders}}"),
            Panel::stack("Answers", "A model's answers to one order.", Unit::PerSecond)
                .query(q.rate(&metrics::JUDGE_ANSWERS).sum(&["answer"]), "{{answer}}"),
            Panel::lines("Under way", "Requests to the judge under way, and the age of the oldest.", Unit::Number)
                .query(q.only("stage", "verdict").gauge(&metrics::STAGE_IN_FLIGHT).sum(&[]), "requests")
                .query_right(
                    q.only("stage", "verdict").gauge(&metrics::STAGE_OLDEST_SECONDS).max(&[]),
                    "oldest",
                    Unit::Seconds,
                ),
            Panel::lines("Time", "Time of a request to the judge: all refinements of one critique.", Unit::Seconds)
                .query(q.only("stage", "verdict").quantile(0.5, &metrics::STAGE_SECONDS, &[]), "median")
                .query(q.only("stage", "verdict").quantile(0.95, &metrics::STAGE_SECONDS, &[]), "95 %"),
        ],
    )
}

fn invalid() -> Row {
    let q = Scope::panel();
    row(
        "Invalid verdicts",
        [
            Panel::lines(
                "Invalid share",
                "Share of the verdicts that are invalid: no loss, but no lesson either.",
                Unit::Share,
            )
            .query(invalid_share(&q), "{{instance}}")
            .bad_above(0.05, 0.2),
            Panel::stack(
                "By reason",
                "Invalid verdicts. `checker`: the verifier or its sandbox failed.",
                Unit::PerSecond,
            )
            .query(q.like("verdict", INVALID).rate(&metrics::VERDICTS).sum(&["verdict"]), "{{verdict}}"),
            Panel::stack(
                "Programs",
                "Programs that were checked in the sandbox, by how they ended. `forbidden`: it was stopped at what no answer \
                 may do.",
                Unit::PerSecond,
            )
            .query(q.rate(&metrics::PROGRAMS).sum(&["end"]), "{{end}}"),
            Panel::lines(
                "Wins less losses",
                "As a share of both: from -1, where every refinement loses, to 1, where every one wins.",
                Unit::Number,
            )
            .query(lean(&q), "{{instance}}")
            .within(-1.0, 1.0),
        ],
    )
}

/// Wins less losses, as a share of both.
fn lean(scope: &Scope) -> Expr {
    let of = |verdict| scope.only("verdict", verdict).rate(&metrics::VERDICTS).sum(&["instance"]);
    of("win").less(&of("loss")).per(&of("win").plus(&of("loss")))
}

fn remote() -> Row {
    let q = Scope::panel();
    row(
        "Remote servers",
        [
            Panel::stack("Tries", "Attempts to get an answer, by outcome.", Unit::PerSecond)
                .query(q.rate(&metrics::REMOTE_TRIES).sum(&["outcome"]), "{{outcome}}"),
            Panel::lines("Time of a try", "From sending to the end of the answer.", Unit::Seconds)
                .query(q.quantile(0.5, &metrics::REMOTE_SECONDS, &[]), "median")
                .query(q.quantile(0.95, &metrics::REMOTE_SECONDS, &[]), "95 %"),
            Panel::lines("In flight", "Attempts in flight.", Unit::Number)
                .query(q.gauge(&metrics::REMOTE_IN_FLIGHT), "{{instance}}"),
            Panel::lines(
                "Retries",
                "Attempts after a failed one, and those that the retry budget denied.",
                Unit::PerSecond,
            )
            .query(q.rate(&metrics::REMOTE_RETRIES).sum(&[]), "retried")
            .query(q.rate(&metrics::REMOTE_RETRIES_DENIED).sum(&[]), "denied"),
            Panel::stack("Tokens", "Tokens that remote servers report: what they charge for.", Unit::PerSecond)
                .query(q.rate(&metrics::REMOTE_TOKENS).sum(&["kind"]), "{{kind}}"),
        ],
    )
}
