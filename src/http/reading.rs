//! Reads a request's body strictly: a field that is not known is refused by name, never ignored.
//!
//! A field that is null counts as absent, and so does one that is at a default that changes nothing.

use super::problem::Problem;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::time::Duration;

/// How long a client may take for the body of its request.
pub(super) const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// The body of a request.
pub(super) struct Body(Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let read = tokio::time::timeout(BODY_DEADLINE, Bytes::from_request(request, state));
        let late = || Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not come in time");
        match read.await.map_err(|_| late())? {
            Ok(bytes) => Ok(Self(bytes)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(Problem::body_too_large()),
            Err(rejection) => Err(Problem::request(format!("the body cannot be read: {rejection}"))),
        }
    }
}

/// A field that is accepted where it changes nothing: its name, the value that it must have, and whether it has it.
pub(super) type Neutral = (&'static str, &'static str, fn(&Value) -> bool);

impl Body {
    /// Its fields, without those that are null and those of `neutral` that change nothing.
    pub(super) fn fields(&self, neutral: &[Neutral]) -> Result<Fields, Problem> {
        let body: Value = serde_json::from_slice(&self.0)
            .map_err(|error| Problem::request(format!("body: expected a JSON object: {error}")))?;
        let Value::Object(mut map) = body else {
            return Err(Problem::request("body: expected a JSON object, got another JSON value"));
        };
        drop_nulls(&mut map);
        for (name, expected, is_neutral) in neutral {
            match map.remove(*name) {
                Some(value) if !is_neutral(&value) => {
                    let message =
                        format!("{name}: expected {expected}, because nothing else is supported, got {value}");
                    return Err(Problem::unsupported(name, message));
                }
                _ => {}
            }
        }
        Ok(Fields { map, unknown: None })
    }
}

/// Removes the fields that are null, within other fields too: a client sends back what a server sent.
fn drop_nulls(map: &mut Map<String, Value>) {
    map.retain(|_, value| !value.is_null());
    map.values_mut().for_each(within);

    fn within(value: &mut Value) {
        match value {
            Value::Object(map) => drop_nulls(map),
            Value::Array(values) => values.iter_mut().for_each(within),
            _ => {}
        }
    }
}

/// Fields that are read as one or more structs.
pub(super) struct Fields {
    map: Map<String, Value>,
    /// Paths that no struct so far has; none before the first.
    unknown: Option<Vec<String>>,
}

impl Fields {
    /// The fields that `T` has.
    pub(super) fn read<T: DeserializeOwned>(&mut self) -> Result<T, Problem> {
        let (mut unknown, mut track) = (Vec::new(), serde_path_to_error::Track::new());
        let value = Value::Object(self.map.clone());
        let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
        let read = serde_ignored::deserialize(deserializer, |path| unknown.push(path.to_string()));
        // One of the two writes an option as a question mark, the other an index in brackets.
        let plain = |path: String| path.replace(".?", "").replace('?', "").replace('[', ".").replace(']', "");
        let read = read.map_err(|error| match plain(track.path().to_string()).as_str() {
            "." | "" => Problem::request(error.to_string()),
            path => Problem::invalid(path, format!("{path}: {error}")),
        })?;
        let unknown: Vec<_> = unknown.into_iter().map(plain).collect();
        self.unknown = Some(match self.unknown.take() {
            Some(before) => unknown_to_both(&before, &unknown),
            None => unknown,
        });
        Ok(read)
    }

    /// Refuses what no struct has read.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.unknown.unwrap_or_default().first() {
            Some(name) => Err(Problem::unsupported(name, format!("{name}: this field is not supported"))),
            None => Ok(()),
        }
    }
}

/// The paths that neither struct has. A struct that lacks a field lacks what is in it.
fn unknown_to_both(one: &[String], other: &[String]) -> Vec<String> {
    let lacks = |paths: &[String], path: &str| {
        paths.iter().any(|lacked| {
            path.strip_prefix(lacked.as_str()).is_some_and(|rest| matches!(rest.bytes().next(), None | Some(b'.')))
        })
    };
    let only = one.iter().filter(|path| lacks(other, path));
    let more = other.iter().filter(|path| lacks(one, path) && !one.contains(path));
    only.chain(more).cloned().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    struct One {
        name: String,
        size: Option<f32>,
        inner: Option<Inner>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        a: Option<bool>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Two {
        other: Option<u32>,
    }

    const NEUTRAL: &[Neutral] = &[("penalty", "0", |value| value.as_f64() == Some(0.0))];

    fn read(text: &str) -> Result<(One, Two), Value> {
        let both = || {
            let mut fields = Body(Bytes::copy_from_slice(text.as_bytes())).fields(NEUTRAL)?;
            let both = (fields.read()?, fields.read()?);
            fields.end()?;
            Ok(both)
        };
        both().map_err(|problem: Problem| serde_json::to_value(problem.body()).unwrap()["error"].clone())
    }

    #[test]
    fn a_body_may_hold_the_fields_of_either_struct_nulls_and_neutral_values() {
        let text =
            r#"{"name": "a", "other": 3, "size": null, "unheard_of": null, "penalty": 0.0, "inner": {"a": true}}"#;
        let one = One { name: "a".into(), size: None, inner: Some(Inner { a: Some(true) }) };
        assert_eq!(read(text).unwrap(), (one, Two { other: Some(3) }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, param, part) in [
            (r#"{"name": "a", "tools": []}"#, "tools", "not supported"),
            (r#"{"name": "a", "inner": {"b": 1}}"#, "inner.b", "not supported"),
            (r#"{"name": "a", "penalty": 0.5}"#, "penalty", "expected 0, because nothing else is supported, got 0.5"),
            (r#"{"name": "a", "size": "large"}"#, "size", "invalid type: string \"large\", expected f32"),
            (r#"{"name": "a", "inner": {"a": 1}}"#, "inner.a", "expected a boolean"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error["param"], param, "{text}: {error}");
            assert!(error["message"].as_str().unwrap().contains(part), "{text}: {error}");
        }
        for (text, part) in [("{}", "missing field `name`"), ("[]", "JSON object"), ("{", "EOF"), ("", "EOF")] {
            let error = read(text).unwrap_err();
            assert!(error["param"].is_null() && error["message"].as_str().unwrap().contains(part), "{text}: {error}");
        }
    }
}
