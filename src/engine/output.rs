//! The output of one continuation: ids, log-probabilities, and its text where a stop string may end it.
//!
//! Knows no block and no schedule. Text is decoded token by token only where stop strings are given or where it is streamed.

use super::request::{Detokenize, Request};
use crate::formats::Result;
use crate::types::{Completion, CriticVersion, FinishReason};

/// Tokens to wait for until the text of the first of them is known. A character is complete after four bytes; an endless
/// run of bytes that are none must not be decoded again and again.
const UNKNOWN_TOKENS_MAX: usize = 64;

/// The text of the ids so far, decoded incrementally. It only grows.
#[derive(Clone, Debug, Default)]
struct Text {
    /// The text of the first `read` ids.
    so_far: String,
    /// Where decoding begins: far enough back that the tokens before `read` give the context that later tokens need.
    anchor: usize,
    read: usize,
}

impl Text {
    /// The text of `ids`, exactly as a stream of them gives it.
    fn of(ids: &[u32], decode: &Detokenize) -> Result<String> {
        let whole = decode(ids)?;
        if !whole.contains(char::REPLACEMENT_CHARACTER) {
            return Ok(whole);
        }
        // A decoder may take back a character that is followed by bytes of none, which a stream cannot.
        let mut text = Self::default();
        for len in 1..=ids.len() {
            text.read(&ids[..len], true, decode)?;
        }
        text.read(ids, false, decode)?;
        Ok(text.so_far)
    }

    /// Adds the text of the ids behind the first `read`; if it may `wait`, only once it ends with a whole character.
    fn read(&mut self, ids: &[u32], wait: bool, decode: &Detokenize) -> Result<()> {
        if self.read == ids.len() {
            return Ok(());
        }
        let known = decode(&ids[self.anchor..self.read])?;
        let longer = decode(&ids[self.anchor..])?;
        // Most likely the first bytes of a character; or special tokens, which are no context for what follows.
        let unknown = longer.ends_with(char::REPLACEMENT_CHARACTER) || longer.len() == known.len();
        if wait && unknown && ids.len() - self.read < UNKNOWN_TOKENS_MAX {
            return Ok(());
        }
        match longer.strip_prefix(known.as_str()) {
            Some(new) => self.so_far.push_str(new),
            None => self.so_far.push_str(&decode(&ids[self.read..])?),
        }
        (self.anchor, self.read) = (self.read, ids.len());
        Ok(())
    }

    /// Adds the text of what `ids` add. Returns where the first of `stops` begins, once it is complete.
    fn extend(&mut self, ids: &[u32], stops: &[String], decode: &Detokenize) -> Result<Option<usize>> {
        let before = self.so_far.len();
        self.read(ids, true, decode)?;
        let found = stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| {
            let mut from = (before + 1).saturating_sub(stop.len()).min(self.so_far.len());
            while !self.so_far.is_char_boundary(from) {
                from -= 1;
            }
            self.so_far[from..].find(stop.as_str()).map(|at| from + at)
        });
        Ok(found.min())
    }
}

/// Bytes at the end of `text` that may be the beginning of one of `stops`.
fn held_back(text: &str, stops: &[String]) -> usize {
    let of_stop = |stop: &String| {
        let lengths = (1..stop.len().min(text.len() + 1)).rev();
        lengths.filter(|&len| stop.is_char_boundary(len)).find(|&len| text.ends_with(&stop[..len])).unwrap_or(0)
    };
    stops.iter().map(of_stop).max().unwrap_or(0)
}

/// One continuation of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutputBuffer {
    ids: Vec<u32>,
    log_probs: Vec<f32>,
    text: Text,
    /// Set when it has ended.
    finish: Option<FinishReason>,
    /// Where its stop string begins in `text`.
    cut: Option<usize>,
    /// Whether its text is given as it grows.
    streamed: bool,
    /// Bytes of the text that were given.
    given: usize,
}

impl OutputBuffer {
    /// Nothing written yet.
    pub(crate) fn new(streamed: bool) -> Self {
        Self { streamed, ..Self::default() }
    }

    /// Adds a sampled token. True where it is the last one, by a stop or by `tokens_max`. After an error it
    /// is not added.
    pub(crate) fn push(
        &mut self,
        id: u32,
        log_prob: f32,
        request: &Request,
        tokens_max: usize,
        decode: &Detokenize,
    ) -> Result<bool> {
        self.ids.push(id);
        let stop_id = request.stop_ids.contains(&id);
        let is_last = stop_id || self.ids.len() >= tokens_max;
        if self.streamed || (!stop_id && !request.sampling.stop.is_empty()) {
            match self.read(&request.sampling.stop, stop_id, is_last, decode) {
                Ok(cut) => self.cut = cut,
                Err(error) => {
                    // The step is undone, and this token with it.
                    self.ids.pop();
                    return Err(error);
                }
            }
        }
        self.log_probs.push(log_prob);
        self.finish = if stop_id || self.cut.is_some() {
            Some(FinishReason::Stop)
        } else {
            is_last.then_some(FinishReason::Length)
        };
        Ok(self.finish.is_some())
    }

