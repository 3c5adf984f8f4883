//! From a row of a file, fields by name, to a prompt.
//!
//! A row of the node's own form has the fields `id`, `task`, `prompt` or `messages`, `system`, `answer` and `verifier`. Files of
//! others have other names, which [`Columns`] maps. Knows neither where a row comes from nor what it is checked by.

use super::columns::Columns;
use crate::types::brief::brief;
use crate::types::{ChatRole, Prompt, Turn};
use serde_json::{Map, Value};

/// The fields of a row.
pub(super) type Fields = Map<String, Value>;

/// The task of a row that names none.
const TASK: &str = "task";
/// Turns of a conversation.
const TURNS_MAX: usize = 1024;

/// The prompt in `fields`, the row of this `number`. With `is_strict`, fields that nothing reads are refused: one of them may be
/// misspelt.
///
/// # Errors
/// What was expected.
pub(super) fn prompt(fields: &Fields, columns: &Columns, is_strict: bool, number: usize) -> Result<Prompt, String> {
    if is_strict && let Some(unknown) = fields.keys().find(|name| !columns.reads(name)) {
        let known = columns.names().join(", ");
        return Err(format!("expected the fields {known} and no others, got `{unknown}`"));
    }
    let get = |field: &'static str| columns.find(field, fields).filter(|value| !value.is_null());
    let text = |field: &'static str| get(field).map(|value| text_of(columns.name(field), value)).transpose();
    let system = text("system")?.filter(|system| !system.trim().is_empty());
    let (shown, turns) = match (get("prompt"), get("messages")) {
        (Some(_), Some(_)) => return Err("expected `prompt` or `messages`, got both".to_owned()),
        (None, None) => return Err(missing(fields, columns)),
        (None, Some(messages)) => conversation(columns.name("messages"), messages, system)?,
        // A list in the place of a prompt is a conversation, as TRL's data sets have it.
        (Some(messages @ Value::Array(_)), None) => conversation(columns.name("prompt"), messages, system)?,
        (Some(prompt), None) => {
            let prompt = text_of(columns.name("prompt"), prompt)?;
            match system {
                None => (prompt, Vec::new()),
                Some(_) => with_system(system, vec![Turn::new(ChatRole::User, prompt)])?,
            }
        }
    };
    Ok(Prompt {
        id: text("id")?.unwrap_or_else(|| number.to_string()),
        task: text("task")?.unwrap_or_else(|| TASK.to_owned()),
        text: shown,
        turns,
        answer: text("answer")?,
        verifier: get("verifier").map(|value| verifier(columns.name("verifier"), value)).transpose()?,
    })
}

fn missing(fields: &Fields, columns: &Columns) -> String {
    let [prompt, messages] = ["prompt", "messages"].map(|field| columns.name(field));
    let there: Vec<&str> = fields.keys().map(String::as_str).collect();
    format!(
        "expected `{prompt}` or `{messages}`, got only {}",
        if there.is_empty() { "{}".to_owned() } else { there.join(", ") }
    )
}

/// A text, or a number or truth value as the text that stands for it.
fn text_of(name: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        other => Err(format!("`{name}`: expected a text or a number, got {}", shown(other))),
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", brief(&text[..end])),
        None => text,
    }
}

/// A verifier: an object, the JSON of one, or the name of a kind that needs no more than its name.
fn verifier(name: &str, value: &Value) -> Result<crate::types::verifier::Verifier, String> {
    let expected = format!("`{name}`: expected an object such as {{\"kind\": \"number\"}}");
    let object = match value {
        Value::Object(_) => value.clone(),
        Value::String(text) if text.trim_start().starts_with('{') => {
            serde_json::from_str(text).map_err(|error| format!("{expected}, got text that is not JSON: {error}"))?
        }
        Value::String(kind) => serde_json::json!({ "kind": kind }),
        other => return Err(format!("{expected}, got {}", shown(other))),
    };
    serde_json::from_value(object).map_err(|error| format!("{expected}, got {}: {error}", shown(value)))
}

