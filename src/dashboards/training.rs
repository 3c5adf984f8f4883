//! *Training*: what the critic earns and how it learns.

use super::board::{Board, Panel, Row, Unit, row};
use super::overview::{learner_idle, rollout_idle};
use super::query::Scope;
use super::rules::{flat_share, replay_uses};
use crate::telemetry::metrics;

/// The window of shares whose parts come one after the other: a group is scored long before it is learned.
const HALF_HOUR: &str = "30m";

/// The dashboard.
pub(super) fn board() -> Board {
    Board {
        name: "training",
        title: "Training",
        description: "What the critic earns, on what, and how it learns from it.",
        by_task: true,
        rows: vec![utility(), verdicts(), optimisation(), policy(), data(), balance()],
    }
}

fn utility() -> Row {
    let q = Scope::panel();
    let chosen = q.like("task", "$task").like("version", "$version");
    let utility = &metrics::UTILITY_HISTOGRAM;
    row(
        "Critique utility",
        [
            Panel::lines("By task", "Mean CU of the critiques scored in each interval, by task.", Unit::Share)
                .query(chosen.mean_of(utility, &["task"]), "{{task}}"),
            Panel::lines("By critic", "The same by critic: the one in service, the one on trial, others.", Unit::Share)
                .query(chosen.mean_of(utility, &["version"]), "{{version}}"),
            Panel::heat("Spread", "How many critiques earned how much. Two bands at 0 and 1 mean M = 1.", Unit::Share)
                .query(chosen.buckets(utility), "{{le}}"),
            Panel::lines(
                "Held-out",
                "CU of the critic in service on held-out prompts, with its 95 % interval.",
                Unit::Share,
            )
            .query(q.gauge(&metrics::EVAL_UTILITY_LOW), "low {{instance}}")
            .query(q.gauge(&metrics::EVAL_UTILITY), "CU {{instance}}")
            .query(q.gauge(&metrics::EVAL_UTILITY_HIGH), "high {{instance}}"),
            Panel::lines("Held-out accuracy", "Share of correct texts before and after the refinement.", Unit::Share)
                .query(q.gauge(&metrics::EVAL_ACCURACY_BEFORE), "before {{instance}}")
                .query(q.gauge(&metrics::EVAL_ACCURACY_AFTER), "after {{instance}}"),
            Panel::lines(
                "Evaluated, best and saved step",
                "Learner step of the last evaluation, of the best checkpoint and of the newest.",
                Unit::Exact,
            )
            .query(q.gauge(&metrics::EVAL_STEP), "evaluated {{instance}}")
            .query(q.gauge(&metrics::CHECKPOINT_BEST_STEP), "best {{instance}}")
            .query(q.gauge(&metrics::CHECKPOINT_STEP), "saved {{instance}}"),
        ],
    )
}

fn verdicts() -> Row {
    let q = Scope::panel();
    row(
        "What is judged",
        [
            Panel::stack("Verdicts", "Wins, ties, losses, and invalid ones by reason.", Unit::PerSecond)
                .query(q.rate(&metrics::VERDICTS).sum(&["verdict"]), "{{verdict}}")
                .colours(&[("win", "green"), ("tie", "yellow"), ("loss", "red"), ("invalid.*", "purple")]),
            Panel::lines(
                "Flat groups",
                "Share of the groups of the last half hour whose critiques all earned the same: they teach nothing.",
                Unit::Share,
            )
            .query(flat_share(&q.over(HALF_HOUR)), "{{instance}}")
            .bad_above(0.7, 0.9),
            Panel::stack("Dropped critiques", "Critiques that earned no utility, by reason.", Unit::PerSecond)
                .query(q.rate(&metrics::CRITIQUES_DROPPED).sum(&["reason"]), "{{reason}}"),
        ],
    )
}

fn optimisation() -> Row {
    let q = Scope::panel();
    row(
        "Optimisation",
        [
            Panel::lines(
                "Loss",
                "Loss of each step. RCO's is in units of the utilities, DPCO's in nats.",
                Unit::Number,
            )
            .query(q.gauge(&metrics::LOSS), "{{instance}}")
            .query(q.gauge(&metrics::VALUE_LOSS), "value network {{instance}}")
            .free(),
            Panel::lines(
                "Gradient norm",
                "Before clipping. A norm that keeps growing ends in a run that diverged.",
                Unit::Number,
            )
            .query(q.gauge(&metrics::GRADIENT_NORM), "{{instance}}"),
            Panel::lines("Learning rate and beta", "Of the last step.", Unit::Number)
                .query(q.gauge(&metrics::LEARNING_RATE), "learning rate {{instance}}")
                .query_right(q.gauge(&metrics::BETA), "beta {{instance}}", Unit::Number),
            Panel::lines(
                "Baseline",
                "Mean baseline, and the deviation by which utilities are scaled if they are.",
                Unit::Number,
            )
            .query(q.gauge(&metrics::BASELINE), "baseline {{instance}}")
            .query(q.gauge(&metrics::UTILITY_DEVIATION), "deviation {{instance}}")
            .free(),
            Panel::lines(
                "DPCO: preferences",
                "Share of pairs that the critic orders as the judge does, and the margin in nats.",
                Unit::Number,
            )
            .query(q.gauge(&metrics::PREFERENCE_MARGIN), "margin {{instance}}")
            .query_right(q.gauge(&metrics::PREFERENCE_ACCURACY), "accuracy {{instance}}", Unit::Share)
            .free(),
            Panel::lines("Step time", "Time of a learner step, its waits for the engine included.", Unit::Seconds)
                .query(q.quantile(0.5, &metrics::LEARNER_STEP_SECONDS, &[]), "median")
                .query(q.quantile(0.95, &metrics::LEARNER_STEP_SECONDS, &[]), "95 %"),
        ],
    )
}