    /// Decodes the newest id; all that is left with the last one of a stream. Returns where a stop string begins.
    fn read(&mut self, stops: &[String], stop_id: bool, is_last: bool, decode: &Detokenize) -> Result<Option<usize>> {
        let cut = if stop_id { None } else { self.text.extend(&self.ids, stops, decode)? };
        if self.streamed && is_last && cut.is_none() {
            self.text.read(&self.ids[..self.ids.len() - usize::from(stop_id)], false, decode)?;
        }
        Ok(cut)
    }

    /// Ends it without another token.
    pub(crate) fn end(&mut self) {
        self.finish = Some(FinishReason::Length);
    }

    /// Why it ended, if it has.
    pub(crate) fn finish(&self) -> Option<FinishReason> {
        self.finish
    }

    /// What of a streamed text is certain and was not given yet.
    pub(crate) fn take_text(&mut self, stops: &[String]) -> String {
        let text = &self.text.so_far;
        let end = match (self.cut, self.finish) {
            (Some(cut), _) => cut,
            (None, Some(_)) => text.len(),
            (None, None) => text.len() - held_back(&text[self.given..], stops),
        };
        let grown = text[self.given..end].to_owned();
        self.given = end;
        grown
    }

    /// The completion, once the continuation has ended.
    pub(crate) fn complete(
        &self,
        request: &Request,
        version: CriticVersion,
        decode: &Detokenize,
    ) -> Result<Completion> {
        let text = match (self.cut, self.ids.split_last()) {
            (Some(cut), _) => self.text.so_far[..cut].to_owned(),
            (None, Some((last, rest))) if request.stop_ids.contains(last) => Text::of(rest, decode)?,
            (None, _) => Text::of(&self.ids, decode)?,
        };
        let finish = self.finish.unwrap_or(FinishReason::Length);
        Ok(Completion { ids: self.ids.clone(), log_probs: self.log_probs.clone(), text, version, finish })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine::sampler::SamplingConfig;
    use proptest::prelude::*;

    /// Each id is a byte.
    fn bytes() -> Detokenize {
        Box::new(|ids| Ok(String::from_utf8_lossy(&ids.iter().map(|&id| id as u8).collect::<Vec<_>>()).into_owned()))
    }

    /// Decodes each id as its entry in `table`.
    fn token_table(table: &'static [&'static str]) -> Detokenize {
        Box::new(move |ids| Ok(ids.iter().map(|&id| table[id as usize]).collect()))
    }

    fn request(stop_ids: &[u32], stop: &[&str]) -> Request {
        let stop = stop.iter().map(|&s| s.to_owned()).collect();
        Request::new(vec![0], 1, SamplingConfig { stop, ..SamplingConfig::greedy(100) }, stop_ids.to_vec(), 0)
    }

    /// Writes `ids` until the output ends; every one of them must not be needed.
    fn write(ids: &[u32], request: &Request, decode: &Detokenize) -> Completion {
        let mut output = OutputBuffer::default();
        for &id in ids {
            if output.push(id, -1.0, request, 100, decode).unwrap() {
                break;
            }
        }
        output.complete(request, CriticVersion::BASE, decode).unwrap()
    }

    #[test]
    fn a_stop_string_is_found_across_tokens_and_the_text_is_cut_before_it() {
        let decode = token_table(&["Hello", " wor", "ld\n", "\nUs", "er", ": more"]);
        let done = write(&[0, 1, 2, 3, 4, 5], &request(&[], &["\n\nUser"]), &decode);
        assert_eq!(
            (done.text.as_str(), done.ids, done.finish),
            ("Hello world", vec![0, 1, 2, 3, 4], FinishReason::Stop)
        );
        assert_eq!(done.log_probs.len(), 5);
    }

    #[test]
    fn of_several_stop_strings_the_earliest_cuts() {
        let decode = token_table(&["a", "bcdef"]);
        assert_eq!(write(&[0, 1], &request(&[], &["ef", "cd", "de"]), &decode).text, "ab");
    }

    #[test]
    fn a_stop_string_is_found_after_characters_of_many_tokens() {
        let text = "né→🦀 fin. rest";
        let ids: Vec<u32> = text.bytes().map(u32::from).collect();
        let done = write(&ids, &request(&[], &["🦀 fin"]), &bytes());
        assert_eq!((done.text.as_str(), done.finish), ("né→", FinishReason::Stop));
        assert_eq!(done.ids.len(), "né→🦀 fin".len());
        let done = write(&ids, &request(&[], &["not there", "→🦀"]), &bytes());
        assert_eq!(done.text, "né");
    }