/// The conversation in `messages`, in the form of OpenAI (`role`, `content`) or ShareGPT (`from`, `value`): the text that other
/// roles are shown, and its turns.
fn conversation(name: &str, messages: &Value, system: Option<String>) -> Result<(String, Vec<Turn>), String> {
    let parsed;
    let messages = match messages {
        // CSV has texts alone.
        Value::String(text) => {
            parsed =
                serde_json::from_str(text).map_err(|error| format!("`{name}`: expected a list of turns: {error}"))?;
            &parsed
        }
        other => other,
    };
    let Value::Array(list) = messages else {
        return Err(format!("`{name}`: expected a list of turns, got {}", shown(messages)));
    };
    if list.len() > TURNS_MAX {
        return Err(format!("`{name}`: expected at most {TURNS_MAX} turns, got {}", list.len()));
    }
    let mut turns = list.iter().map(|message| turn(name, message)).collect::<Result<Vec<_>, _>>()?;
    // An answer at the end is what a data set for fine-tuning teaches: here it is to be written.
    while turns.last().is_some_and(|turn| turn.role == ChatRole::Assistant) {
        turns.pop();
    }
    if turns.last().is_none_or(|turn| turn.role != ChatRole::User) {
        return Err(format!("`{name}`: expected a conversation with a turn of the user at its end, got none"));
    }
    if let Some(late) = turns.iter().skip(1).position(|turn| turn.role == ChatRole::System) {
        return Err(format!("`{name}`: expected a system text as the first turn alone, got one as turn {}", late + 2));
    }
    match (&system, turns[0].role) {
        (Some(_), ChatRole::System) => {
            Err(format!("expected one system text, got one in `{name}` and another beside it"))
        }
        _ => with_system(system, turns),
    }
}

fn with_system(system: Option<String>, mut turns: Vec<Turn>) -> Result<(String, Vec<Turn>), String> {
    if let Some(system) = system {
        turns.insert(0, Turn::new(ChatRole::System, system));
    }
    match turns.as_slice() {
        [only] => Ok((only.content.clone(), Vec::new())),
        _ => Ok((transcript(&turns), turns)),
    }
}

/// The conversation as a text, for roles that are asked about it.
pub(super) fn transcript(turns: &[Turn]) -> String {
    let line = |turn: &Turn| {
        let who = match turn.role {
            ChatRole::System => "System",
            ChatRole::User => "User",
            ChatRole::Assistant => "Assistant",
        };
        format!("{who}: {}", turn.content)
    };
    turns.iter().map(line).collect::<Vec<_>>().join("\n\n")
}

fn turn(name: &str, message: &Value) -> Result<Turn, String> {
    let get = |keys: [&str; 2]| keys.into_iter().find_map(|key| message.get(key));
    let who = get(["role", "from"]).and_then(Value::as_str);
    let role = match who.map(str::to_lowercase).as_deref() {
        Some("system" | "developer") => ChatRole::System,
        Some("user" | "human") => ChatRole::User,
        Some("assistant" | "gpt" | "bot" | "chatgpt" | "model") => ChatRole::Assistant,
        _ => {
            let expected = "a turn with a \"role\" of system, user or assistant";
            return Err(format!("`{name}`: expected {expected}, got {}", shown(message)));
        }
    };
    let content = match get(["content", "value"]) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            parts.iter().map(|part| part_of(name, part)).collect::<Result<Vec<_>, _>>()?.concat()
        }
        _ => return Err(format!("`{name}`: expected a turn with a text in \"content\", got {}", shown(message))),
    };
    Ok(Turn { role, content })
}

