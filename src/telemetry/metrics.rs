//! Every metric: its name, its description, and the typed handle that updates it.
//!
//! There is one table ([`TABLE`]); a handle cannot be made outside it. Names are `rco_<room>_<noun>_<unit>[_total]` (no unit
//! for a plain number). Labels are enums, so the set of series is closed. Gauges of things in flight change by
//! [`Guard`], so that an early return cannot leave them too high.

mod handles;
mod labels;
mod tasks;

use handles::Handle;
pub use handles::{AnyCounter, AnyGauge, AnyHistogram, Counter, Gauge, Guard, Histogram, Info, MetricKind, Named};
pub use labels::*;
pub use tasks::TaskHistogram;

use crate::types::{ActorKind, Pushed, Verdict};
use std::marker::PhantomData;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct MetricSpec {
    /// The exported name.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// Its description, in one sentence.
    pub help: &'static str,
    /// A histogram's buckets; none for the others.
    pub buckets: Buckets,
    /// Its labels.
    pub labels: fn() -> Vec<LabelSpec>,
    /// Registers the series of a counter or histogram at zero, for every value of its label.
    register: fn(&'static str),
}

/// The buckets of a histogram. Classic buckets: every Prometheus reads them.
#[derive(Clone, Copy, Debug)]
pub struct Buckets {
    /// Upper bounds.
    pub bounds: &'static [f64],
    /// What they were chosen for.
    pub why: &'static str,
}

const NO_BUCKETS: Buckets = Buckets { bounds: &[], why: "" };
const STEP_SECONDS: Buckets = Buckets {
    bounds: &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0],
    why: "One device step: half a millisecond for a tiny model, a minute where a step must have failed.",
};
const TASK_SECONDS: Buckets = Buckets {
    bounds: &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0],
    why: "One text, step or checkpoint: ten milliseconds to ten minutes, beyond every default deadline.",
};
const REQUEST_SECONDS: Buckets = Buckets {
    bounds: &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0],
    why: "One request over HTTP: a millisecond for a scrape, up to ten minutes for a long text.",
};
const UTILITY: Buckets = Buckets {
    bounds: &[0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0],
    why: "Eighths: what four refinements of a critique can earn, and exactly 0.",
};
const VERSIONS: Buckets = Buckets {
    bounds: &[0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0],
    why: "Each age up to four, then up to eight times the default `replay.age_versions_max`.",
};
const TOKENS: Buckets = Buckets {
    bounds: &[1.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0],
    why: "Powers of two up to the longest text that a small model's context holds.",
};

macro_rules! table {
    (@buckets) => { NO_BUCKETS };
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
            labels: <$kind$(<$label>)? as Handle>::labels,
            register: <$kind$(<$label>)? as Handle>::register,
        }),*];
    };
}

