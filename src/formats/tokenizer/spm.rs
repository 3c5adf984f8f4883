//! SentencePiece vocabularies from a GGUF header (model `llama`): BPE over characters, with bytes for unknown ones.
//!
//! A file has pieces with scores, but no merges. Every split of a piece into two pieces is a merge, and merges into pieces
//! with higher scores come first. SentencePiece's BPE does the same, and transformers reads such files this way.

use super::failed;
use crate::formats::error::Result;
use crate::formats::gguf::Header;
use std::collections::HashSet;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::Replace;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};

/// SentencePiece's character for a space.
const SPACE: char = '\u{2581}';

/// Bytes that are compared to find the merges: each piece is cut at each character. Gemma's take 20 million.
const CUT_BYTES_MAX: usize = 1 << 28;

/// The tokenizer of `tokens`, without added tokens.
pub(super) fn build(header: &Header<'_>, tokens: &[&str]) -> Result<tokenizers::Tokenizer> {
    let gemma = header.text("general.architecture")?.is_some_and(|name| name.starts_with("gemma"));
    let pieces: Vec<String> = match gemma {
        // Gemma writes its runs of spaces with real spaces, unlike all other pieces.
        true => tokens.iter().map(|token| respelled(token)).collect(),
        false => tokens.iter().map(|&token| token.to_owned()).collect(),
    };
    let ranks = match gemma {
        // Gemma merges in the order of ids: its scores do not cover runs of spaces and line ends.
        true => (0..pieces.len()).map(|id| -(id as f32)).collect(),
        false => scores(header, pieces.len())?,
    };
    let work: usize = pieces.iter().map(|piece| piece.len().saturating_mul(piece.len())).fold(0, usize::saturating_add);
    if work > CUT_BYTES_MAX {
        let longest = pieces.iter().map(String::len).max().unwrap_or(0);
        let why = format!("tokenizer.ggml.tokens: expected short pieces of text, got one of {longest} bytes");
        return Err(header.malformed(why));
    }
    let ids: Vocab = pieces.iter().zip(0..).map(|(piece, id)| (piece.clone(), id)).collect();
    let merges = merges(&pieces, &ranks);
    let unknown = header.count("tokenizer.ggml.unknown_token_id")?.and_then(|id| pieces.get(id));
    let mut model = BPE::builder().vocab_and_merges::<Vocab>(ids, merges).byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = unknown {
        model = model.unk_token(unknown.clone());
    }
    let model = model.build().map_err(|error| header.malformed(error.to_string()))?;
    let mut inner = tokenizers::Tokenizer::new(model);
    let spaced = Replace::new(" ", SPACE.to_string()).map_err(failed)?;
    let unspaced = Replace::new(SPACE.to_string(), " ").map_err(failed)?;
    let mut decoders: Vec<DecoderWrapper> = vec![unspaced.into(), ByteFallback::new().into(), Fuse::new().into()];
    if !gemma && header.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) {
        inner.with_pre_tokenizer(Some(Metaspace::new(SPACE, PrependScheme::First, false)));
        decoders.push(Strip::new(' ', 1, 0).into());
    } else {
        inner.with_normalizer(Some(spaced)).map_err(failed)?;
    }
    inner.with_decoder(Some(Sequence::new(decoders)));
    Ok(inner)
}

fn respelled(token: &str) -> String {
    match !token.is_empty() && token.chars().all(|c| c == ' ') {
        true => token.replace(' ', &SPACE.to_string()),
        false => token.to_owned(),
    }
}

fn scores(header: &Header<'_>, pieces: usize) -> Result<Vec<f32>> {
    let key = "tokenizer.ggml.scores";
    let scores = header.needed(key, header.reals(key)?)?;
    match scores.len() == pieces && scores.iter().all(|score| score.is_finite()) {
        true => Ok(scores),
        false => Err(header.malformed(format!("{key}: expected {pieces} numbers, got {}", scores.len()))),
    }
}

/// Every split of a piece into two pieces: the highest rank first, and within a rank the longest left part first.
fn merges(pieces: &[String], ranks: &[f32]) -> Vec<(String, String)> {
    let known: HashSet<&str> = pieces.iter().map(String::as_str).collect();
    let mut cuts = vec![];
    for (piece, &rank) in pieces.iter().zip(ranks) {
        let letters = piece.chars().count();
        for (left_letters, (at, _)) in piece.char_indices().enumerate().skip(1) {
            let (left, right) = piece.split_at(at);
            if known.contains(left) && known.contains(right) {
                cuts.push((rank, left_letters, letters - left_letters, left, right));
            }
        }
    }
    // The sort is stable: pieces of the same rank stay in the order of their ids.
    cuts.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
    cuts.into_iter().map(|(_, _, _, left, right)| (left.to_owned(), right.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_is_a_merge_and_the_best_piece_comes_first() {
        let pieces: Vec<String> = ["a", "b", "ab", "aba", "ba", "xy"].map(str::to_owned).into();
        let found = merges(&pieces, &[0.0, 0.0, -2.0, -3.0, -1.0, 0.0]);
        let expected = [("b", "a"), ("a", "b"), ("ab", "a"), ("a", "ba")];
        assert_eq!(found, expected.map(|(left, right)| (left.to_owned(), right.to_owned())));
    }
}
