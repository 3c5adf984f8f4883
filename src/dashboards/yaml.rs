//! A value as YAML in block style. Texts are quoted as in JSON, of which YAML 1.2 is a superset.

use serde_json::Value;

/// `value` as a YAML document, after `comment`.
pub(super) fn document(comment: &str, value: &Value) -> String {
    let mut text: String = comment.lines().map(|line| format!("# {line}\n")).collect();
    write(value, 0, &mut text);
    text
}

/// Writes `value` from the beginning of a line, indented by `depth` steps.
fn write(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                *text += &format!("{indent}{key}:");
                below(value, depth + 1, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut inner = String::new();
                write(item, depth + 1, &mut inner);
                // The item begins on the line of its dash.
                *text += &format!("{indent}- {}", inner.trim_start());
            }
        }
        plain => *text += &format!("{indent}{plain}\n"),
    }
}

/// Writes what follows a key: on its line if it is plain, else below it.
fn below(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            write(value, depth, text);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            write(value, depth, text);
        }
        plain => *text += &format!(" {plain}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nested_lists_and_maps_are_in_block_style_and_texts_quoted() {
        let value = json!({ "a": [{ "b": "x: \"y\" # z", "c": [1, 2] }, { "d": {} }], "e": { "f": true } });
        let expected =
            "# Made\n# here\na:\n  - b: \"x: \\\"y\\\" # z\"\n    c:\n      - 1\n      - 2\n  - d: {}\ne:\n  f: true\n";
        assert_eq!(document("Made\nhere", &value), expected);
    }
}
