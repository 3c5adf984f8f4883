//! Token ids of a group's prompt back to the text and to the conversation that they were made from.
//!
//! A conversation is one that the chat template renders to the very text of the ids; there is no other way to be sure of it.

use crate::formats;
use crate::formats::template::ChatTemplate;
use crate::formats::tokenizer::Tokenizer;
use crate::types::{ChatRole, Turn};

/// Stands for the user's text while the template is looked at.
const MARK: &str = "rco-7e1b0c";

/// Reads prompts.
pub struct PromptTexts<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    frames: Vec<Frame>,
}

/// What the template puts before and after the user's text.
struct Frame {
    /// The turns before the user's.
    head: Vec<Turn>,
    before: String,
    after: String,
}

impl<'a> PromptTexts<'a> {
    /// Reads prompts of a user's turn, with or without a system turn of `system` before it.
    ///
    /// # Errors
    /// If the template cannot be rendered.
    pub fn new(tokenizer: &'a Tokenizer, template: &'a ChatTemplate, system: &str) -> Result<Self, formats::Error> {
        let with_system = (!system.is_empty()).then(|| vec![Turn::new(ChatRole::System, system)]);
        let heads = with_system.into_iter().chain([Vec::new()]);
        let mut frames = Vec::new();
        for head in heads {
            let rendered = template.render(&conversation(&head, MARK), true)?;
            if let Some((before, after)) = rendered.split_once(MARK) {
                frames.push(Frame { before: before.to_owned(), after: after.to_owned(), head });
            }
        }
        Ok(Self { tokenizer, template, frames })
    }

    /// The text of `ids` with special tokens: what the template rendered.
    ///
    /// # Errors
    /// If the tokenizer cannot decode them.
    pub fn rendered(&self, ids: &[u32]) -> Result<String, formats::Error> {
        self.tokenizer.decode_rendered(ids)
    }

    /// The conversation of `ids`; none if the template renders no conversation of these turns to them.
    ///
    /// # Errors
    /// If the tokenizer cannot decode them, or the template cannot be rendered.
    pub fn conversation(&self, ids: &[u32]) -> Result<Option<Vec<Turn>>, formats::Error> {
        let rendered = self.rendered(ids)?;
        for Frame { head, before, after } in &self.frames {
            let within = rendered.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
            let Some(within) = within else { continue };
            let turns = conversation(head, within);
            if self.template.render(&turns, true)? == rendered {
                return Ok(Some(turns));
            }
        }
        Ok(None)
    }
}

fn conversation(head: &[Turn], text: &str) -> Vec<Turn> {
    head.iter().cloned().chain([Turn::new(ChatRole::User, text)]).collect()
}
