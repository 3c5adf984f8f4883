//! Recording rules: what alerts compare and what long views read.

use super::judges::{invalid_share, position_bias};
use super::overview::{learner_idle, rollout_idle};
use super::pace::Pace;
use super::query::{Expr, Scope};
use crate::telemetry::metrics;

/// The mean CU of half an hour.
pub(super) const UTILITY: &str = "instance:rco_rollout_critique_utility:mean30m";
/// The mean CU of six hours.
pub(super) const UTILITY_LONG: &str = "instance:rco_rollout_critique_utility:mean6h";
/// The share of groups of zero variance.
pub(super) const FLAT: &str = "instance:rco_rollout_zero_variance:ratio30m";
/// The share of verdicts that are invalid.
pub(super) const INVALID: &str = "instance:rco_judge_verdicts_invalid:ratio15m";
/// A model judge's position bias.
pub(super) const BIAS: &str = "instance:rco_judge_position_bias:ratio30m";
/// Preemptions for each text.
pub(super) const PREEMPTIONS: &str = "instance:rco_engine_preemptions_per_text:ratio10m";
/// The share of the time that the learner waits.
pub(super) const LEARNER_IDLE: &str = "instance:rco_learner_idle:ratio15m";
/// The share of the episodes that wait.
pub(super) const ROLLOUT_IDLE: &str = "instance:rco_rollout_idle:ratio15m";

/// A recording rule.
#[derive(Clone, Debug)]
pub(super) struct Recording {
    /// Its name.
    pub(super) name: &'static str,
    /// What it records.
    pub(super) expr: Expr,
}

/// Every recording rule.
pub(super) fn recordings(pace: Pace) -> Vec<Recording> {
    let over = |minutes| Scope::rule(pace.minutes(minutes));
    let utility = &metrics::UTILITY_HISTOGRAM;
    let preemptions = over(10).rate(&metrics::PREEMPTIONS).sum(&["instance"]);
    let cached = over(5).rate(&metrics::PROMPT_TOKENS_CACHED).sum(&["instance"]);
    let prompts = cached.plus(&over(5).rate(&metrics::PROMPT_TOKENS).sum(&["instance"]));
    let each = [
        (UTILITY, over(30).mean_of(utility, &["instance"])),
        (UTILITY_LONG, over(360).mean_of(utility, &["instance"])),
        ("instance_task:rco_rollout_critique_utility:mean30m", over(30).mean_of(utility, &["instance", "task"])),
        (FLAT, flat_share(&over(30))),
        (INVALID, invalid_share(&over(15))),
        (BIAS, position_bias(&over(30))),
        ("instance_role:rco_roles_tokens:rate5m", over(5).rate(&metrics::ROLE_WRITTEN).sum(&["instance", "role"])),
        ("instance:rco_engine_prefix_hits:ratio5m", cached.per(&prompts)),
        (PREEMPTIONS, preemptions.per(&over(10).count_rate(&metrics::ROLE_TOKENS).sum(&["instance"]))),
        ("instance:rco_replay_uses:ratio30m", replay_uses(&over(30))),
        (LEARNER_IDLE, learner_idle(&over(15))),
        (ROLLOUT_IDLE, rollout_idle(&over(15))),
    ];
    each.into_iter().map(|(name, expr)| Recording { name, expr }).collect()
}

/// Critiques learned for each that is scored.
pub(super) fn replay_uses(scope: &Scope) -> Expr {
    let of_scored = scope.count_rate(&metrics::UTILITY_HISTOGRAM).sum(&["instance"]);
    scope.count_rate(&metrics::STALENESS).sum(&["instance"]).per(&of_scored)
}

/// The share of the scored groups that have zero variance.
pub(super) fn flat_share(scope: &Scope) -> Expr {
    let of = |pattern| scope.like("outcome", pattern).rate(&metrics::EPISODES_ENDED).sum(&["instance"]);
    of("zero_variance").per(&of("scored|zero_variance"))
}
