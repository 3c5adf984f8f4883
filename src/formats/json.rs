//! JSON of other programs: within a size, not nested too deep, and no key twice in a map.
//!
//! A key that stands twice means one thing to one reader and another to the next, so it is refused by name. Knows no format.

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;

/// The deepest nesting of lists and maps. Configs of models have three levels, headers of tensors two.
const DEPTH_MAX: usize = 32;

/// The value of the JSON text `bytes`.
///
/// # Errors
/// What is wrong, and at which line and column.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    check(bytes, DEPTH_MAX)?;
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// Checks that `bytes` is JSON with at most `depth_max` levels of lists and maps, and has no key twice in a map.
///
/// # Errors
/// What is wrong, and at which line and column.
pub(crate) fn check(bytes: &[u8], depth_max: usize) -> Result<(), String> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let checked = Checked { levels: depth_max, depth_max }.deserialize(&mut json).and_then(|()| json.end());
    checked.map_err(|error| error.to_string())
}

/// A value that is only checked.
#[derive(Clone, Copy)]
struct Checked {
    /// Levels that may still be opened.
    levels: usize,
    depth_max: usize,
}

impl Checked {
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        let levels = self.levels.checked_sub(1);
        let levels =
            levels.ok_or_else(|| E::custom(format!("expected at most {} levels of nesting", self.depth_max)))?;
        Ok(Self { levels, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Checked {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while list.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if let Some(key) = keys.replace(key.clone()) {
                return Err(A::Error::custom(format!("expected each key once, got {key:?} twice")));
            }
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_key_twice_is_refused_at_any_level() {
        for text in [r#"{"a": 1, "b": 2, "a": 1}"#, r#"[{"b": {"a": [], "a": {}}}]"#, r#"{"a": 1, "\u0061": 2}"#] {
            let error = parse::<Value>(text.as_bytes()).unwrap_err();
            assert!(error.contains("expected each key once, got \"a\" twice"), "{text}: {error}");
        }
        assert_eq!(parse::<Value>(br#"{"a": {"a": [null, -1, 1.5, "a", true]}}"#).unwrap()["a"]["a"][3], "a");
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(check(nested(8).as_bytes(), 8).is_ok());
        let error = check(nested(9).as_bytes(), 8).unwrap_err();
        assert!(error.contains("expected at most 8 levels"), "{error}");
        assert!(parse::<Value>("[".repeat(1 << 20).as_bytes()).is_err());
    }
}
