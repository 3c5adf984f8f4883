//! How a text was read: for whoever wonders about a score.

use super::instructions::followed;
use super::math::MathAnswer;
use super::result::{CheckError, CheckResult};
use super::{choice, code, text};
use crate::types::Prompt;
use crate::types::thoughts::without_thoughts;
use crate::types::verifier::Verifier;
use std::fmt;

/// A score with its reasons; shown, it says why the text has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What the prompt's answer is read as; none where its verifier has no answer.
    pub expected: Option<String>,
    /// What the text is read as; none if it gives no answer.
    pub extracted: Option<String>,
    /// The score, or why there is none.
    pub result: Result<CheckResult, CheckError>,
}

impl Explanation {
    /// The score, if there is one.
    pub fn score(&self) -> Option<f32> {
        self.result.as_ref().ok().map(|checked| checked.score)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.result, &self.expected, &self.extracted) {
            (Err(error), ..) => write!(f, "no score: {error}"),
            (Ok(CheckResult { failure: Some(failure), .. }), ..) => write!(f, "{failure}"),
            (Ok(checked), None, _) if checked.score == 1.0 => write!(f, "right"),
            (Ok(_), None, extracted) => write!(f, "{}", extracted.as_deref().unwrap_or("wrong")),
            (Ok(checked), Some(expected), Some(_)) if checked.score == 1.0 => write!(f, "is {expected}"),
            (Ok(_), Some(expected), Some(extracted)) => write!(f, "expected {expected}, got {extracted}"),
            (Ok(_), Some(expected), None) => write!(f, "expected {expected}, got no answer"),
        }
    }
}

/// What the answer of `prompt` is read as.
pub(super) fn expected(prompt: &Prompt) -> Option<String> {
    let answer = prompt.answer.as_deref();
    match &prompt.verifier {
        None | Some(Verifier::Number {}) => Some(MathAnswer::expected(answer?)?.shown()),
        Some(Verifier::Exact { .. } | Verifier::Text { .. }) => answer.map(|answer| format!("{answer:?}")),
        Some(Verifier::Choice { options }) => Some(option(choice::named(answer?, options)?, options)),
        Some(_) => None,
    }
}

/// What `text` is read as.
pub(super) fn extracted(prompt: &Prompt, text: &str) -> Option<String> {
    let bare = without_thoughts(text);
    match &prompt.verifier {
        None | Some(Verifier::Number {}) => Some(MathAnswer::of(bare)?.shown()),
        Some(Verifier::Exact { .. }) => Some(format!("{:?}", bare.trim())),
        Some(Verifier::Text { .. }) => {
            Some(text::readings(bare).iter().map(|reading| format!("{reading:?}")).collect::<Vec<_>>().join(" or "))
        }
        Some(Verifier::Choice { options }) => Some(option(choice::chosen(bare, options)?, options)),
        Some(Verifier::Ifeval { instructions, repaired }) => {
            let followed = followed(instructions, *repaired, bare)?;
            let broken = instructions.iter().zip(&followed).filter(|(_, followed)| !**followed);
            let broken: Vec<String> = broken.map(|(instruction, _)| instruction.id()).collect();
            let counted = format!("follows {} of {}", followed.len() - broken.len(), followed.len());
            Some(if broken.is_empty() { counted } else { format!("{counted}, not {}", broken.join(", ")) })
        }
        Some(Verifier::Command { .. } | Verifier::Http { .. }) => None,
        Some(Verifier::Code { entry_point, test, preamble }) => {
            Some(code::program_of(code::CodeTask { entry_point, test, preamble }, text))
        }
    }
}

fn option(index: usize, options: &[String]) -> String {
    format!("{} ({})", choice::letter(index), options.get(index).map_or("", String::as_str))
}
