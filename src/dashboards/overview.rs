//! *Overview*: is it learning, is it healthy, what does it wait for.

use super::board::{Board, Panel, Row, Unit, row};
use super::query::{Expr, Scope};
use crate::telemetry::metrics;

/// The dashboard.
pub(super) fn board() -> Board {
    Board {
        name: "overview",
        title: "Overview",
        description: "Is the critic learning, is the node healthy, and what does it wait for?",
        by_task: false,
        rows: vec![state(), learning(), waiting(), configured()],
    }
}

fn state() -> Row {
    let q = Scope::panel();
    row(
        "State",
        [
            Panel::stat("Up", "Whether the last scrape of each node succeeded.", Unit::YesNo)
                .query(q.up(), "{{instance}}")
                .bad_below(0.5, 1.0),
            Panel::stat(
                "Ready",
                "Whether the node works. `/readyz` says what it waits for if it does not.",
                Unit::YesNo,
            )
            .query(q.gauge(&metrics::NODE_READY), "{{instance}}")
            .bad_below(0.5, 1.0),
            Panel::stat("Started", "When the process began.", Unit::Since)
                .query(q.gauge(&metrics::NODE_STARTED).times(1000.0), "{{instance}}"),
            Panel::stat(
                "Critic in service",
                "Version of the critic that writes critiques; 0 is the base.",
                Unit::Exact,
            )
            .query(q.gauge(&metrics::CRITIC_VERSION), "{{instance}}"),
            Panel::stat("Learner step", "Steps taken by the run, resumed ones included.", Unit::Exact)
                .query(q.gauge(&metrics::LEARNER_STEP), "{{instance}}"),
            Panel::stat(
                "Critique utility",
                "Moving mean of critique utility (CU). 0.5 means: refinements are as good as the response.",
                Unit::Share,
            )
            .query(q.gauge(&metrics::UTILITY_MEAN), "{{instance}}"),
            Panel::stat("Tokens", "Tokens sampled by the engine, per second.", Unit::PerSecond)
                .query(q.rate(&metrics::GENERATED_TOKENS).sum(&[]), "all"),
            Panel::stat("Restarts", "Restarts of actors in the last 24 hours.", Unit::Number)
                .query(q.over("1d").increase(&metrics::RESTARTS).sum(&[]), "all")
                .bad_above(1.0, 5.0),
        ],
    )
}

fn learning() -> Row {
    let q = Scope::panel();
    row(
        "Is it learning?",
        [
            Panel::lines(
                "Critique utility",
                "Mean CU of the critiques scored in each interval, the moving mean over episodes, and CU on held-out prompts.",
                Unit::Share,
            )
            .query(q.mean_of(&metrics::UTILITY_HISTOGRAM, &["instance"]), "scored {{instance}}")
            .query(q.gauge(&metrics::UTILITY_MEAN), "moving mean {{instance}}")
            .query(q.gauge(&metrics::EVAL_UTILITY), "held-out {{instance}}"),
            Panel::lines("Loss", "Loss of each learner step, in units of the utilities.", Unit::Number)
                .query(q.gauge(&metrics::LOSS), "{{instance}}")
                .free(),
            Panel::stack("Episodes", "Episodes by how they ended. Only scored ones teach.", Unit::PerSecond)
                .query(q.rate(&metrics::EPISODES_ENDED).sum(&["outcome"]), "{{outcome}}")
                .colours(&[("scored", "green"), ("zero_variance", "yellow"), ("deadline", "red"), ("unscored", "orange")]),
        ],
    )
}

fn waiting() -> Row {
    let q = Scope::panel();
    row(
        "What does it wait for?",
        [
            Panel::stack("Under way", "Requests under way at each stage.", Unit::Number)
                .query(q.gauge(&metrics::STAGE_IN_FLIGHT).sum(&["stage"]), "{{stage}}"),
            Panel::lines(
                "Oldest wait",
                "Age of the oldest request at each stage. A line that only climbs is a stall.",
                Unit::Seconds,
            )
            .query(q.gauge(&metrics::STAGE_OLDEST_SECONDS).max(&["stage"]), "{{stage}}")
            .bad_above(300.0, 900.0),
            Panel::lines(
                "Idle shares",
                "Share of the time that the learner waited for groups, and episodes for the learner. One of them waits most of \
                 the time: the other is the bottleneck.",
                Unit::Share,
            )
            .query(learner_idle(&q), "learner {{instance}}")
            .query(rollout_idle(&q), "rollout {{instance}}")
            .query(q.gauge(&metrics::LEARNING_SHARE), "device learns {{instance}}"),
        ],
    )
}

/// The share of the time that the learner waited for groups.
pub(super) fn learner_idle(scope: &Scope) -> Expr {
    scope.only("stage", "lease").mean(&metrics::STAGE_IN_FLIGHT).sum(&["instance"])
}

/// The share of the episodes that waited until their groups could be used.
pub(super) fn rollout_idle(scope: &Scope) -> Expr {
    let waiting = scope.only("stage", "admission").mean(&metrics::STAGE_IN_FLIGHT).sum(&["instance"]);
    waiting.per(&scope.gauge(&metrics::EPISODES_LIMIT).sum(&["instance"]))
}

/// What is shown of a run's configuration.
const CONFIGURED: &[(&str, &str)] = &[
    ("instance", "node"),
    ("version", "version"),
    ("judge", "judge"),
    ("objective", "objective"),
    ("mode", "mode"),
    ("critiques", "critiques"),
    ("refinements", "refinements"),
    ("groups_per_step", "groups a step"),
    ("publish_every_steps", "steps a critic"),
    ("age_versions_max", "greatest age"),
    ("model", "model"),
];

fn configured() -> Row {
    let q = Scope::panel();
    row(
        "Configuration",
        [Panel::table("Run", "The program's version, and what the run was configured to do.", CONFIGURED)
            .query(q.gauge(&metrics::CONFIG_INFO).labelled("version", &q.gauge(&metrics::NODE_INFO)), "")],
    )
}
