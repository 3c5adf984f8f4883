//! From events to metrics: which event moves which metric.
//!
//! Names and meanings are telemetry's. Knows no actor and no device.

use super::events::{Event, SwapKind};
use super::state::DropReason;
use crate::eval::bootstrap::Estimate;
use crate::eval::summary::EvalSummary;
use crate::replay::Retired;
use crate::telemetry::metrics::VersionSlot;
use crate::telemetry::metrics::{self, CritiqueDrop, EpisodeEnd, JudgeAnswer, OrderAgreement, RetireReason, SwapEnd};
use crate::types::{Choice, CriticVersion, Invalid, Pushed, SwapReason};

/// How a swap of this kind ended.
fn swap_end(kind: SwapKind) -> SwapEnd {
    match kind {
        SwapKind::Publication => SwapEnd::Published,
        SwapKind::Swap => SwapEnd::Swapped,
        SwapKind::Rollback => SwapEnd::RolledBack,
    }
}

/// The critics that metrics tell apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    /// In service.
    pub(crate) serving: CriticVersion,
    /// Tried last.
    pub(crate) candidate: Option<CriticVersion>,
}

impl Slots {
    fn of(self, version: Option<CriticVersion>) -> VersionSlot {
        match version {
            None => VersionSlot::NoCritic,
            Some(version) if version == self.serving => VersionSlot::Serving,
            candidate if candidate == self.candidate => VersionSlot::Candidate,
            Some(_) => VersionSlot::Other,
        }
    }
}

/// Counts `event`.
pub(crate) fn count(event: &Event, slots: Slots) {
    match event {
        Event::ActivityChanged(activity) => {
            if activity.is_pacing() {
                metrics::REPLAY_WAITS.add(1);
            }
        }
        Event::EpisodeStarted { .. } => metrics::EPISODES_STARTED.add(1),
        Event::PassedOver { episodes } => metrics::EPISODES_PASSED_OVER.add(*episodes),
        Event::Sampled { role, tokens, version, seconds } => {
            metrics::ROLE_SECONDS.record(*role, *seconds);
            metrics::ROLE_WRITTEN.add((*role, slots.of(*version)), tokens.iter().map(|tokens| *tokens as u64).sum());
            tokens.iter().for_each(|tokens| metrics::ROLE_TOKENS.record(*role, *tokens as f64));
        }
        Event::DeadlineMissed(role) => metrics::ROLE_DEADLINES.add(*role, 1),
        Event::Judged(verdict) => metrics::VERDICTS.add(*verdict, 1),
        Event::PairJudged { heard, .. } => {
            heard.iter().for_each(|heard| metrics::JUDGE_ANSWERS.add(answer(*heard), 1));
            metrics::JUDGE_ORDERS.add(agreement(*heard), 1);
        }
        Event::CritiqueDropped(reason) => metrics::CRITIQUES_DROPPED.add(critique_drop(*reason), 1),
        Event::CritiqueScored { task, version, utility } => {
            metrics::UTILITY_HISTOGRAM.record(task, slots.of(Some(*version)), f64::from(*utility));
        }
        Event::EpisodeEnded { pushed, dropped, counters, .. } => {
            metrics::EPISODES_ENDED.add(episode_end(*pushed, *dropped), 1);
            if let Some(pushed) = pushed {
                metrics::REPLAY_PUSHED.add(*pushed, 1);
            }
            if let Some(mean) = counters.utility_mean {
                metrics::UTILITY_MEAN.set(f64::from(mean));
            }
        }
        Event::ReplayChanged { held, fresh } => {
            metrics::REPLAY_GROUPS.set(*held as f64);
            metrics::REPLAY_FRESH.set(*fresh as f64);
        }
        Event::GroupsRetired(retired) => count_retired(*retired),
        Event::Learned { report, ages_versions, seconds, .. } => {
            count_step(report, *seconds);
            ages_versions.iter().for_each(|age| metrics::STALENESS.record(*age as f64));
        }
        Event::BatchDiscarded { .. }
        | Event::DeviceStalled { .. }
        | Event::Controlled { .. }
        | Event::RequestFailed { .. }
        | Event::TrialBegan { .. } => {}
        Event::Published { version, .. } => {
            metrics::CRITIC_VERSION.set(version.0 as f64);
            metrics::SWAPS.add((SwapEnd::Published, SwapReason::Learner), 1);
        }
        Event::CriticEntered { version, kind, reason, .. } => {
            metrics::CRITIC_VERSION.set(version.0 as f64);
            metrics::SWAPS.add((swap_end(*kind), *reason), 1);
        }
        Event::CriticRejected { reason, .. } => metrics::SWAPS.add((SwapEnd::Rejected, *reason), 1),
        Event::CriticRefused { .. } => metrics::SWAPS.add((SwapEnd::Refused, SwapReason::Gate), 1),
        Event::CheckpointSaved { seconds, .. } => {
            metrics::CHECKPOINTS.add(1);
            metrics::CHECKPOINT_SECONDS.record(*seconds);
        }
        Event::Evaluated { step, summary, best, seconds, .. } => count_eval(*step, summary, *best, *seconds),
        Event::EvalFailed(_) => metrics::EVAL_FAILURES.add(1),
        Event::CheckpointFailed => metrics::CHECKPOINT_FAILURES.add(1),
        Event::Restarted { actor_kind, .. } => metrics::RESTARTS.add(*actor_kind, 1),
    }
}