    #[test]
    fn a_stop_id_stays_in_the_ids_and_leaves_the_text() {
        let done = write(&[104, 105, 33, 106], &request(&[33], &[]), &bytes());
        assert_eq!((done.text.as_str(), done.ids, done.finish), ("hi", vec![104, 105, 33], FinishReason::Stop));
    }

    #[test]
    fn the_limit_ends_a_text_with_length() {
        let (request, decode) = (request(&[], &["zzz"]), bytes());
        let mut output = OutputBuffer::default();
        assert!(!output.push(104, -0.5, &request, 2, &decode).unwrap());
        assert!(output.push(105, -0.5, &request, 2, &decode).unwrap());
        let done = output.complete(&request, CriticVersion(3), &decode).unwrap();
        assert_eq!((done.text.as_str(), done.finish, done.version), ("hi", FinishReason::Length, CriticVersion(3)));
    }

    /// What a stream gives for each of `ids` until it ends.
    fn stream(ids: &[u32], request: &Request, decode: &Detokenize) -> Vec<String> {
        let mut output = OutputBuffer::new(true);
        let mut given = Vec::new();
        for &id in ids {
            let ended = output.push(id, -1.0, request, ids.len(), decode).unwrap();
            given.push(output.take_text(&request.sampling.stop));
            if ended {
                break;
            }
        }
        given
    }

    #[test]
    fn a_stream_holds_back_bytes_of_an_unfinished_character() {
        let ids: Vec<u32> = "a→🦀".bytes().map(u32::from).collect();
        assert_eq!(stream(&ids, &request(&[], &[]), &bytes()), ["a", "", "", "→", "", "", "", "🦀"]);
        let cut: Vec<u32> = ids[..6].to_vec();
        assert_eq!(stream(&cut, &request(&[], &[]), &bytes()).concat(), "a→\u{fffd}", "the rest is given at the end");
    }

    #[test]
    fn a_stream_holds_back_what_may_be_the_beginning_of_a_stop_string_until_it_is_not() {
        let decode = token_table(&["Hello", " wor", "ld\n", "\nUs", "er", ": more", "ual"]);
        let stops = request(&[], &["\n\nUser", "zz"]);
        assert_eq!(stream(&[0, 1, 2, 3, 4, 5], &stops, &decode), ["Hello", " wor", "ld", "", ""]);
        assert_eq!(stream(&[0, 1, 2, 3, 6, 5], &stops, &decode), ["Hello", " wor", "ld", "", "\n\nUsual", ": more"]);
        // At the end it is not.
        assert_eq!(stream(&[0, 1, 2, 3], &stops, &decode).concat(), "Hello world\n\nUs");
        assert_eq!(stream(&[0, 2, 1], &request(&[1], &["\n\nUser"]), &decode), ["Hello", "ld", "\n"]);
    }

    #[test]
    fn a_decoder_that_takes_a_character_back_gives_the_same_text_streamed_or_not() {
        // As SentencePiece: a run of bytes is text only as a whole.
        let decode: Detokenize = Box::new(|ids| {
            let bytes: Vec<u8> = ids.iter().map(|&id| id as u8).collect();
            Ok(String::from_utf8(bytes).unwrap_or_else(|_| "\u{fffd}".repeat(ids.len())))
        });
        let ids: Vec<u32> = "né→🦀".bytes().map(u32::from).collect();
        for len in 1..=ids.len() {
            let request = request(&[], &[]);
            let mut whole = OutputBuffer::default();
            for &id in &ids[..len] {
                whole.push(id, -1.0, &request, len, &decode).unwrap();
            }
            let whole = whole.complete(&request, CriticVersion::BASE, &decode).unwrap();
            assert_eq!(stream(&ids[..len], &request, &decode).concat(), whole.text, "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn a_stream_joined_is_the_text_and_nothing_given_is_taken_back(
            // Bytes of characters of one to four bytes, in and out of order.
            ids in prop::collection::vec(prop::sample::select("ab→🦀é \u{fffd}".bytes().map(u32::from).collect::<Vec<_>>()), 1..90),
            stops in prop::collection::vec(prop::sample::select(vec!["ab", "ba→", "é", "aab ", "🦀a"]), 0..3),
            stop_id in prop_oneof![Just(None), Just(Some(u32::from(b' ')))],
        ) {
            let request = request(stop_id.as_slice(), &stops);
            let mut whole = OutputBuffer::default();
            let _ = ids.iter().find(|&&id| whole.push(id, -1.0, &request, ids.len(), &bytes()).unwrap());
            let whole = whole.complete(&request, CriticVersion::BASE, &bytes()).unwrap();
            let given = stream(&ids, &request, &bytes());
            prop_assert_eq!(given.len(), whole.ids.len());
            prop_assert_eq!(given.concat(), whole.text);
        }
    }
}
