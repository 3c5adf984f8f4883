//! A look at a whole prompt file: every line that is no prompt, and why, instead of the first one alone.
//!
//! It holds lines to the same rules as loading does: a file without faults loads.

use super::EXPECTED;
use crate::types::Prompt;
use std::collections::HashMap;

/// What a prompt file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Prompts that can be used, with the numbers of their lines, from 1.
    pub prompts: Vec<(usize, Prompt)>,
    /// Lines that cannot, and what was expected.
    pub faults: Vec<(usize, String)>,
}

/// Looks at every line of `text`; blank ones are passed over.
pub fn survey(text: &str) -> Survey {
    let mut survey = Survey::default();
    let mut first_lines: HashMap<String, usize> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let prompt: Prompt = match serde_json::from_str(line) {
            Ok(prompt) => prompt,
            Err(error) => {
                survey.faults.push((number, format!("expected {EXPECTED}, got {error}")));
                continue;
            }
        };
        let fault = super::empty_field(&prompt).or_else(|| {
            let first = *first_lines.entry(prompt.id.clone()).or_insert(number);
            (first != number).then(|| super::id_taken(&prompt.id, first))
        });
        match fault {
            Some(fault) => survey.faults.push((number, fault)),
            None => survey.prompts.push((number, prompt)),
        }
    }
    survey
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_line_is_named_and_the_good_ones_are_kept() {
        let text = r#"{"id": "a", "task": "t", "prompt": "one", "answer": "1"}

{"id": "b", "task": "t"}
not json
{"id": "a", "task": "t", "prompt": "two"}
{"id": "c", "task": " ", "prompt": "three"}
{"id": "d", "task": "t", "prompt": "four", "verifier": {"kind": "vibes"}}
{"id": "e", "task": "t", "prompt": "five"}
"#;
        let survey = survey(text);
        assert_eq!(survey.prompts.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 8]);
        let faults: Vec<_> = survey.faults.iter().map(|(line, fault)| (*line, fault.as_str())).collect();
        assert_eq!(faults.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
        for ((_, fault), part) in faults.iter().zip(["`prompt`", "verifier", "line 1", "\"task\"", "vibes"]) {
            assert!(fault.contains(part) && fault.starts_with("expected"), "{fault}");
        }
    }
}