/// The text of a part of a turn's content.
fn part_of<'a>(name: &str, part: &'a Value) -> Result<&'a str, String> {
    let is_text = part.get("type").and_then(Value::as_str).is_none_or(|kind| kind == "text");
    let text = part.get("text").and_then(Value::as_str).filter(|_| is_text);
    text.ok_or_else(|| format!("`{name}`: expected parts of content that are texts, got {}", shown(part)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::verifier::Verifier;

    fn read(line: &str) -> Result<Prompt, String> {
        prompt(&serde_json::from_str(line).unwrap(), &Columns::default(), true, 7)
    }

    #[test]
    fn an_answer_may_be_a_number_and_names_may_be_left_out() {
        for (answer, text) in [("72", "72"), ("-0.5", "-0.5"), ("\"8\"", "8"), ("true", "true"), ("1e3", "1000.0")] {
            let prompt = read(&format!(r#"{{"prompt": "p", "answer": {answer}}}"#)).unwrap();
            assert_eq!((prompt.answer.as_deref(), prompt.id.as_str(), prompt.task.as_str()), (Some(text), "7", "task"));
        }
        assert_eq!(read(r#"{"prompt": "p", "id": 3, "answer": null}"#).unwrap().id, "3");
        let error = read(r#"{"prompt": "p", "answer": ["1"]}"#).unwrap_err();
        assert_eq!(error, "`answer`: expected a text or a number, got [\"1\"]");
    }

    #[test]
    fn several_turns_are_a_conversation_whose_last_turn_is_the_users() {
        let line = r#"{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "2"}, {"role": "user", "content": [{"type": "text", "text": "And "}, {"text": "3?"}]},
            {"role": "assistant", "content": "the answer of a data set"}]}"#;
        let prompt = read(line).unwrap();
        assert_eq!(prompt.text, "System: Be brief.\n\nUser: 1+1?\n\nAssistant: 2\n\nUser: And 3?");
        assert_eq!(prompt.turns.len(), 4);
        assert_eq!(prompt.turns[3], Turn::new(ChatRole::User, "And 3?"));
        let shared = read(r#"{"messages": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#).unwrap();
        assert_eq!((shared.text.as_str(), shared.turns.len()), ("a", 0), "one turn is a prompt");
        let system = read(r#"{"system": "s", "prompt": "p"}"#).unwrap();
        assert_eq!((system.text.as_str(), system.turns.len()), ("System: s\n\nUser: p", 2));
        for (line, why) in [
            (r#"{"messages": []}"#, "turn of the user at its end"),
            (r#"{"messages": [{"role": "tool", "content": "x"}]}"#, "system, user or assistant"),
            (r#"{"messages": [{"role": "user", "content": {"type": "image"}}]}"#, "a text in \"content\""),
            (r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#, "that are texts"),
            (
                r#"{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"},
                {"role": "user", "content": "c"}]}"#,
                "as turn 2",
            ),
            (r#"{"prompt": "a", "messages": []}"#, "got both"),
            (r#"{"messages": "x"}"#, "a list of turns"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn a_verifier_is_an_object_or_a_name_and_a_wrong_one_is_told_what_it_should_be() {
        let verifier =
            |value: &str| read(&format!(r#"{{"prompt": "p", "verifier": {value}}}"#)).map(|prompt| prompt.verifier);
        let number = Some(Verifier::Number {});
        for given in [r#""number""#, r#"{"kind": "number"}"#, r#""{\"kind\": \"number\"}""#] {
            assert_eq!(verifier(given).unwrap(), number, "{given}");
        }
        for given in ["3", "[]", r#""vibes""#, r#"{"kind": "vibes"}"#, r#""{oops""#, "{}"] {
            let error = verifier(given).unwrap_err();
            assert!(error.starts_with(r#"`verifier`: expected an object such as {"kind": "number"}, got"#), "{error}");
            assert!(!error.contains("internally tagged"), "{error}");
        }
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let missing = read(r#"{"id": "b", "task": "t"}"#).unwrap_err();
        assert_eq!(missing, "expected `prompt` or `messages`, got only id, task");
        let unknown = read(r#"{"prompt": "p", "anwser": "1"}"#).unwrap_err();
        assert!(unknown.contains("`anwser`") && unknown.contains("answer"), "{unknown}");
    }
}