fn count_step(report: &crate::learner::Report, seconds: f64) {
    metrics::LEARNER_STEPS.add(1);
    metrics::LEARNER_STEP.set(report.step as f64);
    metrics::LOSS.set(f64::from(report.loss));
    metrics::GRADIENT_NORM.set(f64::from(report.gradient_norm));
    let off_policy = report.off_policy;
    metrics::LOG_RATIO_MEAN.set(off_policy.log_ratio_mean.into());
    metrics::LOG_RATIO_SECOND_MOMENT.set(off_policy.log_ratio_second_moment.into());
    metrics::BEHAVIOUR_MEAN.set(off_policy.behaviour_mean.into());
    metrics::BEHAVIOUR_SECOND_MOMENT.set(off_policy.behaviour_second_moment.into());
    metrics::EFFECTIVE_SAMPLES.set(off_policy.effective_sample_ratio.into());
    metrics::WEIGHTED_UTILITY.set(report.weighted_utility.into());
    metrics::STALENESS_MEAN.set(off_policy.age_mean_versions.into());
    metrics::STALENESS_MAX.set(off_policy.age_max_versions as f64);
    metrics::CRITIQUES_TRUNCATED.add(report.truncated as u64);
    metrics::CRITIQUES_MASKED.add(report.masked as u64);
    metrics::BETA.set(report.beta.into());
    metrics::REFERENCE_RESETS.set(report.reference_resets as f64);
    for (gauge, value) in [
        (&metrics::BASELINE, report.baseline),
        (&metrics::UTILITY_DEVIATION, report.utility_deviation),
        (&metrics::VALUE_LOSS, report.value_loss),
        (&metrics::PREFERENCE_ACCURACY, report.preference_accuracy),
        (&metrics::PREFERENCE_MARGIN, report.preference_margin),
        (&metrics::TRAIN_INFERENCE_MISMATCH, report.train_inference_mismatch),
    ] {
        value.into_iter().for_each(|value| gauge.set(value.into()));
    }
    metrics::LEARNING_RATE.set(report.learning_rate);
    metrics::LEARNED_TOKENS.add(report.tokens as u64);
    metrics::LEARNER_STEP_SECONDS.record(seconds);
}

fn count_eval(step: u64, summary: &EvalSummary, best: bool, seconds: f64) {
    let cu = |of: fn(Estimate) -> f64| summary.cu.map(of);
    for (gauge, value) in [
        (&metrics::EVAL_UTILITY, cu(|cu| cu.value)),
        (&metrics::EVAL_UTILITY_LOW, cu(|cu| cu.low)),
        (&metrics::EVAL_UTILITY_HIGH, cu(|cu| cu.high)),
        (&metrics::EVAL_ACCURACY_BEFORE, summary.accuracy_before.map(|accuracy| accuracy.value)),
        (&metrics::EVAL_ACCURACY_AFTER, summary.accuracy_after.map(|accuracy| accuracy.value)),
    ] {
        // Marks are times 100, metrics shares.
        value.into_iter().for_each(|value| gauge.set(value / 100.0));
    }
    metrics::EVAL_STEP.set(step as f64);
    metrics::EVAL_SECONDS.record(seconds);
    if best {
        metrics::CHECKPOINT_BEST_STEP.set(step as f64);
    }
}

fn count_retired(retired: Retired) {
    for (reason, groups) in [
        (RetireReason::Aged, retired.aged),
        (RetireReason::Used, retired.used),
        (RetireReason::Displaced, retired.displaced),
    ] {
        metrics::REPLAY_RETIRED.add(reason, groups);
    }
}

fn answer(heard: Result<Choice, Invalid>) -> JudgeAnswer {
    match heard {
        Ok(Choice::A) => JudgeAnswer::First,
        Ok(Choice::B) => JudgeAnswer::Second,
        Ok(Choice::Tie) => JudgeAnswer::Tie,
        Err(_) => JudgeAnswer::Invalid,
    }
}

/// The second order shows the first order's texts the other way round.
fn agreement(orders: [Result<Choice, Invalid>; 2]) -> OrderAgreement {
    match orders {
        [Ok(Choice::Tie), Ok(Choice::Tie)] | [Ok(Choice::A), Ok(Choice::B)] | [Ok(Choice::B), Ok(Choice::A)] => {
            OrderAgreement::Same
        }
        [Ok(Choice::Tie), Ok(_)] | [Ok(_), Ok(Choice::Tie)] => OrderAgreement::OneTie,
        [Ok(_), Ok(_)] => OrderAgreement::Opposite,
        _ => OrderAgreement::Invalid,
    }
}

fn critique_drop(reason: DropReason) -> CritiqueDrop {
    match reason {
        DropReason::Deadline => CritiqueDrop::Deadline,
        DropReason::TooLong => CritiqueDrop::TooLong,
        DropReason::Refused => CritiqueDrop::Refused,
        DropReason::Remote => CritiqueDrop::Remote,
        DropReason::NoVerdict | DropReason::FewCritiques => CritiqueDrop::NoVerdict,
    }
}

fn episode_end(pushed: Option<Pushed>, dropped: Option<DropReason>) -> EpisodeEnd {
    match (pushed, dropped) {
        (Some(Pushed::Kept), _) => EpisodeEnd::Scored,
        (Some(Pushed::ZeroVariance), _) => EpisodeEnd::ZeroVariance,
        (Some(Pushed::Duplicate), _) => EpisodeEnd::Duplicate,
        (None, Some(DropReason::Deadline)) => EpisodeEnd::Deadline,
        (None, Some(DropReason::TooLong)) => EpisodeEnd::TooLong,
        (None, Some(DropReason::Refused)) => EpisodeEnd::Refused,
        (None, Some(DropReason::Remote)) => EpisodeEnd::Remote,
        (None, _) => EpisodeEnd::Unscored,
    }
}
