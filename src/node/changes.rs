//! What differs between the config of a run's last process and this one's: told when the run is resumed.
//!
//! Pure. What must not change is refused elsewhere ([`super::identity`]); all that differs here is allowed.

use toml::{Table, Value};

/// A key whose value differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// `section.key`.
    pub(super) key: String,
    /// Its value in the last process; none if it did not have the key.
    pub(super) before: Option<String>,
    /// Its value now.
    pub(super) now: Option<String>,
}

/// The keys that differ between two resolved configs, in their order.
pub(super) fn changes(before: &Table, now: &Table) -> Vec<Change> {
    let (before, now) = (flat(before), flat(now));
    let value = |of: &[(String, String)], key: &str| of.iter().find(|(known, _)| known == key).map(|(_, v)| v.clone());
    let gone = before.iter().filter(|(key, _)| value(&now, key).is_none());
    let keys = now.iter().chain(gone).map(|(key, _)| key);
    let change = |key: &String| Change { key: key.clone(), before: value(&before, key), now: value(&now, key) };
    keys.map(change).filter(|change| change.before != change.now).collect()
}

/// Every value that is not a table, by its whole key.
fn flat(table: &Table) -> Vec<(String, String)> {
    let mut values = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(section) => {
                values.extend(flat(section).into_iter().map(|(inner, value)| (format!("{key}.{inner}"), value)));
            }
            other => values.push((key.clone(), other.to_string())),
        }
    }
    values
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_differs_is_named_with_both_values() {
        let before = "[a]\nx = 1\ny = \"s\"\n[a.b]\nz = [1, 2]\nold = true\n".parse().unwrap();
        let now = "[a]\nx = 2\ny = \"s\"\n[a.b]\nz = [1]\nnew = 0.5\n".parse().unwrap();
        let change = |key: &str, before: Option<&str>, now: Option<&str>| Change {
            key: key.to_owned(),
            before: before.map(str::to_owned),
            now: now.map(str::to_owned),
        };
        let mut found = changes(&before, &now);
        found.sort_by(|one, other| one.key.cmp(&other.key));
        assert_eq!(
            found,
            [
                change("a.b.new", None, Some("0.5")),
                change("a.b.old", Some("true"), None),
                change("a.b.z", Some("[1, 2]"), Some("[1]")),
                change("a.x", Some("1"), Some("2")),
            ]
        );
        assert!(changes(&now, &now).is_empty());
    }
}
