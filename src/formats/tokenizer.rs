//! Text to ids and back, over the `tokenizers` crate.
//!
//! A tokenizer is read from a `tokenizer.json`, or built from a GGUF header with a table of known pre-tokenizers. Unknown
//! ones are refused, because a wrong split gives ids that the model never saw. Special tokens are matched whole in text that a
//! template or an author of raw prompts wrote, and left out of decoded text. Knows no template and no conversation.

mod bytes;
mod check;
mod gguf;
mod pieces;
pub(crate) mod spelled;
mod spm;

pub use pieces::Pieces;

use super::error::{Error, Result};
use crate::disk;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Tokens that end a turn in some family. Those that a vocabulary has as special tokens stop a sequence.
const TURN_ENDS: [&str; 11] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|eot|>",
    "<|end|>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
    "<|EOT|>",
];

/// A tokenizer, with the special ids that a chat needs.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    stop_ids: Arc<[u32]>,
    /// The beginning-of-sequence token, if a document starts with one.
    bos: Option<u32>,
    /// The greatest id plus 1.
    len: usize,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. A sequence is stopped by `eos_ids`, by the token `eos` and by the known ends of a turn. A
    /// document starts with `bos` if `adds_bos` says so; if that is absent, the file decides.
    ///
    /// # Errors
    /// If the file is unreadable or not a tokenizer.
    pub fn from_file(
        path: &Path,
        eos_ids: Vec<u32>,
        eos: Option<&str>,
        bos: Option<&str>,
        adds_bos: Option<bool>,
    ) -> Result<Self> {
        let text = disk::read(path, check::FILE_BYTES_MAX).map_err(Error::io(path))?;
        let malformed = |why: String| Error::Malformed { path: path.to_owned(), why };
        let patterns = check::check(&text).map_err(malformed)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(text).map_err(|error| malformed(error.to_string()))?;
        // A file may have the padding and truncation of a training run; prompts here are never padded or truncated.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(failed)?;
        let eos = eos.and_then(|token| inner.token_to_id(token));
        let bos = bos.and_then(|token| inner.token_to_id(token));
        let first = caught(|| inner.encode_fast("", true))?.get_ids().first().copied();
        let bos = bos.filter(|&bos| adds_bos.unwrap_or(first == Some(bos)));
        let tokenizer = Self::new(inner, eos_ids.into_iter().chain(eos), bos);
        check::try_patterns(&tokenizer.inner, &patterns).map_err(malformed)?;
        Ok(tokenizer)
    }

    fn new(inner: tokenizers::Tokenizer, eos_ids: impl IntoIterator<Item = u32>, bos: Option<u32>) -> Self {
        let specials = inner.get_added_tokens_decoder();
        let ends = specials.iter().filter(|(_, token)| token.special && TURN_ENDS.contains(&token.content.as_str()));
        let stop_ids: BTreeSet<u32> = ends.map(|(id, _)| *id).chain(eos_ids).collect();
        let last = inner.get_vocab(true).into_values().max();
        Self {
            inner: Arc::new(inner),
            stop_ids: stop_ids.into_iter().collect(),
            bos,
            len: last.map_or(0, |id| id as usize + 1),
        }
    }

    /// Ids of `text`. Special tokens in the text become their ids; none are added. [`Tokenizer::encode_text`] is for texts of
    /// others.
    ///
    /// # Errors
    /// If the tokenizer cannot encode the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(caught(|| self.inner.encode_fast(text, false))?.get_ids().to_vec())
    }

    /// Ids of a document. If the model was trained with a beginning-of-sequence token, that comes first, unless the text
    /// starts with it already. Turns of a chat do not need this: templates write that token themselves.
    ///
    /// # Errors
    /// If the tokenizer cannot encode the text.
    pub fn encode_document(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.encode(text)?;
        let missing = self.bos.filter(|bos| ids.first() != Some(bos));
        Ok(missing.into_iter().chain(ids).collect())
    }

    /// Text of `ids` without special tokens. Bytes of an incomplete character become U+FFFD.
    ///
    /// With a byte-level tokenizer the text of `ids` is a prefix of the text of `ids` and more, except for U+FFFD at its end.
    /// So the text of a stream never changes if a trailing U+FFFD is held back. SentencePiece tokenizers turn a whole run of
    /// bytes into U+FFFD until its last character is complete. The text of the *last* few ids may start inside a character;
    /// see [`Tokenizer::tail`].
    ///
    /// # Errors
    /// If the decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        caught(|| self.inner.decode(ids, true))
    }

    /// Text of `ids` with special tokens, as the vocabulary writes them: what a chat template rendered.
    ///
    /// # Errors
    /// If the decoder fails.
    pub fn decode_rendered(&self, ids: &[u32]) -> Result<String> {
        caught(|| self.inner.decode(ids, false))
    }

    /// The end of the text of `ids`: at least `bytes` long, or the whole text if that is shorter. A search for a stop string
    /// needs no more after each id, and the cost does not grow with the sequence. It may start with U+FFFD.
    ///
    /// # Errors
    /// If the decoder fails.
    pub fn tail(&self, ids: &[u32], bytes: usize) -> Result<String> {
        // Every id except a special one is at least a byte. Three bytes more, because a character may be cut at the start.
        let mut wanted = bytes + 3;
        let mut start = ids.len();
        while start > 0 && wanted > 0 {
            start -= 1;
            wanted -= usize::from(!self.is_special(ids[start]));
        }
        self.decode(&ids[start..])
    }

    /// Ids that end a turn (end of sequence, end of turn).
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// The beginning-of-sequence token, if a document starts with one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Number of ids, added tokens included: the greatest id plus 1.
    #[allow(clippy::len_without_is_empty, reason = "no tokenizer is empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The id of `token`, as the vocabulary writes it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token `id`, as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether `id` is a special token. Decoded text leaves those out.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added.simple_id_to_token(id).is_some_and(|token| added.is_special_token(&token))
    }

    /// The content of a `tokenizer.json`.
    ///
    /// # Errors
    /// If the tokenizer cannot be serialized.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(false).map_err(failed)
    }
}

