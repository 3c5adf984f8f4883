//! How critics are put into service, as `[swap]` of the config names it.

use serde::{Deserialize, Serialize};

/// What the learner goes on from after a swap or a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LearnerAfterSwap {
    /// Its own weights.
    Keep,
    /// The weights that were put into service; the moments of Adam start from zero.
    Follow,
}

/// How critics are tried, put into service and taken back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwapConfig {
    /// A folder whose critics are offered as they appear; empty for none.
    pub watch: String,
    /// Highest mean KL divergence (nats) of a candidate from the critic in service, at the start of a critique.
    pub canary_kl_max: f64,
    /// Prompts of the canary that a candidate writes a critique for; 0 for logits alone.
    pub canary_texts: usize,
    /// Held-out prompts that a candidate and the critic in service are evaluated on; 0 for none.
    pub canary_prompts: usize,
    /// Whether the learner's publications pass the whole trial of an operator's swap, not its logits alone.
    pub canary_publications: bool,
    /// Share of the episodes whose critiques a candidate writes during its trial; 0 for no trial.
    pub canary_share: f64,
    /// Groups of the trial.
    pub canary_groups: usize,
    /// Confidence at which a candidate counts as worse.
    pub canary_confidence: f64,
    /// Groups over which the utility of a critic in service is compared with that of what served before it; 0 for no rollback.
    pub rollback_groups: usize,
    /// How far below the mean utility of what served before it a critic must be, at `canary_confidence`, to be rolled back.
    pub rollback_margin: f64,
    /// Groups after a rollback within which there is no other.
    pub rollback_cooldown_groups: usize,
    /// What the learner goes on from after a swap or a rollback.
    pub learner: LearnerAfterSwap,
    /// Versions whose weights are kept on disk, beside those in use.
    pub versions_kept: usize,
}

impl SwapConfig {
    /// The invalid values, one message each.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut expect = |holds: bool, key: &str, expected: &str, got: &dyn std::fmt::Display| {
            if !holds {
                complaints.push(format!("swap.{key}: expected {expected}, got {got}"));
            }
        };
        expect(self.canary_kl_max > 0.0, "canary_kl_max", "more than 0", &self.canary_kl_max);
        let prompts = self.canary_prompts;
        expect(prompts != 1, "canary_prompts", "0, or at least 2", &prompts);
        let share = "at least 0 and below 1";
        expect((0.0..1.0).contains(&self.canary_share), "canary_share", share, &self.canary_share);
        let enough = self.canary_share == 0.0 || self.canary_groups >= 2;
        expect(enough, "canary_groups", "at least 2, with a canary_share", &self.canary_groups);
        let confidence = "at least 0.5 and below 1";
        expect((0.5..1.0).contains(&self.canary_confidence), "canary_confidence", confidence, &self.canary_confidence);
        expect(self.rollback_groups != 1, "rollback_groups", "0, or at least 2", &self.rollback_groups);
        expect(self.rollback_margin >= 0.0, "rollback_margin", "at least 0", &self.rollback_margin);
        expect(self.versions_kept >= 1, "versions_kept", "at least 1", &self.versions_kept);
        complaints
    }
}
