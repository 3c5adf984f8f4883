//! Alerts: what a person should look at, and where the runbook says what to do.
//!
//! An alert on a ratio also asks for enough events, so that a quiet hour does not fire it.

use super::operations::{disk_free, http_errors, memory_of_plan, memory_over_plan, steps_overdue};
use super::pace::Pace;
use super::query::{Expr, Scope};
use super::rules;
use crate::telemetry::metrics;

/// What any process may take beside its plan: 256 MiB.
const BYTES_OVER_PLAN: f64 = 268_435_456.0;

/// How soon to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Now: the run stands still or loses its work.
    Critical,
    /// Today: what the run learns is in doubt.
    Warning,
    /// When convenient: the machine could be used better.
    Info,
}

impl Severity {
    /// The value of the label.
    pub fn word(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// An alert.
#[derive(Clone, Debug)]
pub struct Alert {
    /// Its name: the heading of its section in the runbook.
    pub name: &'static str,
    /// What it fires on.
    pub expr: String,
    /// How long that must hold, as Prometheus writes it.
    pub wait: String,
    /// How soon to look.
    pub severity: Severity,
    /// What is wrong, in one sentence; labels as Prometheus' templates have them.
    pub summary: &'static str,
}

/// Makes alerts of one pace.
struct Maker(Pace);

impl Maker {
    fn over(&self, minutes: u32) -> Scope {
        Scope::rule(self.0.minutes(minutes))
    }

    fn alert(
        &self,
        (name, severity): (&'static str, Severity),
        expr: &Expr,
        wait_minutes: u32,
        summary: &'static str,
    ) -> Alert {
        Alert { name, expr: expr.to_string(), wait: self.0.minutes(wait_minutes), severity, summary }
    }
}

/// Every alert.
pub fn alerts(pace: Pace) -> Vec<Alert> {
    let make = Maker(pace);
    [health(&make), signal(&make), judging(&make), learning(&make), capacity(&make), disk(&make), changes(&make)]
        .concat()
}

/// Whether the node works at all.
fn health(make: &Maker) -> Vec<Alert> {
    let q = make.over(5);
    let working = q.unlike("stage", "admission|lease|evaluation");
    let stalled = working.gauge(&metrics::STAGE_OLDEST_SECONDS).is(">", make.0.seconds(900.0));
    let still = q.gauge(&metrics::DEVICE_BUSY_SECONDS).is(">", make.0.seconds(120.0));
    vec![
        make.alert(
            ("RcoNodeDown", Severity::Critical),
            &q.up().is("==", 0.0),
            2,
            "{{ $labels.instance }} does not answer scrapes",
        ),
        make.alert(
            ("RcoNotReady", Severity::Critical),
            &q.gauge(&metrics::NODE_READY).is("==", 0.0),
            15,
            "{{ $labels.instance }} has not been ready for 15 minutes",
        ),
        make.alert(
            ("RcoStageStalled", Severity::Critical),
            &stalled,
            1,
            "{{ $labels.instance }}: the oldest request of stage {{ $labels.stage }} has waited for more than 15 minutes",
        ),
        make.alert(
            ("RcoDeviceStalled", Severity::Critical),
            &still,
            1,
            "{{ $labels.instance }}: the device thread has been at one thing for more than 2 minutes",
        ),
    ]
}

/// Whether there is anything to learn from.
fn signal(make: &Maker) -> Vec<Alert> {
    let q = make.over(30);
    let ended = q.increase(&metrics::EPISODES_ENDED).sum(&["instance"]);
    let scored = q.count_increase(&metrics::UTILITY_HISTOGRAM).sum(&["instance"]);
    let long = Expr::recorded(rules::UTILITY_LONG);
    let fallen = long.less(&Expr::recorded(rules::UTILITY)).is(">", 0.1);
    vec![
        make.alert(
            ("RcoNoUtility", Severity::Critical),
            &ended.is(">", 0.0).and(&scored.is("==", 0.0)),
            10,
            "{{ $labels.instance }}: episodes end, and no critique earns a utility",
        ),
        make.alert(
            ("RcoGroupsFlat", Severity::Warning),
            &Expr::recorded(rules::FLAT).is(">", 0.9).and(&ended.is(">", 20.0)),
            30,
            "{{ $labels.instance }}: more than 90 % of the groups have zero variance and teach nothing",
        ),
        make.alert(
            ("RcoUtilityFalls", Severity::Warning),
            &fallen.and(&scored.is(">", 50.0)),
            30,
            "{{ $labels.instance }}: critiques earn 0.1 less than over the last six hours",
        ),
    ]
}

/// Whether the verdicts can be trusted.
fn judging(make: &Maker) -> Vec<Alert> {
    let q = make.over(30);
    let heard = q.increase(&metrics::JUDGE_ANSWERS).sum(&["instance"]);
    let judged = make.over(15).increase(&metrics::VERDICTS).sum(&["instance"]);
    vec![
        make.alert(
            ("RcoVerdictsInvalid", Severity::Warning),
            &Expr::recorded(rules::INVALID).is(">", 0.2).and(&judged.is(">", 20.0)),
            15,
            "{{ $labels.instance }}: more than 20 % of the verdicts are invalid",
        ),
        make.alert(
            ("RcoJudgeBiased", Severity::Warning),
            &Expr::recorded(rules::BIAS).abs().is(">", 0.3).and(&heard.is(">", 50.0)),
            30,
            "{{ $labels.instance }}: the judge prefers texts by their position",
        ),
    ]
}

/// Whether learning goes wrong.
fn learning(make: &Maker) -> Vec<Alert> {
    let q = make.over(10);
    let gradient = &metrics::GRADIENT_NORM;
    let earlier = make.over(360).earlier_mean(gradient, &make.0.minutes(30));
    let grown = q.mean(gradient).is_to(">", &earlier.times(10.0));
    vec![
        make.alert(
            ("RcoCriticDiverges", Severity::Warning),
            &q.mean(&metrics::LOG_RATIO_SECOND_MOMENT).is(">", 400.0),
            10,
            "{{ $labels.instance }}: the critic is more than 20 nats a critique from its reference (root mean square)",
        ),
        make.alert(
            ("RcoGradientGrows", Severity::Warning),
            &grown,
            10,
            "{{ $labels.instance }}: the gradient is ten times what it was for six hours",
        ),
        make.alert(
            ("RcoSamplerLearnerDiffer", Severity::Critical),
            &q.mean(&metrics::TRAIN_INFERENCE_MISMATCH).is(">", 0.05),
            10,
            "{{ $labels.instance }}: engine and learner give the same tokens different probabilities",
        ),
    ]
}

/// Whether one half waits for the other, or for memory.
fn capacity(make: &Maker) -> Vec<Alert> {
    vec![
        make.alert(
            ("RcoLearnerStarved", Severity::Info),
            &Expr::recorded(rules::LEARNER_IDLE).is(">", 0.9),
            30,
            "{{ $labels.instance }}: the learner waits for groups more than 90 % of the time",
        ),
        make.alert(
            ("RcoRolloutStarved", Severity::Info),
            &Expr::recorded(rules::ROLLOUT_IDLE).is(">", 0.9),
            30,
            "{{ $labels.instance }}: more than 90 % of the episodes wait for the learner",
        ),
        make.alert(
            ("RcoCacheThrash", Severity::Warning),
            &Expr::recorded(rules::PREEMPTIONS).is(">", 0.1),
            10,
            "{{ $labels.instance }}: one of ten texts is preempted because KV blocks run out",
        ),
        make.alert(
            ("RcoMemoryOverPlan", Severity::Warning),
            &memory_of_plan(&make.over(5)).is(">", 1.15).and(&memory_over_plan(&make.over(5)).is(">", BYTES_OVER_PLAN)),
            10,
            "{{ $labels.instance }}: the process takes 15 % and 256 MiB more memory than was planned",
        ),
    ]
}

/// Whether what was learned is safe.
fn disk(make: &Maker) -> Vec<Alert> {
    let q = make.over(15);
    let share = disk_free(&q).is("<", 0.03);
    let room = q.gauge(&metrics::DISK_FREE_BYTES).is_to("<", &q.gauge(&metrics::CHECKPOINT_BYTES).times(3.0));
    vec![
        make.alert(
            ("RcoCheckpointLate", Severity::Warning),
            &steps_overdue(&q).is(">=", 0.0),
            15,
            "{{ $labels.instance }}: the checkpoint that is due has not been written for 15 minutes",
        ),
        make.alert(
            ("RcoCheckpointFailing", Severity::Critical),
            &q.increase(&metrics::CHECKPOINT_FAILURES).sum(&["instance"]).is(">", 0.0),
            0,
            "{{ $labels.instance }}: a checkpoint could not be written",
        ),
        make.alert(
            ("RcoDiskNearlyFull", Severity::Critical),
            &share.or(&room),
            5,
            "{{ $labels.instance }}: the run's disk is nearly full",
        ),
    ]
}

/// What happened that a person should know of.
fn changes(make: &Maker) -> Vec<Alert> {
    let q = make.over(15);
    let failed = make.over(10).only("code", "5xx").increase(&metrics::HTTP_REQUESTS).sum(&["instance"]);
    let rollbacks = make.over(30).only("outcome", "rolled_back").increase(&metrics::SWAPS);
    vec![
        make.alert(
            ("RcoRestarts", Severity::Warning),
            &q.increase(&metrics::RESTARTS).sum(&["instance", "actor"]).is(">", 0.0),
            0,
            "{{ $labels.instance }}: actor {{ $labels.actor }} failed and was restarted",
        ),
        make.alert(
            ("RcoHttpErrors", Severity::Warning),
            &http_errors(&make.over(10)).is(">", 0.05).and(&failed.is(">", 5.0)),
            5,
            "{{ $labels.instance }}: more than 5 % of the requests fail",
        ),
        make.alert(
            ("RcoRolledBack", Severity::Warning),
            &rollbacks.sum(&["instance"]).is(">", 0.0),
            0,
            "{{ $labels.instance }}: the critic in service was taken back",
        ),
    ]
}
