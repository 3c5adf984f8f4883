//! Gathers complaints about config values, each as `section.key: expected ..., got ...`.

use std::fmt::Debug;

/// The complaints about one section.
pub(super) struct Complaints {
    pub(super) section: String,
    pub(super) list: Vec<String>,
}

impl Complaints {
    pub(super) fn of(section: &str) -> Self {
        Self { section: section.to_owned(), list: Vec::new() }
    }

    /// Adds a complaint about `key` unless `right`.
    pub(super) fn expect(&mut self, right: bool, key: &str, expected: &str, got: impl Debug) {
        if !right {
            self.list.push(format!("{}.{key}: expected {expected}, got {got:?}", self.section));
        }
    }

    pub(super) fn at_least_one(&mut self, keys: &[(&str, u64)]) {
        for (key, got) in keys {
            self.expect(*got >= 1, key, "at least 1", got);
        }
    }
}

/// A complaint if `value` is blank.
pub(super) fn not_blank(key: &str, value: &str, expected: &str) -> Vec<String> {
    if value.trim().is_empty() { vec![format!("{key}: expected {expected}, got {value:?}")] } else { Vec::new() }
}
