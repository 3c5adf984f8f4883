//! Names tokens by the text that each adds, with where it begins.
//!
//! Invariant: the names of a text's tokens, special ones left out, make up the text that they decode to. A character of
//! several tokens belongs to the last of them.

use crate::engine::TokenReport;
use crate::formats::Result;
use crate::formats::tokenizer::{Pieces, Tokenizer};

/// What JSON shows for a probability of 0.
const LOG_PROB_MIN: f32 = -9999.0;

/// A token by its text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NamedToken {
    /// The text that it adds; the name of a special token.
    pub(super) text: String,
    /// Where its text begins, in characters.
    pub(super) offset: usize,
    /// Its log-probability; none for the first token of a prompt.
    pub(super) log_prob: Option<f32>,
    /// The likeliest tokens at its position.
    pub(super) top: Vec<(String, f32)>,
}

/// Names the tokens of one text in their order.
pub(super) struct TokenNames {
    tokenizer: Tokenizer,
    pieces: Pieces,
    offset: usize,
}

impl TokenNames {
    pub(super) fn new(tokenizer: &Tokenizer) -> Self {
        Self { tokenizer: tokenizer.clone(), pieces: Pieces::new(tokenizer), offset: 0 }
    }

    /// Names the next token.
    ///
    /// # Errors
    /// If the tokenizer has no text for it.
    pub(super) fn name(&mut self, report: &TokenReport) -> Result<NamedToken> {
        let TokenReport { id, log_prob, top } = report;
        let offset = self.offset;
        let top = top.iter().map(|(id, log_prob)| Ok((self.pieces.peek(*id)?, log_prob.max(LOG_PROB_MIN))));
        let top = top.collect::<Result<_>>()?;
        let text = self.pieces.next(*id)?;
        if !self.tokenizer.is_special(*id) {
            self.offset += text.chars().count();
        }
        Ok(NamedToken { text, offset, log_prob: log_prob.map(|log_prob| log_prob.max(LOG_PROB_MIN)), top })
    }
}

/// The bytes of a token's text; none where the text does not show them.
pub(super) fn bytes(text: &str) -> Option<Vec<u8>> {
    (!text.contains(char::REPLACEMENT_CHARACTER)).then(|| text.as_bytes().to_vec())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(ids: &[u32]) -> Vec<NamedToken> {
        let mut names = TokenNames::new(&Tokenizer::bytes());
        ids.iter().map(|&id| names.name(&TokenReport { id, log_prob: Some(-1.0), top: vec![] }).unwrap()).collect()
    }

    #[test]
    fn the_names_of_a_texts_tokens_make_up_the_text_and_their_offsets_are_where_they_begin() {
        let text = "añ🎉b 日";
        let named = names(&Tokenizer::bytes().encode(text).unwrap());
        assert_eq!(named.iter().map(|token| token.text.as_str()).collect::<String>(), text);
        for token in named.iter().filter(|token| !token.text.is_empty()) {
            let begins = text.chars().skip(token.offset).collect::<String>();
            assert!(begins.starts_with(&token.text), "{token:?}");
        }
    }

    #[test]
    fn special_tokens_have_names_and_no_length() {
        let named = names(&[257, 97, 258, 98]);
        let told: Vec<_> = named.iter().map(|token| (token.text.as_str(), token.offset)).collect();
        assert_eq!(told, [("<|im_start|>", 0), ("a", 0), ("<|im_end|>", 1), ("b", 1)]);
    }

    #[test]
    fn bytes_that_are_no_character_do_not_hold_back_the_rest() {
        let named = names(&[0xff, 0xff, 0xff, 0xff, 97]);
        assert_eq!(named.last().unwrap().text, "a");
    }

    #[test]
    fn an_impossible_token_has_a_number_that_json_can_show() {
        let mut names = TokenNames::new(&Tokenizer::bytes());
        let report = TokenReport { id: 97, log_prob: Some(f32::NEG_INFINITY), top: vec![(98, f32::NEG_INFINITY)] };
        let named = names.name(&report).unwrap();
        assert_eq!((named.log_prob, named.top), (Some(-9999.0), vec![("b".to_owned(), -9999.0)]));
    }
}
