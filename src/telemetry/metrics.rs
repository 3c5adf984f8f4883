//! Every metric: its name, its description, and the typed handle that updates it.
//!
//! There is one table ([`TABLE`]); a handle cannot be made outside it. Names are `rco_<room>_<noun>_<unit>[_total]` (no unit
//! for a plain number). Labels are enums, so the set of series is closed. Gauges of things in flight change by
//! [`Guard`], so that an early return cannot leave them too high.

mod labels;

pub use labels::*;

use crate::types::{ActorKind, Pushed, Verdict};
use std::marker::PhantomData;

/// Prometheus' metric types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only increases.
    Counter,
    /// Increases and decreases.
    Gauge,
    /// Counts values by size.
    Histogram,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct MetricSpec {
    /// The exported name.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// Its description, in one sentence.
    pub help: &'static str,
    /// Upper bounds of a histogram's buckets; empty for the others.
    pub buckets: &'static [f64],
    /// Registers the series of a counter or histogram at zero, for every value of its label.
    register: fn(&'static str),
}

/// A counter, with a label `L` or none.
pub struct Counter<L = ()> {
    name: &'static str,
    label: PhantomData<fn(L)>,
}

impl<L> Counter<L> {
    /// The exported name.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

impl Counter {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        metrics::counter!(self.name).increment(n);
    }
}

impl<L: Label> Counter<L> {
    /// Counts `n` more under `label`.
    pub fn add(&self, label: L, n: u64) {
        metrics::counter!(self.name, L::KEY => label.value()).increment(n);
    }
}

/// A gauge, with a label `L` or none.
pub struct Gauge<L = ()> {
    name: &'static str,
    label: PhantomData<fn(L)>,
}

impl<L> Gauge<L> {
    /// The exported name.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

impl Gauge {
    /// Sets its value.
    pub fn set(&self, value: f64) {
        metrics::gauge!(self.name).set(value);
    }

    /// Increments it until the guard is dropped.
    #[must_use = "dropping the guard decrements the gauge"]
    pub fn guard(&self) -> Guard {
        let gauge = metrics::gauge!(self.name);
        gauge.increment(1.0);
        Guard { gauge }
    }
}

/// Keeps a gauge incremented by one; moves with the thing that it counts.
pub struct Guard {
    gauge: metrics::Gauge,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.gauge.decrement(1.0);
    }
}

/// A gauge that is always 1 and carries information in its label.
pub struct Info {
    name: &'static str,
    label: PhantomData<()>,
}

impl Info {
    /// The exported name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Publishes the process's `version`.
    pub fn publish(&self, version: &'static str) {
        metrics::gauge!(self.name, "version" => version).set(1.0);
    }
}

/// A histogram, with a label `L` or none.
pub struct Histogram<L = ()> {
    name: &'static str,
    label: PhantomData<fn(L)>,
}

impl<L> Histogram<L> {
    /// The exported name.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

impl Histogram {
    /// Counts `value`.
    pub fn record(&self, value: f64) {
        metrics::histogram!(self.name).record(value);
    }
}

impl<L: Label> Histogram<L> {
    /// Counts `value` under `label`.
    pub fn record(&self, label: L, value: f64) {
        metrics::histogram!(self.name, L::KEY => label.value()).record(value);
    }
}

/// From half a millisecond to a minute: one device step.
const STEP_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// From ten milliseconds to ten minutes: one answer of a model, one checkpoint.
const TASK_SECONDS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Eighths of a utility in `[0, 1]`, and exactly 0.
const UTILITY: &[f64] = &[0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0];
/// Ages in published versions.
const VERSIONS: &[f64] = &[0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0];
/// Lengths of texts.
const TOKENS: &[f64] = &[1.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

/// What the table needs from a handle.
trait Handle {
    /// Its type.
    const KIND: MetricKind;
    /// Registers its series at zero. Gauges are left out: one that was never set must not be shown as 0.
    fn register(_name: &'static str) {}
}

impl Handle for Counter {
    const KIND: MetricKind = MetricKind::Counter;
    fn register(name: &'static str) {
        metrics::counter!(name).increment(0);
    }
}

impl<L: Label> Handle for Counter<L> {
    const KIND: MetricKind = MetricKind::Counter;
    fn register(name: &'static str) {
        L::ALL.iter().for_each(|label| metrics::counter!(name, L::KEY => label.value()).increment(0));
    }
}

impl Handle for Gauge {
    const KIND: MetricKind = MetricKind::Gauge;
}

impl Handle for Info {
    const KIND: MetricKind = MetricKind::Gauge;
}

impl Handle for Histogram {
    const KIND: MetricKind = MetricKind::Histogram;
    fn register(name: &'static str) {
        let _registered = metrics::histogram!(name);
    }
}

impl<L: Label> Handle for Histogram<L> {
    const KIND: MetricKind = MetricKind::Histogram;
    fn register(name: &'static str) {
        for label in L::ALL {
            let _registered = metrics::histogram!(name, L::KEY => label.value());
        }
    }
}

macro_rules! table {
    (@buckets) => { &[] };
    (@buckets $buckets:expr) => { $buckets };
    ($($kind:ident $(<$label:ty>)? : $handle:ident = $name:literal, $help:literal $(, $buckets:expr)?;)*) => {
        $(
            #[doc = $help]
            pub const $handle: $kind$(<$label>)? = $kind { name: $name, label: PhantomData };
        )*
        /// Every metric of the node.
        pub const TABLE: &[MetricSpec] = &[$(MetricSpec {
            name: $name,
            kind: <$kind$(<$label>)? as Handle>::KIND,
            help: $help,
            buckets: table!(@buckets $($buckets)?),
            register: <$kind$(<$label>)? as Handle>::register,
        }),*];
    };
}

table! {
    Counter: EPISODES_STARTED = "rco_rollout_episodes_started_total", "Episodes started.";
    Counter<EpisodeEnd>: EPISODES_ENDED = "rco_rollout_episodes_ended_total", "Episodes ended, by outcome.";
    Gauge: EPISODES_IN_FLIGHT = "rco_rollout_episodes_in_flight", "Episodes started and not yet ended.";
    Histogram: EPISODE_SECONDS = "rco_rollout_episode_seconds", "Time from an episode's prompt to its end.", TASK_SECONDS;
    Counter<CritiqueDrop>: CRITIQUES_DROPPED = "rco_rollout_critiques_dropped_total", "Critiques that earned no utility, by reason.";
    Histogram: UTILITY_HISTOGRAM = "rco_rollout_critique_utility_ratio", "Critique utility (CU) of each scored critique, from 0 to 1.", UTILITY;
    Gauge: UTILITY_MEAN = "rco_rollout_critique_utility_mean_ratio", "Moving mean of critique utility (CU), from 0 to 1.";

    Histogram<Role>: ROLE_SECONDS = "rco_roles_answer_seconds", "Time from a request to a role until its answer.", TASK_SECONDS;
    Counter<Role>: ROLE_DEADLINES = "rco_roles_deadlines_total", "Requests that a role did not answer in time.";
    Histogram<Role>: ROLE_TOKENS = "rco_roles_answer_tokens", "Tokens of each text that a role generated.", TOKENS;
    Counter<Verdict>: VERDICTS = "rco_judge_verdicts_total", "Verdicts on refinements; invalid ones by reason.";
    Counter<JudgeAnswer>: JUDGE_ANSWERS = "rco_judge_answers_total", "Answers of a model judge to one order; (first - second) / (first + second) is its position bias.";
    Counter<OrderAgreement>: JUDGE_ORDERS = "rco_judge_pairs_total", "Pairs judged in both orders, by whether the orders agree.";

    Counter<RemoteOutcome>: REMOTE_TRIES = "rco_remote_tries_total", "Attempts to get an answer from a remote server, by outcome.";
    Counter: REMOTE_RETRIES = "rco_remote_retries_total", "Attempts that followed a failed one.";
    Counter: REMOTE_RETRIES_DENIED = "rco_remote_retries_denied_total", "Failed attempts that were not retried because the retry budget was used up.";
    Counter<RemoteTokens>: REMOTE_TOKENS = "rco_remote_tokens_total", "Tokens that remote servers report as read and generated.";
    Histogram: REMOTE_SECONDS = "rco_remote_try_seconds", "Time of one attempt, from sending to the end of the answer.", TASK_SECONDS;
    Gauge: REMOTE_IN_FLIGHT = "rco_remote_tries_in_flight", "Attempts in flight.";

    Gauge: SEQUENCES_RUNNING = "rco_engine_sequences_running", "Sequences that are decoding or prefilling.";
    Gauge: SEQUENCES_WAITING = "rco_engine_sequences_waiting", "Sequences waiting for KV blocks or a place in the batch.";
    Gauge: KV_USAGE = "rco_engine_kv_cache_usage_ratio", "Share of KV blocks held by sequences, from 0 to 1.";
    Counter: PROMPT_TOKENS = "rco_engine_prompt_tokens_total", "Prompt tokens computed.";
    Counter: PROMPT_TOKENS_CACHED = "rco_engine_prompt_cached_tokens_total", "Prompt tokens found in the KV cache instead of being computed.";
    Counter: SHARED_TOKENS = "rco_engine_shared_tokens_total", "Tokens, of prompts and sampled, saved by computing them once for several continuations.";
    Counter: BLOCKS_COPIED = "rco_engine_kv_blocks_copied_total", "KV blocks copied on write because other sequences share them.";
    Counter: GENERATED_TOKENS = "rco_engine_generated_tokens_total", "Tokens sampled.";
    Counter: PREEMPTIONS = "rco_engine_preemptions_total", "Sequences preempted for recomputation because KV blocks ran out.";
    Histogram: ENGINE_STEP_SECONDS = "rco_engine_step_seconds", "Time of one engine step.", STEP_SECONDS;
    Gauge: TOKENS_PER_SECOND = "rco_engine_generated_tokens_per_second", "Tokens sampled per second, over the last few seconds.";

    Gauge: LEARNING_SHARE = "rco_device_learning_share_ratio", "Share of the device's recent busy time spent on learning, from 0 to 1.";
    Histogram: COMMAND_WAIT_SECONDS = "rco_device_command_wait_seconds", "Time that a command waited for the device thread.", STEP_SECONDS;
    Histogram: MICRO_BATCH_SECONDS = "rco_device_micro_batch_seconds", "Time of one learner micro-batch.", STEP_SECONDS;

    Counter: LEARNER_STEPS = "rco_learner_steps_total", "Learner steps taken by this process.";
    Gauge: LEARNER_STEP = "rco_learner_step", "Learner steps taken by this run, resumed ones included.";
    Gauge: LOSS = "rco_learner_loss", "Loss of the last step: RCO's in units of the utilities, DPCO's in nats.";
    Gauge: GRADIENT_NORM = "rco_learner_gradient_norm", "Norm of the last step's gradient before clipping.";
    Gauge: LOG_RATIO_MEAN = "rco_learner_log_ratio_mean_nats", "Mean log-ratio of critic to reference over the last step's critiques.";
    Gauge: LOG_RATIO_SECOND_MOMENT = "rco_learner_log_ratio_second_moment_nats", "Mean square of that log-ratio (nats squared).";
    Gauge: BEHAVIOUR_MEAN = "rco_learner_behaviour_log_ratio_mean_nats", "Mean log-ratio of the critic to the critic version that wrote the critique.";
    Gauge: BEHAVIOUR_SECOND_MOMENT = "rco_learner_behaviour_log_ratio_second_moment_nats", "Mean square of that log-ratio (nats squared).";
    Gauge: EFFECTIVE_SAMPLES = "rco_learner_effective_sample_ratio", "Effective sample size of the last step's critiques under their importance weights, as a share of their number.";
    Gauge: WEIGHTED_UTILITY = "rco_learner_weighted_utility_ratio", "Estimated utility of the critic on the last step's prompts: the utilities of the critiques learned from, weighted by pi/mu.";
    Gauge: STALENESS_MEAN = "rco_learner_staleness_mean_versions", "Mean staleness of the last step's critiques: versions published since they were written.";
    Gauge: STALENESS_MAX = "rco_learner_staleness_max_versions", "Largest staleness of the last step's critiques.";
    Counter: CRITIQUES_TRUNCATED = "rco_learner_critiques_truncated_total", "Critiques whose weight TOPR truncated below 1.";
    Counter: CRITIQUES_MASKED = "rco_learner_critiques_masked_total", "Critiques dropped by the second-moment mask.";
    Gauge: BETA = "rco_learner_beta", "Strength of the regularisation to the reference in the last step.";
    Gauge: REFERENCE_RESETS = "rco_learner_reference_resets", "How often the reference was reset to the critic.";
    Gauge: BASELINE = "rco_learner_baseline", "Mean baseline of the last step, in units of the utilities.";
    Gauge: UTILITY_DEVIATION = "rco_learner_utility_deviation", "Standard deviation by which utilities are divided when they are z-scored.";
    Gauge: VALUE_LOSS = "rco_learner_value_loss", "Loss of the value network in the last step.";
    Gauge: PREFERENCE_ACCURACY = "rco_learner_preference_accuracy_ratio", "Share of DPCO's pairs that the critic orders as the judge does.";
    Gauge: PREFERENCE_MARGIN = "rco_learner_preference_margin_nats", "Mean of beta times the difference of the log-ratios of DPCO's pairs.";
    Gauge: LEARNING_RATE = "rco_learner_learning_rate", "Learning rate of the last step.";
    Gauge: TRAIN_INFERENCE_MISMATCH = "rco_learner_train_inference_mismatch_nats", "Mean absolute difference per token between the engine's log-probability and the learner's, for critiques written by the current weights.";
    Histogram: LEARNER_STEP_SECONDS = "rco_learner_step_seconds", "Time of one learner step, including its waits for the engine.", TASK_SECONDS;
    Counter: LEARNED_TOKENS = "rco_learner_tokens_total", "Critique tokens learned from.";
    Histogram: STALENESS = "rco_learner_staleness_versions", "Staleness of each learned critique: versions published since it was written.", VERSIONS;

    Gauge: REPLAY_GROUPS = "rco_replay_groups_held", "Critique groups in the buffer.";
    Gauge: REPLAY_FRESH = "rco_replay_groups_fresh", "Critique groups in the buffer that have not been learned from yet.";
    Counter<Pushed>: REPLAY_PUSHED = "rco_replay_groups_pushed_total", "Critique groups offered to the buffer, by outcome.";
    Counter<RetireReason>: REPLAY_RETIRED = "rco_replay_groups_retired_total", "Critique groups that left the buffer, by reason.";
    Counter: REPLAY_WAITS = "rco_replay_admission_waits_total", "Times an episode waited because its group could not have been used in time.";

    Gauge: EVAL_UTILITY = "rco_eval_critique_utility_ratio", "Critique utility (CU) of the served critic on held-out prompts, from 0 to 1.";
    Gauge: EVAL_UTILITY_LOW = "rco_eval_critique_utility_low_ratio", "Lower end of its 95 % interval.";
    Gauge: EVAL_UTILITY_HIGH = "rco_eval_critique_utility_high_ratio", "Upper end of its 95 % interval.";
    Gauge: EVAL_ACCURACY_BEFORE = "rco_eval_response_accuracy_ratio", "Share of the responses to held-out prompts that is correct.";
    Gauge: EVAL_ACCURACY_AFTER = "rco_eval_refinement_accuracy_ratio", "Share of their refinements that is correct.";
    Gauge: EVAL_STEP = "rco_eval_step", "Learner step of the critic that was evaluated last.";
    Histogram: EVAL_SECONDS = "rco_eval_run_seconds", "Time of one evaluation, during which the learner waits.", TASK_SECONDS;
    Counter: EVAL_FAILURES = "rco_eval_failures_total", "Failed evaluations.";

    Counter: CHECKPOINTS = "rco_checkpoint_written_total", "Checkpoints written whole.";
    Counter: CHECKPOINT_FAILURES = "rco_checkpoint_failures_total", "Checkpoints that could not be written.";
    Histogram: CHECKPOINT_SECONDS = "rco_checkpoint_write_seconds", "Time to write one checkpoint, fsync included.", TASK_SECONDS;
    Gauge: CHECKPOINT_STEP = "rco_checkpoint_step", "Learner step of the newest whole checkpoint.";

    Gauge: CHECKPOINT_BEST_STEP = "rco_checkpoint_best_step", "Learner step of the best checkpoint.";

    Gauge: CRITIC_VERSION = "rco_node_critic_version", "Version of the served critic; 0 is the base model.";
    Counter<ActorKind>: RESTARTS = "rco_node_restarts_total", "Restarts, by the actor that failed.";
    Gauge: NODE_UP = "rco_node_up", "1 while the node runs.";
    Gauge: NODE_READY = "rco_node_ready", "1 while the node is ready, 0 while it waits for something.";
    Info: NODE_INFO = "rco_node_build_info", "Always 1; the label is the version.";
}

/// Describes every metric to the process's recorder, and registers counters and histograms at zero.
pub(super) fn describe_all() {
    for row in TABLE {
        match row.kind {
            MetricKind::Counter => metrics::describe_counter!(row.name, row.help),
            MetricKind::Gauge => metrics::describe_gauge!(row.name, row.help),
            MetricKind::Histogram => metrics::describe_histogram!(row.name, row.help),
        }
        (row.register)(row.name);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::telemetry::Telemetry;
    use std::collections::BTreeSet;

    /// The rooms that a name may carry: the modules of the crate that export metrics.
    const ROOMS: [&str; 11] =
        ["rollout", "roles", "judge", "remote", "engine", "device", "learner", "replay", "eval", "checkpoint", "node"];

    #[test]
    fn every_name_follows_the_pattern_and_stands_once() {
        let mut seen = BTreeSet::new();
        for row in TABLE {
            assert!(seen.insert(row.name), "{} stands twice", row.name);
            let parts: Vec<_> = row.name.split('_').collect();
            assert_eq!(parts[0], "rco", "{}", row.name);
            assert!(ROOMS.contains(&parts[1]), "{}: no such room", row.name);
            assert!(parts.len() >= 3, "{}: expected a noun", row.name);
            assert!(row.name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()), "{}", row.name);
            assert_eq!(row.kind == MetricKind::Counter, row.name.ends_with("_total"), "{}", row.name);
            assert!(row.help.ends_with('.') && row.help.len() > 10, "{}: {:?}", row.name, row.help);
            assert_eq!(row.kind == MetricKind::Histogram, !row.buckets.is_empty(), "{}", row.name);
            assert!(row.buckets.is_sorted(), "{}", row.name);
        }
    }

    #[test]
    fn every_exported_metric_is_described_and_every_counter_stands_at_zero_first() {
        let telemetry = Telemetry::install().unwrap();
        for row in TABLE {
            if row.kind == MetricKind::Gauge && row.name != NODE_INFO.name() {
                metrics::gauge!(row.name).increment(0.0);
            }
        }
        let text = telemetry.render();
        let described: BTreeSet<_> =
            text.lines().filter_map(|l| l.strip_prefix("# HELP ")).map(|l| l.split(' ').next().unwrap()).collect();
        assert_eq!(described, TABLE.iter().map(|row| row.name).collect::<BTreeSet<_>>());
        for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
            let name = line.split(['{', ' ']).next().unwrap();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
            assert!(described.contains(name) || described.contains(base), "{line}");
        }
        assert!(text.contains("rco_judge_verdicts_total{verdict=\"invalid_unreadable\"}"), "{text}");
        assert!(text.contains("rco_node_restarts_total{actor=\"learner\"}"), "{text}");
        assert!(text.contains(concat!("rco_node_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")), "{text}");
    }

    #[test]
    fn a_histogram_is_exported_in_its_own_buckets() {
        let telemetry = Telemetry::install().unwrap();
        UTILITY_HISTOGRAM.record(0.3);
        ROLE_SECONDS.record(Role::Critic, 3.0);
        let text = telemetry.render();
        assert!(text.contains("rco_rollout_critique_utility_ratio_bucket{le=\"0.375\"}"), "{text}");
        assert!(text.contains("rco_roles_answer_seconds_bucket{role=\"critic\",le=\"5\"}"), "{text}");
        assert!(!text.contains("quantile="), "{text}");
    }

    #[test]
    fn a_guard_puts_its_gauge_back_however_it_is_dropped() {
        // A recorder of this test's own: other tests move the same gauge.
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let value = || recorder.handle().render().split(' ').next_back().unwrap().trim().parse::<f64>().unwrap();
        metrics::with_local_recorder(&recorder, || {
            let (one, two) = (EPISODES_IN_FLIGHT.guard(), EPISODES_IN_FLIGHT.guard());
            assert_eq!(value(), 2.0);
            drop(one);
            assert_eq!(value(), 1.0);
            let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                let _held = two;
                std::panic::resume_unwind(Box::new("on purpose"));
            }));
            assert!(unwound.is_err());
            assert_eq!(value(), 0.0);
        });
    }

    #[test]
    fn a_label_has_one_value_for_each_variant() {
        fn distinct<L: Label + 'static>() {
            let values: BTreeSet<_> = L::ALL.iter().map(|label| label.value()).collect();
            assert_eq!(values.len(), L::ALL.len(), "{}", L::KEY);
            assert!(values.iter().all(|v| v.bytes().all(|b| b == b'_' || b.is_ascii_lowercase())), "{values:?}");
        }
        distinct::<EpisodeEnd>();
        distinct::<CritiqueDrop>();
        distinct::<Role>();
        distinct::<Verdict>();
        distinct::<RemoteOutcome>();
        distinct::<RemoteTokens>();
        distinct::<JudgeAnswer>();
        distinct::<OrderAgreement>();
        distinct::<Pushed>();
        distinct::<RetireReason>();
        distinct::<ActorKind>();
    }
}
