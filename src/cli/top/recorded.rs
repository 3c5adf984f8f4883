//! A run that nobody works on, from the figures that it left.

use super::history::History;
use super::look::Look;
use crate::tracking::{self, Line};

/// The state and the curves that `lines` tell; none if there are no lines.
pub(super) fn read(lines: &[Line]) -> Option<(Look, History)> {
    let last_line = lines.last()?;
    let last = |name: &str| tracking::last(lines, name);
    let count = |name: &str| last(name).unwrap_or(0.0) as u64;
    let memory = last_line.figures.iter().filter(|(name, _)| name.starts_with("memory/")).map(|(_, bytes)| bytes).sum();
    let look = Look {
        serving: count("critic/version"),
        step: last_line.step,
        loss: last("learner/loss"),
        episodes: count("total/episodes"),
        dropped: count("total/episodes_dropped"),
        groups: count("total/groups"),
        zero_variance: count("total/groups_zero_variance"),
        held: count("replay/groups"),
        age_mean: last("learner/age_mean_versions"),
        utility_mean: last("cu/overall/mean"),
        tokens_per_second: last("tokens/per_second").unwrap_or(0.0),
        memory: (memory, 0.0),
        restarts: count("node/restarts"),
        ..Look::default()
    };
    let mut history = History::default();
    for line in lines {
        for (name, value) in &line.figures {
            match name.as_str() {
                "learner/loss" => history.loss.push(*value),
                "tokens/per_second" => history.tokens_per_second.push(*value),
                name => {
                    if let Some(task) = name.strip_prefix("cu/mean/") {
                        history.utilities.entry(task.to_owned()).or_default().push(*value);
                    }
                }
            }
        }
    }
    Some((look, history))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_values_stand_and_curves_have_all_of_them() {
        let line = |text: &str| serde_json::from_str::<Line>(text).unwrap();
        let lines = [
            line(
                r#"{"step": 1, "time": 1, "learner/loss": 0.5, "cu/mean/t": 0.4, "total/episodes": 3, "total/groups": 3, "total/groups_zero_variance": 1}"#,
            ),
            line(
                r#"{"step": 2, "time": 2, "learner/loss": 0.25, "cu/mean/t": 0.6, "total/episodes": 7, "total/groups": 7, "memory/weights_bytes": 10, "memory/other_bytes": 5}"#,
            ),
        ];
        let (look, history) = read(&lines).unwrap();
        assert_eq!((look.step, look.loss, look.episodes, look.groups, look.zero_variance), (2, Some(0.25), 7, 7, 1));
        assert_eq!((look.memory.0, history.loss.last(), history.utilities["t"].last()), (15.0, Some(0.25), Some(0.6)));
        assert!(read(&[]).is_none());
    }
}
