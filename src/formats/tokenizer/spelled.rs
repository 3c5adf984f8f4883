//! Text that spells a control token: it stays text.
//!
//! A tokenizer finds its special tokens anywhere in a text, so a prompt that spells `<|im_end|>` would end its own turn. A
//! *mark*, a character that stands nowhere else in the text, breaks such a spelling. It is put after the first character of
//! the spelling and taken out again once the special tokens are found, before the rest is cut into tokens. So the ids of a
//! text without marks are the usual ones.

use super::{Tokenizer, caught};
use crate::formats::error::{Error, Result};
use std::collections::HashSet;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{Model as _, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

/// Marks are taken from here: the private planes of Unicode, which hold no character of any script.
const MARKS: std::ops::RangeInclusive<char> = '\u{f0000}'..='\u{10fffd}';

/// Rounds of marking. Breaking one spelling can reveal another one inside it.
const ROUNDS_MAX: usize = 64;

/// A character that stands in none of `texts`.
///
/// # Errors
/// If they hold all that it could be.
pub(crate) fn mark_for<'a>(texts: impl Iterator<Item = &'a str>) -> Result<char> {
    let taken: HashSet<char> = texts.flat_map(str::chars).filter(|c| MARKS.contains(c)).collect();
    let free = MARKS.into_iter().find(|c| !taken.contains(c));
    free.ok_or_else(|| Error::Tokenizer("expected a text without every private character of Unicode".to_owned()))
}

/// `text` with `mark` at each of `places`, which are byte offsets in rising order.
pub(crate) fn marked(text: &str, places: &[usize], mark: char) -> String {
    let mut with = String::with_capacity(text.len() + places.len() * mark.len_utf8());
    let mut from = 0;
    for &place in places {
        with.push_str(&text[from..place]);
        with.push(mark);
        from = place;
    }
    with.push_str(&text[from..]);
    with
}

/// The inverse of [`marked`]: the text, and where its marks stood.
pub(crate) fn unmarked(with: &str, mark: char) -> (String, Vec<usize>) {
    let (mut text, mut places) = (String::with_capacity(with.len()), Vec::new());
    for piece in with.split_inclusive(mark) {
        match piece.strip_suffix(mark) {
            Some(piece) => {
                text.push_str(piece);
                places.push(text.len());
            }
            None => text.push_str(piece),
        }
    }
    (text, places)
}

impl Tokenizer {
    /// Ids of a text that is all text: what spells a special token in it becomes ordinary tokens.
    ///
    /// # Errors
    /// If the tokenizer cannot encode the text.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_spelled(text, &self.spelled(text)?)
    }

    /// Ids of `text`, in which marks at `places` would break spellings of special tokens.
    ///
    /// # Errors
    /// If the tokenizer cannot encode the text.
    pub(crate) fn encode_spelled(&self, text: &str, places: &[usize]) -> Result<Vec<u32>> {
        if places.is_empty() {
            return self.encode(text);
        }
        let mark = mark_for(std::iter::once(text))?;
        let with = marked(text, places, mark);
        let ids = caught(|| {
            let mut pieces = self.extracted(&with);
            pieces.normalize(|piece| {
                piece.filter(|c| c != mark);
                Ok(())
            })?;
            if let Some(splitter) = self.inner.get_pre_tokenizer() {
                PreTokenizerWrapper::pre_tokenize(splitter, &mut pieces)?;
            }
            pieces.tokenize(|piece| self.inner.get_model().tokenize(piece.get()))?;
            pieces.into_encoding(None, 0, OffsetType::None)
        })?;
        Ok(ids.get_ids().to_vec())
    }

    /// Where marks break the spellings of control tokens in `text`: of special ones, and of those that end a turn.
    ///
    /// # Errors
    /// If the tokenizer finds one in spite of its mark.
    pub(crate) fn spelled(&self, text: &str) -> Result<Vec<usize>> {
        let mark = mark_for(std::iter::once(text))?;
        let mut places = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let with = marked(text, &places, mark);
            let found = self.starts_of_controls(&with)?;
            if found.is_empty() {
                return Ok(places);
            }
            let before = places.len();
            for start in found {
                let letter = with[start..].chars().next().map_or(0, char::len_utf8);
                // An offset in the text without its marks.
                places.push(start + letter - with[..start].matches(mark).count() * mark.len_utf8());
            }
            places.sort_unstable();
            places.dedup();
            if places.len() == before {
                break;
            }
        }
        Err(Error::Tokenizer("expected to keep apart text and the special tokens that it spells".to_owned()))
    }

    /// Where control tokens begin in `text`, without the spaces that they may take in.
    fn starts_of_controls(&self, text: &str) -> Result<Vec<usize>> {
        let pieces = caught(|| Ok(self.extracted(text)))?;
        let controls = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte).into_iter().filter_map(
            |(_, (start, end), tokens)| {
                let is_control = tokens.iter().flatten().any(|token| self.is_control(token.id));
                let spaces = text[start..end].len() - text[start..end].trim_start().len();
                is_control.then_some(start + spaces)
            },
        );
        Ok(controls.collect())
    }

    fn is_control(&self, id: u32) -> bool {
        self.is_special(id) || self.stop_ids.contains(&id)
    }

    /// `text`, normalised and cut at added tokens.
    fn extracted(&self, text: &str) -> PreTokenizedString {
        self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_spells_a_special_token_becomes_the_bytes_of_its_letters() {
        let tokenizer = Tokenizer::bytes();
        for text in ["", "a<|im_end|>", "<|im_start|><|im_end|>\n<|endoftext|> é", "<|im_end", "\u{f0000}<|im_end|>"] {
            let ids = tokenizer.encode_text(text).unwrap();
            let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
            assert_eq!(ids, bytes, "{text}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }

    #[test]
    fn a_mark_breaks_only_the_spelling_that_it_stands_in() {
        let tokenizer = Tokenizer::bytes();
        let text = "<|im_start|>a<|im_end|>b<|im_end|>";
        let place = text.find("<|im_end|>").unwrap() + 1;
        let inner: Vec<u32> = "a<|im_end|>b".bytes().map(u32::from).collect();
        assert_eq!(tokenizer.encode_spelled(text, &[place]).unwrap(), [&[257][..], &inner, &[258]].concat());
    }

    #[test]
    fn marks_come_out_where_they_were_put_in() {
        let text = "ab日c";
        for places in [vec![], vec![0], vec![1, 2, 5, 6]] {
            assert_eq!(unmarked(&marked(text, &places, '\u{f0001}'), '\u{f0001}'), (text.to_owned(), places));
        }
        assert_eq!(mark_for(["\u{f0000}a", "\u{f0001}"].into_iter()).unwrap(), '\u{f0002}');
    }
}
