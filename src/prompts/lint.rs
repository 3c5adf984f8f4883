//! Checks a whole prompt file and reports every invalid line, not only the first.
//!
//! It applies the same rules as loading: a file without errors loads.

use super::columns::Columns;
use super::line;
use super::rows::Rows;
use crate::types::Prompt;
use std::collections::HashMap;

/// The valid and invalid lines of a prompt file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LintReport {
    /// Valid prompts with their line numbers, from 1.
    pub prompts: Vec<(usize, Prompt)>,
    /// Invalid lines, with what was expected.
    pub errors: Vec<(usize, String)>,
}

/// Checks every line of a JSONL text.
pub fn lint_lines(text: &str) -> LintReport {
    lint(super::rows::lines(text), Columns::OWN)
}

/// Checks every row, whose columns hold what `columns` says.
pub fn lint(rows: Rows, columns: &Columns) -> LintReport {
    let (unit, is_strict) = (rows.unit, rows.is_own_form && !columns.are_mapped());
    let mut lint = LintReport::default();
    let mut first_lines: HashMap<String, usize> = HashMap::new();
    for (number, row) in rows.rows {
        let prompt = match row.and_then(|fields| line::prompt(&fields, columns, is_strict, number)) {
            Ok(prompt) => prompt,
            Err(error) => {
                lint.errors.push((number, error));
                continue;
            }
        };
        let error = super::empty_field(&prompt).or_else(|| {
            let first = *first_lines.entry(prompt.id.clone()).or_insert(number);
            (first != number).then(|| super::id_taken(&prompt.id, unit, first))
        });
        match error {
            Some(error) => lint.errors.push((number, error)),
            None => lint.prompts.push((number, prompt)),
        }
    }
    lint
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
        let lint = lint_lines(text);
        assert_eq!(lint.prompts.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 8]);
        let errors: Vec<_> = lint.errors.iter().map(|(line, error)| (*line, error.as_str())).collect();
        assert_eq!(errors.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
        for ((_, error), part) in errors.iter().zip(["`prompt`", "not JSON", "line 1", "\"task\"", "vibes"]) {
            assert!(error.contains(part) && error.contains("expected"), "{error}");
        }
    }
}
