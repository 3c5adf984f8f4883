//! The output of one continuation: ids, log-probabilities, and its text where a stop string may end it.
//!
//! Knows no block and no schedule. Text is decoded token by token only where stop strings are given.

use super::request::{Detokenize, Request};
use crate::formats::Result;
use crate::types::{Completion, CriticVersion, FinishReason};

/// The text of the ids so far, decoded incrementally.
#[derive(Clone, Debug, Default)]
struct Text {
    /// The text of the first `read` ids.
    so_far: String,
    /// Where decoding begins: far enough back that the tokens before `read` give the context that later tokens need.
    anchor: usize,
    read: usize,
}

impl Text {
    /// Decodes what `ids` add. Returns where the first of `stops` begins, once it is complete.
    fn extend(&mut self, ids: &[u32], stops: &[String], decode: &Detokenize) -> Result<Option<usize>> {
        let known = decode(&ids[self.anchor..self.read])?;
        let longer = decode(&ids[self.anchor..])?;
        if longer.ends_with(char::REPLACEMENT_CHARACTER) {
            // Most likely the first bytes of a character: wait for the next token.
            return Ok(None);
        }
        let before = self.so_far.len();
        match longer.strip_prefix(known.as_str()) {
            Some(new) => self.so_far.push_str(new),
            None => self.so_far = decode(ids)?,
        }
        (self.anchor, self.read) = (self.read, ids.len());
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
}

impl OutputBuffer {
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
        if !stop_id && !request.sampling.stop.is_empty() {
            match self.text.extend(&self.ids, &request.sampling.stop, decode) {
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
            (self.ids.len() >= tokens_max).then_some(FinishReason::Length)
        };
        Ok(self.finish.is_some())
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
            (None, Some((last, rest))) if request.stop_ids.contains(last) => decode(rest)?,
            (None, _) => decode(&self.ids)?,
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
        Request {
            prompt: vec![0],
            n: 1,
            sampling: SamplingConfig { stop, ..SamplingConfig::greedy(100) },
            stop_ids: stop_ids.to_vec(),
            seed: 0,
            critic: false,
        }
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
}
