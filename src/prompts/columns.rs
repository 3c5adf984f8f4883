//! Which columns of a file hold the fields of a prompt.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The names of columns; an empty one is the field's own name. A name such as `answers.text.0` goes into objects and lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// Of the prompt's id.
    pub id: String,
    /// Of its task.
    pub task: String,
    /// Of its text.
    pub prompt: String,
    /// Of its conversation.
    pub messages: String,
    /// Of its system text.
    pub system: String,
    /// Of its answer.
    pub answer: String,
    /// Of its verifier.
    pub verifier: String,
}

impl Columns {
    /// Those of the node's own form.
    pub(super) const OWN: &'static Self = &Self {
        id: String::new(),
        task: String::new(),
        prompt: String::new(),
        messages: String::new(),
        system: String::new(),
        answer: String::new(),
        verifier: String::new(),
    };

    /// Fields and the names given to their columns.
    fn pairs(&self) -> [(&'static str, &str); 7] {
        [
            ("id", &self.id),
            ("task", &self.task),
            ("prompt", &self.prompt),
            ("messages", &self.messages),
            ("system", &self.system),
            ("answer", &self.answer),
            ("verifier", &self.verifier),
        ]
    }

    /// Whether any field has a column of another name.
    pub(super) fn are_mapped(&self) -> bool {
        self.pairs().iter().any(|(_, name)| !name.is_empty())
    }

    /// The fields with a column of another name, and that name.
    pub(super) fn mapped(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.pairs().into_iter().filter(|(_, name)| !name.is_empty())
    }

    /// The name of the column of `field`.
    pub(super) fn name<'a>(&'a self, field: &'a str) -> &'a str {
        let given = self.pairs().into_iter().find(|(known, _)| *known == field).map_or("", |(_, name)| name);
        if given.is_empty() { field } else { given }
    }

    /// The names of all columns that are read.
    pub(super) fn names(&self) -> Vec<&str> {
        self.pairs().into_iter().map(|(field, name)| if name.is_empty() { field } else { name }).collect()
    }

    /// Whether the column `name` is read.
    pub(super) fn reads(&self, name: &str) -> bool {
        self.names().into_iter().any(|known| known == name)
    }

    /// The value of `field` in a row: of its column, or where the row has none, of the field's own name, because the held-out file
    /// may be of another form.
    pub(super) fn find<'a>(&'a self, field: &'a str, row: &'a Map<String, Value>) -> Option<&'a Value> {
        at(self.name(field), row).or_else(|| row.get(field))
    }
}

/// The value of the column `name`, which may be deep in the row.
fn at<'a>(name: &str, row: &'a Map<String, Value>) -> Option<&'a Value> {
    if let Some(value) = row.get(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    rest.split('.').try_fold(row.get(first)?, |value, part| match value {
        Value::Object(fields) => fields.get(part),
        Value::Array(list) => list.get(part.parse::<usize>().ok()?),
        _ => None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_column_may_be_deep_in_a_row() {
        let columns = Columns { answer: "answers.text.0".to_owned(), ..Columns::default() };
        let row = serde_json::from_str(r#"{"prompt": "p", "answers": {"text": ["a", "b"]}}"#).unwrap();
        assert_eq!(columns.find("answer", &row), Some(&Value::from("a")));
        assert_eq!(columns.find("prompt", &row), Some(&Value::from("p")));
        assert_eq!(columns.find("id", &row), None);
        // A column whose own name has a dot goes first.
        let row = serde_json::from_str(r#"{"answers.text.0": "c", "answers": {"text": ["a"]}}"#).unwrap();
        assert_eq!(columns.find("answer", &row), Some(&Value::from("c")));
        // A file of the node's own form, such as a held-out one, is read too.
        let row = serde_json::from_str(r#"{"answer": "d"}"#).unwrap();
        assert_eq!(columns.find("answer", &row), Some(&Value::from("d")));
        assert!(columns.are_mapped() && !Columns::default().are_mapped());
    }
}