fn policy() -> Row {
    let q = Scope::panel();
    row(
        "How far it has moved",
        [
            Panel::lines(
                "Log-ratio to the reference",
                "Mean over the last step's critiques (nats a critique): an estimate of the divergence where the critic wrote them.",
                Unit::Number,
            )
            .query(q.gauge(&metrics::LOG_RATIO_MEAN), "mean {{instance}}")
            .query(q.gauge(&metrics::BEHAVIOUR_MEAN), "to who wrote them {{instance}}")
            .free(),
            Panel::lines(
                "Second moments",
                "Mean square of both log-ratios (nats squared). It grows before a run diverges.",
                Unit::Number,
            )
            .query(q.gauge(&metrics::LOG_RATIO_SECOND_MOMENT), "to the reference {{instance}}")
            .query(q.gauge(&metrics::BEHAVIOUR_SECOND_MOMENT), "to who wrote them {{instance}}"),
            Panel::lines(
                "Sampler and learner",
                "Mean difference per token between the engine's log-probability and the learner's, for critiques by the current \
                 weights. It should be that of the weights' format.",
                Unit::Number,
            )
            .query(q.gauge(&metrics::TRAIN_INFERENCE_MISMATCH), "{{instance}}")
            .bad_above(0.04, 0.05),
            Panel::lines("Effective samples", "Effective sample size as a share of the critiques.", Unit::Share)
                .query(q.gauge(&metrics::EFFECTIVE_SAMPLES), "{{instance}}")
                .bad_below(0.1, 0.3),
            Panel::lines("Weighted utility", "Estimated utility of the critic on the last step's prompts.", Unit::Share)
                .query(q.gauge(&metrics::WEIGHTED_UTILITY), "{{instance}}"),
            Panel::lines("Truncated, masked, reset", "Critiques truncated by TOPR or masked, and resets of the reference.", Unit::Number)
                .query(q.increase(&metrics::CRITIQUES_TRUNCATED).sum(&["instance"]), "truncated {{instance}}")
                .query(q.increase(&metrics::CRITIQUES_MASKED).sum(&["instance"]), "masked {{instance}}")
                .query(q.gauge(&metrics::REFERENCE_RESETS), "resets {{instance}}"),
        ],
    )
}

fn data() -> Row {
    let q = Scope::panel();
    let critic = q.only("role", "critic");
    row(
        "What it learns from",
        [
            Panel::lines("Age", "Age of what is learned, in published versions.", Unit::Number)
                .query(q.quantile(0.5, &metrics::STALENESS, &[]), "median")
                .query(q.quantile(0.95, &metrics::STALENESS, &[]), "95 %")
                .query(q.gauge(&metrics::STALENESS_MEAN), "mean of the last step {{instance}}")
                .query(q.gauge(&metrics::STALENESS_MAX), "oldest of the last step {{instance}}"),
            Panel::lines(
                "Re-use",
                "Critiques learned in the last half hour for each one scored; about `replay.uses_max` at most.",
                Unit::Number,
            )
            .query(replay_uses(&q.over(HALF_HOUR)), "{{instance}}"),
            Panel::lines("Buffer", "Groups in replay, and those of them never learned from.", Unit::Number)
                .query(q.gauge(&metrics::REPLAY_GROUPS), "held {{instance}}")
                .query(q.gauge(&metrics::REPLAY_FRESH), "fresh {{instance}}"),
            Panel::stack("Groups offered", "Groups offered to replay, by what became of them.", Unit::PerSecond)
                .query(q.rate(&metrics::REPLAY_PUSHED).sum(&["result"]), "{{result}}"),
            Panel::stack(
                "Groups retired",
                "Groups that left replay, by reason. Aged ones were never used enough.",
                Unit::PerSecond,
            )
            .query(q.rate(&metrics::REPLAY_RETIRED).sum(&["reason"]), "{{reason}}"),
            Panel::lines("Length of critiques", "Tokens of a critique. Watch for texts that only grow.", Unit::Number)
                .query(critic.quantile(0.5, &metrics::ROLE_TOKENS, &[]), "median")
                .query(critic.quantile(0.95, &metrics::ROLE_TOKENS, &[]), "95 %"),
        ],
    )
}

fn balance() -> Row {
    let q = Scope::panel();
    row(
        "Balance",
        [
            Panel::lines(
                "Idle shares",
                "Share of the time that the learner waited for groups, and episodes for the learner.",
                Unit::Share,
            )
            .query(learner_idle(&q), "learner {{instance}}")
            .query(rollout_idle(&q), "rollout {{instance}}"),
            Panel::lines("Learner", "Steps and critique tokens learned, per second.", Unit::PerSecond)
                .query(q.rate(&metrics::LEARNER_STEPS).sum(&[]), "steps")
                .query_right(q.rate(&metrics::LEARNED_TOKENS).sum(&[]), "tokens", Unit::PerSecond),
            Panel::lines(
                "Evaluation time",
                "Time of an evaluation, during which the learner waits; and failures.",
                Unit::Seconds,
            )
            .query(q.mean_of(&metrics::EVAL_SECONDS, &["instance"]), "mean {{instance}}")
            .query_right(
                q.increase(&metrics::EVAL_FAILURES).sum(&["instance"]),
                "failures {{instance}}",
                Unit::Number,
            ),
        ],
    )
}
