//! The text that each token of a sequence adds.
//!
//! Invariant: the pieces of a text's tokens, special ones left out, make up the text that they decode to. A character of
//! several tokens belongs to the last of them.

use super::Tokenizer;
use crate::formats::Result;

/// Bytes of the longest character.
const CHARACTER_BYTES_MAX: usize = 4;

/// Takes the tokens of one text in their order.
#[derive(Clone)]
pub struct Pieces {
    tokenizer: Tokenizer,
    /// The last ids: those that gave the last text, and those after them that gave none yet.
    tail: Vec<u32>,
    /// How many of `tail` have given their text.
    read: usize,
}

impl Pieces {
    /// At the beginning of a text.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        Self { tokenizer: tokenizer.clone(), tail: Vec::new(), read: 0 }
    }

    /// The text that `id` adds; the name of a special token.
    ///
    /// # Errors
    /// If the tokenizer has no text for it.
    pub fn next(&mut self, id: u32) -> Result<String> {
        if self.tokenizer.is_special(id) {
            return Ok(self.tokenizer.token(id).unwrap_or_default());
        }
        let known = self.tokenizer.decode(&self.tail[..self.read])?;
        self.tail.push(id);
        let longer = self.tokenizer.decode(&self.tail)?;
        if longer.ends_with(char::REPLACEMENT_CHARACTER) && self.tail.len() - self.read < CHARACTER_BYTES_MAX {
            // The first bytes of a character, most likely.
            return Ok(String::new());
        }
        let text = longer.strip_prefix(known.as_str()).unwrap_or(&longer).to_owned();
        self.tail.drain(..self.read);
        self.read = self.tail.len();
        Ok(text)
    }

    /// The text that `id` would add, without taking it.
    ///
    /// # Errors
    /// As [`Pieces::next`].
    pub fn peek(&self, id: u32) -> Result<String> {
        if self.tokenizer.is_special(id) {
            return Ok(self.tokenizer.token(id).unwrap_or_default());
        }
        let known = self.tokenizer.decode(&self.tail)?;
        let longer = self.tokenizer.decode(&[&self.tail, &[id][..]].concat())?;
        match longer.strip_prefix(known.as_str()) {
            Some(text) => Ok(text.to_owned()),
            None => self.tokenizer.decode(&[id]),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pieces(ids: &[u32]) -> Vec<String> {
        let mut pieces = Pieces::new(&Tokenizer::bytes());
        ids.iter().map(|id| pieces.next(*id).unwrap()).collect()
    }

    #[test]
    fn the_pieces_of_a_text_make_it_up_and_its_special_tokens_have_names() {
        let text = "añ🎉b 日";
        assert_eq!(pieces(&Tokenizer::bytes().encode(text).unwrap()).concat(), text);
        assert_eq!(pieces(&[257, 97, 258]), ["<|im_start|>", "a", "<|im_end|>"]);
        assert_eq!(pieces(&[0xff, 0xff, 0xff, 0xff, 97]).last().unwrap(), "a");
    }
}
