//! Checks a `tokenizer.json` before the `tokenizers` crate reads it.
//!
//! That crate tries the variants of nested parts one after the other, so its time doubles with each level; and a chain of
//! replacements can make a text longer without end. Knows the names of parts, not their meaning.

use crate::formats::json;
use serde::Deserialize;
use serde_json::Value;

/// The longest file. Gemma's has 33 MB.
pub(super) const FILE_BYTES_MAX: u64 = 256 << 20;
/// Levels of lists and maps. The deepest known, a template in a sequence of post-processors, has eight.
const DEPTH_MAX: usize = 12;
/// Parts of a normalizer, a pre-tokenizer, a post-processor or a decoder, at all levels. The longest known have nine.
const PARTS_MAX: usize = 64;
/// The most that all replacements of a normalizer or a decoder together may lengthen a text by. A space becomes three bytes.
const GROWTH_MAX: usize = 64;
/// The longest pattern of a split or a replacement.
const PATTERN_BYTES_MAX: usize = 4096;

/// The parts of a file that can be nested.
#[derive(Deserialize)]
struct Parts {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
}

/// Checks the file `text`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(text: &[u8]) -> Result<(), String> {
    json::check(text, DEPTH_MAX)?;
    let parts: Parts = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let named = [
        ("normalizer", parts.normalizer),
        ("pre_tokenizer", parts.pre_tokenizer),
        ("post_processor", parts.post_processor),
        ("decoder", parts.decoder),
    ];
    for (name, part) in named {
        let mut seen = Seen { parts: 0, growth: 1 };
        part.map_or(Ok(()), |part| seen.walk(&part)).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

/// What was seen of a chain of parts.
struct Seen {
    parts: usize,
    /// Bytes that a byte of text can become.
    growth: usize,
}

impl Seen {
    fn walk(&mut self, value: &Value) -> Result<(), String> {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(kind)) = map.get("type") {
                    self.part(kind, map.get("content"))?;
                }
                if let Some(pattern) = map.get("Regex").and_then(Value::as_str) {
                    pattern_complaint(pattern)?;
                }
                map.values().try_for_each(|value| self.walk(value))
            }
            Value::Array(list) => list.iter().try_for_each(|value| self.walk(value)),
            _ => Ok(()),
        }
    }

    fn part(&mut self, kind: &str, content: Option<&Value>) -> Result<(), String> {
        self.parts += 1;
        if self.parts > PARTS_MAX {
            return Err(format!("expected at most {PARTS_MAX} parts, got more"));
        }
        if let ("Replace", Some(Value::String(content))) = (kind, content) {
            self.growth = self.growth.saturating_mul(content.len().max(1));
            if self.growth > GROWTH_MAX {
                let why = "expected replacements that lengthen a text by a factor of at most";
                return Err(format!("{why} {GROWTH_MAX}, got {}", self.growth));
            }
        }
        Ok(())
    }
}

/// Why `pattern` is refused: counted repetitions within each other are compiled to their product.
fn pattern_complaint(pattern: &str) -> Result<(), String> {
    match pattern.len() > PATTERN_BYTES_MAX {
        true => Err(format!("expected a pattern of at most {PATTERN_BYTES_MAX} bytes, got {}", pattern.len())),
        false => Ok(()),
    }
}
