//! What makes an answer good, by task family: the `criteria` of the judge's template.
//!
//! The families are RCO's five (arXiv 2506.22157, section 4). A prompt belongs to the family that its task begins with,
//! alone (`math`) or followed by more (`math/algebra`, `math-word-problems`); otherwise to `other`.

use serde::{Deserialize, Serialize};

/// The criteria of each family; empty for none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Criteria {
    /// Conversation.
    pub dialog: String,
    /// Summaries of a given text.
    pub summarization: String,
    /// Questions about facts or a given text.
    pub question_answering: String,
    /// Mathematical reasoning.
    pub math: String,
    /// Programs.
    pub code: String,
    /// Every other task.
    pub other: String,
    /// What makes a critique good, whatever the task; for `judge.critique_preferences`.
    pub critique: String,
}

impl Criteria {
    /// The criteria of the family of `task`.
    pub fn of(&self, task: &str) -> &str {
        let families = [
            ("dialog", &self.dialog),
            ("summarization", &self.summarization),
            ("question_answering", &self.question_answering),
            ("math", &self.math),
            ("code", &self.code),
        ];
        let belongs = |family: &str| {
            task.strip_prefix(family).is_some_and(|more| !more.starts_with(|c: char| c.is_alphanumeric()))
        };
        families.into_iter().find(|(family, _)| belongs(family)).map_or(&self.other, |(_, criteria)| criteria)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_the_criteria_of_the_family_it_names() {
        let text = |text: &str| text.to_owned();
        let criteria = Criteria {
            dialog: text("d"),
            summarization: text("s"),
            question_answering: text("q"),
            math: text("m"),
            code: text("c"),
            other: text("o"),
            critique: text("k"),
        };
        for (task, expected) in [
            ("dialog", "d"),
            ("summarization", "s"),
            ("question_answering/squad", "q"),
            ("math", "m"),
            ("math-word-problems", "m"),
            ("math_algebra", "m"),
            ("mathematics", "o"),
            ("code", "c"),
            ("codes", "o"),
            ("sum_difference", "o"),
            ("", "o"),
        ] {
            assert_eq!(criteria.of(task), expected, "{task}");
        }
    }
}