table! {
    Counter: EPISODES_STARTED = "rco_rollout_episodes_started_total", "Episodes started.";
    Counter<EpisodeEnd>: EPISODES_ENDED = "rco_rollout_episodes_ended_total", "Episodes ended, by outcome.";
    Counter: EPISODES_PASSED_OVER = "rco_rollout_episodes_passed_over_total", "Episodes that rollout.curriculum passed over before they began.";
    Gauge: EPISODES_IN_FLIGHT = "rco_rollout_episodes_in_flight", "Episodes started and not yet ended.";
    Histogram: EPISODE_SECONDS = "rco_rollout_episode_seconds", "Time from an episode's prompt to its end.", TASK_SECONDS;
    Counter<CritiqueDrop>: CRITIQUES_DROPPED = "rco_rollout_critiques_dropped_total", "Critiques that earned no utility, by reason.";
    Counter<RecordResult>: EPISODE_RECORDS = "rco_rollout_records_total", "Records of episodes, by whether they were written.";
    Gauge: EPISODES_LIMIT = "rco_rollout_episodes_limit", "Episodes that may run at once.";
    TaskHistogram: UTILITY_HISTOGRAM = "rco_rollout_critique_utility_ratio", "Critique utility (CU) of each scored critique, from 0 to 1, by the prompt's task and the critic that wrote it.", UTILITY;
    Gauge: UTILITY_MEAN = "rco_rollout_critique_utility_mean_ratio", "Moving mean of critique utility (CU), from 0 to 1.";

    Histogram<Role>: ROLE_SECONDS = "rco_roles_answer_seconds", "Time from a request to a role until its answer.", TASK_SECONDS;
    Counter<Role>: ROLE_DEADLINES = "rco_roles_deadlines_total", "Requests that a role did not answer in time.";
    Histogram<Role>: ROLE_TOKENS = "rco_roles_answer_tokens", "Tokens of each text that a role generated.", TOKENS;
    Counter<(Role, VersionSlot)>: ROLE_WRITTEN = "rco_roles_tokens_total", "Tokens that a role generated, by the critic that wrote them.";
    Counter<Verdict>: VERDICTS = "rco_judge_verdicts_total", "Verdicts on refinements; invalid ones by reason.";
    Counter<ProgramEnd>: PROGRAMS = "rco_judge_programs_total", "Programs that were checked in the sandbox, by how they ended.";
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
    Counter: HTTP_TOKENS = "rco_engine_http_tokens_total", "Tokens sampled for requests over HTTP.";
    Histogram<Origin>: FIRST_TOKEN_SECONDS = "rco_engine_first_token_seconds", "Time from a request to its first token, waiting and prefill included.", TASK_SECONDS;
    Histogram<Origin>: QUEUE_SECONDS = "rco_engine_queue_seconds", "Time from a request until its prompt begins to be computed, once for each of its continuations that do not share one.", TASK_SECONDS;
    Counter: OPERATIONS = "rco_engine_operations_total", "Floating-point operations of linears and attention; a multiply-add counts as two.";
    Gauge: OPERATIONS_PEAK = "rco_engine_operations_peak_per_second", "Most floating-point operations a second that the processor's units do in f32, measured at the start. None on a GPU.";
    Counter: PREEMPTIONS = "rco_engine_preemptions_total", "Sequences preempted for recomputation because KV blocks ran out.";
    Histogram: ENGINE_STEP_SECONDS = "rco_engine_step_seconds", "Time of one engine step.", STEP_SECONDS;
    Histogram: INSTALL_SECONDS = "rco_engine_install_seconds", "Time that decoding paused between two steps to put a critic into service or to load one.", STEP_SECONDS;
    Gauge: VERSIONS_ALIVE = "rco_engine_versions_alive", "Critic versions whose weights are in memory: in service, loaded, or writing the rest of a sequence.";
    Gauge: TOKENS_PER_SECOND = "rco_engine_generated_tokens_per_second", "Tokens sampled per second, over the last few seconds.";

    Gauge: LEARNING_SHARE = "rco_device_learning_share_ratio", "Share of the device's recent busy time spent on learning, from 0 to 1.";
    Gauge: DEVICE_BUSY_SECONDS = "rco_device_busy_seconds", "How long the device thread has been at one engine step, micro-batch or command; 0 while it waits for commands.";
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

    Gauge: CHECKPOINT_DUE_STEP = "rco_checkpoint_due_step", "Learner step at which the next checkpoint is due.";
    Gauge: CHECKPOINT_TIMESTAMP = "rco_checkpoint_timestamp_seconds", "When the newest checkpoint was written, in seconds since 1970.";
    Gauge: CHECKPOINT_BYTES = "rco_checkpoint_size_bytes", "Size of the newest checkpoint on disk.";
    Gauge: CHECKPOINT_BEST_STEP = "rco_checkpoint_best_step", "Learner step of the best checkpoint.";

    Counter<(HttpRoute, HttpCode)>: HTTP_REQUESTS = "rco_http_requests_total", "Requests answered, by route and code.";
    Histogram<HttpRoute>: HTTP_SECONDS = "rco_http_request_seconds", "Time from a request until its answer begins, by route.", REQUEST_SECONDS;
    Gauge: HTTP_IN_FLIGHT = "rco_http_requests_in_flight", "Requests for texts that are being answered.";

    Gauge: CRITIC_VERSION = "rco_node_critic_version", "Version of the served critic; 0 is the base model.";
    Counter<(SwapEnd, SwapReason)>: SWAPS = "rco_node_swaps_total", "Critics that were offered, by what became of them and by what decided it.";
    Histogram: SWAP_SECONDS = "rco_node_swap_seconds", "Time from the offer of a critic until it is in service, on trial or refused.", TASK_SECONDS;
    Histogram: GLANCE_SECONDS = "rco_node_publication_canary_seconds", "Time that a publication's canary took: loading it beside the one in service, and comparing their logits.", STEP_SECONDS;
    Gauge<ActorKind>: JOBS = "rco_node_jobs_in_flight", "What each actor is at.";
    Gauge<ActorKind>: JOB_OLDEST_SECONDS = "rco_node_job_oldest_seconds", "How long each actor has been at its oldest job; 0 if it has none.";
    Gauge<MemoryOwner>: MEMORY = "rco_node_memory_bytes", "Memory by owner; together they are the process's resident memory.";
    Gauge<MemoryOwner>: MEMORY_PLANNED = "rco_node_memory_planned_bytes", "Memory by owner, as it was planned at the start.";
    Counter<ActorKind>: RESTARTS = "rco_node_restarts_total", "Restarts, by the actor that failed.";
    Gauge: NODE_UP = "rco_node_up", "1 while the node runs.";
    Gauge: NODE_READY = "rco_node_ready", "1 while the node is ready, 0 while it waits for something.";
    Gauge: NODE_STARTED = "rco_node_start_timestamp_seconds", "When the node's process began, in seconds since 1970.";
    Gauge<Stage>: STAGE_IN_FLIGHT = "rco_node_stage_in_flight", "Requests under way, by stage.";
    Gauge<Stage>: STAGE_OLDEST_SECONDS = "rco_node_stage_oldest_seconds", "Age of the oldest request under way, by stage; 0 if there is none.";
    Histogram<Stage>: STAGE_SECONDS = "rco_node_stage_seconds", "Time of each request in its stage; the rate of its sum is how many are under way on average.", TASK_SECONDS;
    Gauge: JOURNAL_BYTES = "rco_node_journal_bytes", "Size of the run's journal on disk.";
    Gauge: EPISODES_FILE_BYTES = "rco_node_episodes_file_bytes", "Size of the run's files of episode records.";
    Gauge: GROUPS_FILE_BYTES = "rco_node_groups_file_bytes", "Size of the run's file of recorded groups.";
    Gauge: DISK_FREE_BYTES = "rco_node_disk_free_bytes", "Space that this user may still use on the run directory's file system.";
    Gauge: DISK_BYTES = "rco_node_disk_size_bytes", "Size of the run directory's file system.";
    Info<Build>: NODE_INFO = "rco_node_build_info", "Always 1; the label is the version.";
    Info<Settings>: CONFIG_INFO = "rco_node_config_info", "Always 1; the labels are what the run was configured to do.";
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
    const ROOMS: [&str; 12] = [
        "rollout",
        "roles",
        "judge",
        "remote",
        "engine",
        "device",
        "learner",
        "replay",
        "eval",
        "checkpoint",
        "http",
        "node",
    ];

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
            assert_eq!(row.kind == MetricKind::Histogram, !row.buckets.bounds.is_empty(), "{}", row.name);
            assert!(row.buckets.bounds.is_sorted(), "{}", row.name);
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
        assert!(text.contains("rco_roles_tokens_total{role=\"critic\",version=\"candidate\"}"), "{text}");
        assert!(text.contains(concat!("rco_node_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")), "{text}");
    }

    #[test]
    fn a_histogram_is_exported_in_its_own_buckets() {
        let telemetry = Telemetry::install().unwrap();
        UTILITY_HISTOGRAM.record("sums", VersionSlot::Serving, 0.3);
        ROLE_SECONDS.record(Role::Critic, 3.0);
        let text = telemetry.render();
        let bucket = "rco_rollout_critique_utility_ratio_bucket{task=\"sums\",version=\"serving\",le=\"0.375\"}";
        assert!(text.contains(bucket), "{text}");
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
            assert!(
                values.iter().all(|v| v.bytes().all(|b| b == b'_' || b.is_ascii_lowercase() || b.is_ascii_digit())),
                "{values:?}"
            );
        }
        distinct::<EpisodeEnd>();
        distinct::<CritiqueDrop>();
        distinct::<RecordResult>();
        distinct::<Role>();
        distinct::<Verdict>();
        distinct::<RemoteOutcome>();
        distinct::<RemoteTokens>();
        distinct::<JudgeAnswer>();
        distinct::<OrderAgreement>();
        distinct::<Pushed>();
        distinct::<RetireReason>();
        distinct::<ActorKind>();
        distinct::<VersionSlot>();
        distinct::<Origin>();
        distinct::<Stage>();
        distinct::<SwapEnd>();
        distinct::<SwapReason>();
        distinct::<MemoryOwner>();
        distinct::<HttpRoute>();
        distinct::<HttpCode>();
    }
}
