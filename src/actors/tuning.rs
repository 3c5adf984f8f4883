//! The settings that may change while a node runs.

use crate::learner::LearnerConfig;
use serde_json::Value;
use std::fmt;

/// Episodes at once, at most: each is a task that waits.
pub(super) const ROLLOUTS_MAX: usize = 256;

/// A setting and its new value, which has been checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Tuning {
    /// `learner.learning_rate`.
    LearningRate(f64),
    /// `learner.beta`.
    Beta(f32),
    /// `learner.device_share`.
    DeviceShare(f64),
    /// `rollout.rollouts_max`.
    RolloutsMax(usize),
    /// The filter of the log, as `RCO_LOG` takes it.
    LogFilter(String),
}

/// The keys, and what each takes.
const KEYS: [(&str, &str); 5] = [
    ("learner.learning_rate", "a number of at least 0"),
    ("learner.beta", "a number above 0"),
    ("learner.device_share", "a number above 0 and at most 1"),
    ("rollout.rollouts_max", "an integer from 1 to 256"),
    ("log", "a filter such as \"info\" or \"rco_node=debug\""),
];

impl Tuning {
    /// The setting `key` with the value `value`.
    ///
    /// # Errors
    /// A sentence: which keys may change, or which values.
    pub fn parse(key: &str, value: &Value) -> Result<Self, String> {
        let Some((_, expected)) = KEYS.iter().find(|(known, _)| *known == key) else {
            let keys: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
            return Err(format!("{key}: expected a setting that may change while the node runs: {}", keys.join(", ")));
        };
        let wrong = || format!("{key}: expected {expected}, got {value}");
        let number = value.as_f64().filter(|number| number.is_finite());
        let parsed = match key {
            "learner.learning_rate" => number.filter(|rate| *rate >= 0.0).map(Self::LearningRate),
            "learner.beta" => {
                number.map(|beta| beta as f32).filter(|beta| *beta > 0.0 && beta.is_finite()).map(Self::Beta)
            }
            "learner.device_share" => number.filter(|share| *share > 0.0 && *share <= 1.0).map(Self::DeviceShare),
            "rollout.rollouts_max" => {
                let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
                count.filter(|count| (1..=ROLLOUTS_MAX).contains(count)).map(Self::RolloutsMax)
            }
            _ => value.as_str().map(|filter| Self::LogFilter(filter.to_owned())),
        };
        parsed.ok_or_else(wrong)
    }

    /// Puts it into `config`, if it is a setting of the learner.
    pub(super) fn apply(&self, config: &mut LearnerConfig) -> bool {
        match self {
            Self::LearningRate(rate) => config.learning_rate = *rate,
            Self::Beta(beta) => config.beta = *beta,
            Self::DeviceShare(share) => config.device_share = *share,
            Self::RolloutsMax(_) | Self::LogFilter(_) => return false,
        }
        true
    }

    /// Section and key in the config, and the value; none if it is not in the config.
    pub(super) fn in_config(&self) -> Option<(&'static str, &'static str, toml::Value)> {
        Some(match self {
            Self::LearningRate(rate) => ("learner", "learning_rate", (*rate).into()),
            Self::Beta(beta) => ("learner", "beta", f64::from(*beta).into()),
            Self::DeviceShare(share) => ("learner", "device_share", (*share).into()),
            Self::RolloutsMax(count) => ("rollout", "rollouts_max", toml::Value::Integer(*count as i64)),
            Self::LogFilter(_) => return None,
        })
    }
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LearningRate(rate) => write!(f, "learner.learning_rate = {rate}"),
            Self::Beta(beta) => write!(f, "learner.beta = {beta}"),
            Self::DeviceShare(share) => write!(f, "learner.device_share = {share}"),
            Self::RolloutsMax(count) => write!(f, "rollout.rollouts_max = {count}"),
            Self::LogFilter(filter) => write!(f, "log = {filter:?}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_setting_is_checked_and_a_refusal_says_what_is_expected() {
        assert_eq!(Tuning::parse("learner.beta", &json!(0.2)), Ok(Tuning::Beta(0.2)));
        assert_eq!(Tuning::parse("rollout.rollouts_max", &json!(3)), Ok(Tuning::RolloutsMax(3)));
        for (key, value, expected) in [
            ("learner.beta", json!(0), "above 0"),
            ("learner.learning_rate", json!("fast"), "at least 0"),
            ("learner.device_share", json!(1.5), "at most 1"),
            ("rollout.rollouts_max", json!(0), "from 1 to 256"),
            ("learner.lora.rank", json!(8), "learner.learning_rate, learner.beta"),
        ] {
            let refused = Tuning::parse(key, &value).unwrap_err();
            assert!(refused.starts_with(key) && refused.contains(expected), "{refused}");
        }
    }
}
