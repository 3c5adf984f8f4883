//! Overlays one TOML table on another. The default table defines which keys exist and their types.

use toml::{Table, Value};

/// One key with its new value. The key exists in the default, and the value has the default's type.
pub(super) struct Edit {
    path: Vec<String>,
    value: Value,
}

impl Edit {
    /// Puts the value into `tree`, which must have the key.
    pub(super) fn apply(&self, tree: &mut Table) {
        let (key, sections) = self.path.split_last().expect("a path has at least its key");
        let mut table = tree;
        for section in sections {
            table = table
                .get_mut(section)
                .and_then(Value::as_table_mut)
                .expect("an edit is only made for a key of the default tree");
        }
        table.insert(key.clone(), self.value.clone());
    }

    /// The complaint for a deserialisation error.
    pub(super) fn complaint(&self, message: &str) -> String {
        let key = self.path.join(".");
        // serde names the given value first; complaints name the expected one first.
        match message.strip_prefix("unknown variant `").and_then(|rest| rest.split_once("`, ")) {
            Some((got, expected)) => format!("{key}: {expected}, got {got:?}"),
            None => format!("{key}: {}", message.trim_end()),
        }
    }
}

/// Collects edits to a default table, and complaints about invalid ones.
pub(super) struct Edits<'a> {
    default: &'a Table,
    edits: Vec<Edit>,
    complaints: Vec<String>,
}

impl<'a> Edits<'a> {
    /// No edits yet.
    pub(super) fn of(default: &'a Table) -> Self {
        Self { default, edits: Vec::new(), complaints: Vec::new() }
    }

    /// The edits and complaints collected.
    pub(super) fn finish(self) -> (Vec<Edit>, Vec<String>) {
        (self.edits, self.complaints)
    }

    /// Adds an edit for every key of `tree`.
    pub(super) fn overlay(&mut self, tree: Table) {
        self.section(&[], self.default, tree);
    }

    /// Adds an edit for one `section.key=value`.
    pub(super) fn set(&mut self, given: &str) {
        let Some((key, text)) = given.split_once('=') else {
            self.complaints.push(format!("--set {given}: expected section.key=value"));
            return;
        };
        let path: Vec<&str> = key.trim().split('.').map(str::trim).collect();
        let wanted = path.iter().try_fold(None::<&Value>, |at, part| match at {
            None => self.default.get(*part).map(Some),
            Some(value) => value.get(*part).map(Some),
        });
        let value = match text.trim().parse::<Value>() {
            Ok(value) if value.is_str() || !matches!(wanted, Some(Some(Value::String(_)))) => value,
            // If the key is a string, quotes may be left out even if the value looks like another type.
            _ => Value::String(text.to_owned()),
        };
        let nested = path
            .iter()
            .rev()
            .fold(value, |value, part| Value::Table(std::iter::once(((*part).to_owned(), value)).collect()));
        // `split` returns at least one part, so there is at least one table.
        if let Value::Table(tree) = nested {
            self.overlay(tree);
        }
    }

    /// Adds edits for the keys of one section with the defaults `default`.
    fn section(&mut self, path: &[String], default: &Table, given: Table) {
        for (key, value) in given {
            let at = [path, std::slice::from_ref(&key)].concat();
            match default.get(&key) {
                None => {
                    let complaint = self.unknown(&at, path, default);
                    self.complaints.push(complaint);
                }
                Some(Value::Table(inner)) if value.is_table() => {
                    let Value::Table(value) = value else { continue };
                    self.section(&at, inner, value);
                }
                Some(wanted) => match fit(wanted, value) {
                    Ok(value) => self.edits.push(Edit { path: at, value }),
                    Err(why) => self.complaints.push(format!("{}{why}", at.join("."))),
                },
            }
        }
    }

    /// The complaint about an unknown key, with the key that was probably meant.
    fn unknown(&self, at: &[String], path: &[String], siblings: &Table) -> String {
        let (full, key) = (at.join("."), &at[at.len() - 1]);
        let near = closest(key, siblings.keys().map(String::as_str));
        let near = near.map(|known| [path, &[known.to_owned()]].concat().join("."));
        let elsewhere = || {
            let mut found = Vec::new();
            find(self.default, key, &mut Vec::new(), &mut found);
            (!found.is_empty()).then(|| found.join(" or "))
        };
        match near.or_else(elsewhere) {
            Some(known) => format!("{full}: unknown key, did you mean {known}?"),
            None => {
                let known = siblings.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                format!("{full}: unknown key, expected one of {known}")
            }
        }
    }
}

/// `value` converted to the type of `wanted`, or `: expected ..., got ...`.
fn fit(wanted: &Value, value: Value) -> Result<Value, String> {
    match (wanted, value) {
        (Value::Float(_), Value::Integer(whole)) => Ok(Value::Float(whole as f64)),
        // Every integer of the config is a count.
        (Value::Integer(_), Value::Integer(negative)) if negative < 0 => {
            Err(format!(": expected an integer of at least 0, got {negative}"))
        }
        (Value::Array(list), Value::Array(values)) => {
            let string = Value::String(String::new());
            let element = list.first().unwrap_or(&string);
            let fitted = values
                .into_iter()
                .enumerate()
                .map(|(i, value)| fit(element, value).map_err(|why| format!("[{i}]{why}")));
            Ok(Value::Array(fitted.collect::<Result<_, _>>()?))
        }
        (wanted, value) if wanted.same_type(&value) => Ok(value),
        (wanted, value) => Err(format!(": expected {}, got {}", name(wanted), describe(&value))),
    }
}

/// The type of `value`, for messages.
fn name(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    }
}

/// The given value, for messages.
fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the string {text:?}"),
        Value::Integer(whole) => format!("the integer {whole}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Boolean(flag) => flag.to_string(),
        Value::Datetime(date) => format!("the date {date}"),
        Value::Array(_) | Value::Table(_) => name(value).to_owned(),
    }
}

/// Full names of all keys called `key` in `table` and its sections.
fn find(table: &Table, key: &str, path: &mut Vec<String>, found: &mut Vec<String>) {
    for (name, value) in table {
        path.push(name.clone());
        if name == key {
            found.push(path.join("."));
        }
        if let Value::Table(inner) = value {
            find(inner, key, path, found);
        }
        path.pop();
    }
}

/// The one of `known` that `given` was probably meant to be.
pub(crate) fn closest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.into_iter().map(|known| (distance(given, known), known));
    near.filter(|(distance, _)| *distance <= 1 + given.len() / 4).min().map(|(_, known)| known)
}

/// Levenshtein distance: insertions, deletions and replacements of characters.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_edits() {
        for (one, other, edits) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("seed", "sede", 2), ("a", "b", 1)]
        {
            assert_eq!(distance(one, other), edits, "{one} {other}");
        }
    }
}