/// What `work` of the tokenizer gives. A file may ask for what the library does not expect, such as a normalizer that puts
/// nothing before a text, and then it panics; that ends this text alone.
fn caught<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(failed),
        Err(_) => {
            Err(Error::Tokenizer("the library panicked: tokenizer.json asks for what it does not expect".to_owned()))
        }
    }
}

fn failed(error: tokenizers::Error) -> Error {
    Error::Tokenizer(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_its_id_and_a_special_is_one_id() {
        let tokenizer = Tokenizer::bytes();
        assert_eq!(tokenizer.encode("aé\n").unwrap(), [97, 0xc3, 0xa9, 10]);
        assert_eq!(tokenizer.encode("<|im_start|> <|im_end|>").unwrap(), [257, 32, 258]);
        assert_eq!(tokenizer.len(), 259);
        assert_eq!(tokenizer.stop_ids(), [256, 258]);
        assert_eq!(tokenizer.id("<|im_end|>"), Some(258));
        assert_eq!(tokenizer.token(257).as_deref(), Some("<|im_start|>"));
    }

    #[test]
    fn every_text_comes_back_from_its_bytes() {
        let tokenizer = Tokenizer::bytes();
        for text in ["", " ", "a  b\r\n\t", "日本語 🎉👩‍👩‍👧 ﷽", "\u{0} \u{7f} \u{fffd}", "it's 12,345"]
        {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text);
        }
    }

    #[test]
    fn specials_are_left_out_of_text_and_broken_characters_are_marked() {
        let tokenizer = Tokenizer::bytes();
        assert_eq!(tokenizer.decode(&[257, 104, 105, 258]).unwrap(), "hi");
        assert_eq!(tokenizer.decode(&[104, 0xf0, 0x9f]).unwrap(), "h\u{fffd}");
    }

    #[test]
    fn shown_text_never_changes_when_ids_are_added() {
        let tokenizer = Tokenizer::bytes();
        let ids = tokenizer.encode("añ🎉<|im_end|>b日").unwrap();
        let whole = tokenizer.decode(&ids).unwrap();
        for end in 0..ids.len() {
            let text = tokenizer.decode(&ids[..end]).unwrap();
            assert!(whole.starts_with(text.trim_end_matches('\u{fffd}')), "{text:?}");
        }
    }

    #[test]
    fn the_tail_holds_the_end_of_the_text_however_many_specials_lie_in_it() {
        let tokenizer = Tokenizer::bytes();
        let ids = tokenizer.encode("a long beginning, stop<|im_end|><|im_end|>!").unwrap();
        let tail = tokenizer.tail(&ids, 5).unwrap();
        assert!(tail.ends_with("stop!") && tail.len() <= 8, "{tail:?}");
        assert_eq!(tokenizer.tail(&[], 5).unwrap(), "");
    }

    #[test]
    fn a_document_begins_with_the_token_that_the_model_was_trained_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, Tokenizer::bytes().to_json().unwrap()).unwrap();
        let read = |adds_bos| Tokenizer::from_file(&path, vec![], None, Some("<|im_start|>"), adds_bos).unwrap();
        assert_eq!(read(Some(true)).encode_document("a").unwrap(), [257, 97]);
        assert_eq!(read(Some(true)).encode_document("<|im_start|>a").unwrap(), [257, 97]);
        assert_eq!(read(Some(true)).encode("a").unwrap(), [97]);
        assert_eq!(read(None).encode_document("a").unwrap(), [97]);
    }

    #[test]
    fn a_tokenizer_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, Tokenizer::bytes().to_json().unwrap()).unwrap();
        let tokenizer = Tokenizer::from_file(&path, vec![7], Some("<|im_start|>"), None, None).unwrap();
        assert_eq!(tokenizer.encode("é<|im_end|>").unwrap(), [0xc3, 0xa9, 258]);
        assert_eq!(tokenizer.stop_ids(), [7, 256, 257, 258]);
        std::fs::write(&path, "{}").unwrap();
        let error = Tokenizer::from_file(&path, vec![], None, None, None).err().unwrap().to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
    }
}
