//! Builds a tokenizer from a GGUF header: byte-level BPE with a pre-tokenizer by name, or SentencePiece.

use super::{Tokenizer, failed, spm};
use crate::formats::error::{Error, Result};
use crate::formats::gguf::Header;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

/// The known pre-tokenizers, for error messages.
const KNOWN: &str = "gpt-2, phi-2, olmo, smollm, starcoder, refact, llama-bpe, llama-v3, llama3, smaug-bpe, dbrx, \
                     qwen2, deepseek-r1-qwen, gpt-4o, tekken, default";

/// Contractions in any case, words with one leading symbol, runs of up to three digits, symbols, line ends, spaces.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with single digits.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Words that end where a small letter is followed by a capital one, with marks and one leading symbol, and with the contraction
/// behind them; runs of up to three digits, symbols, line ends, spaces. As the tokenizer.json of Phi-4-mini has it.
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with single digits, and without contractions. As the tokenizer.json of Mistral-Nemo has it.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How llama.cpp splits text for files that say `default`: four patterns one after the other.
const DEFAULT: [&str; 4] = [
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
];

/// Token types of a GGUF file.
const NORMAL: usize = 1;
const USER_DEFINED: usize = 4;
const BYTE: usize = 6;

/// How text is split before merges apply.
struct PreTokenizer {
    split: PreTokenizerWrapper,
    /// Text is converted to normal form C first.
    normalised: bool,
    /// A piece that is in the vocabulary becomes one token, even if merges do not lead to it.
    whole_pieces: bool,
    /// A document starts with the beginning-of-sequence token, unless the file says otherwise.
    adds_bos: bool,
}

impl PreTokenizer {
    fn plain(split: impl Into<PreTokenizerWrapper>) -> Self {
        Self { split: split.into(), normalised: false, whole_pieces: false, adds_bos: false }
    }

    fn named(name: &str) -> Result<Option<Self>> {
        let letters = || PreTokenizerWrapper::from(ByteLevel::new(false, true, false));
        let words = || PreTokenizerWrapper::from(ByteLevel::new(false, true, true));
        Ok(Some(match name {
            "gpt-2" | "phi-2" | "olmo" => Self::plain(words()),
            "smollm" | "starcoder" | "refact" => Self::plain(Sequence::new(vec![Digits::new(true).into(), words()])),
            "llama-bpe" | "llama-v3" | "llama3" => {
                Self { whole_pieces: true, adds_bos: true, ..Self::plain(Sequence::new(vec![cut(LLAMA3)?, letters()])) }
            }
            "tekken" => {
                Self { whole_pieces: true, adds_bos: true, ..Self::plain(Sequence::new(vec![cut(TEKKEN)?, letters()])) }
            }
            "gpt-4o" => Self::plain(Sequence::new(vec![cut(GPT_4O)?, letters()])),
            "smaug-bpe" | "dbrx" => Self::plain(Sequence::new(vec![cut(LLAMA3)?, letters()])),
            "qwen2" | "deepseek-r1-qwen" => {
                Self { normalised: true, ..Self::plain(Sequence::new(vec![cut(QWEN2)?, letters()])) }
            }
            "default" => {
                let mut cuts = DEFAULT.into_iter().map(cut).collect::<Result<Vec<_>>>()?;
                cuts.push(letters());
                Self::plain(Sequence::new(cuts))
            }
            _ => return Ok(None),
        }))
    }
}

fn cut(pattern: &str) -> Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(pattern.to_owned());
    Ok(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?.into())
}

impl Tokenizer {
    /// Builds the tokenizer that the header describes.
    pub(crate) fn from_gguf(header: &Header<'_>) -> Result<Self> {
        let model = header.needed("tokenizer.ggml.model", header.text("tokenizer.ggml.model")?)?;
        let tokens = header.needed("tokenizer.ggml.tokens", header.texts("tokenizer.ggml.tokens")?)?;
        // If the file does not say whether to add the token, llama.cpp decides by the kind of vocabulary.
        let (mut inner, adds_bos) = match model {
            "gpt2" => {
                // Without a name the split is unknown, and a guess would be silently wrong.
                let name = header.text("tokenizer.ggml.pre")?.unwrap_or("");
                let pre = PreTokenizer::named(name)?.ok_or_else(|| header.unsupported("pre-tokenizer", name, KNOWN))?;
                let adds_bos = pre.adds_bos;
                (byte_level(header, &tokens, pre)?, adds_bos)
            }
            "llama" => (spm::build(header, &tokens)?, true),
            other => return Err(header.unsupported("tokenizer", other, "gpt2, llama")),
        };
        let ids = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"]
            .into_iter()
            .map(|key| id(header, key, tokens.len()))
            .collect::<Result<Vec<_>>>()?;
        let adds_bos = header.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
        let bos = id(header, "tokenizer.ggml.bos_token_id", tokens.len())?.filter(|_| adds_bos);
        let mut added = added(header, &tokens)?;
        // Runs of spaces that the vocabulary writes with its own space character are reached by merges.
        added.retain(|token| inner.token_to_id(&token.content).is_some());
        inner.add_tokens(added).map_err(failed)?;
        Ok(Self::new(inner, ids.into_iter().flatten(), bos))
    }
}

/// Byte-level BPE with the merges of the file.
fn byte_level(header: &Header<'_>, tokens: &[&str], pre: PreTokenizer) -> Result<tokenizers::Tokenizer> {
    let merges = header.needed("tokenizer.ggml.merges", header.texts("tokenizer.ggml.merges")?)?;
    let merges = merges.into_iter().map(|merge| match merge.split_once(' ') {
        Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
        None => Err(header.malformed(format!("tokenizer.ggml.merges: expected two tokens, got {merge:?}"))),
    });
    let vocab = tokens.iter().zip(0..).map(|(token, id)| ((*token).to_owned(), id)).collect();
    let builder = BPE::builder().vocab_and_merges::<Vocab>(vocab, merges.collect::<Result<_>>()?);
    let model = builder.ignore_merges(pre.whole_pieces).build();
    let mut inner = tokenizers::Tokenizer::new(model.map_err(|error| header.malformed(error.to_string()))?);
    if pre.normalised {
        inner.with_normalizer(Some(NFC)).map_err(failed)?;
    }
    inner.with_pre_tokenizer(Some(pre.split));
    inner.with_decoder(Some(ByteLevel::new(false, true, true)));
    Ok(inner)
}

/// The id under `key`, which must be in the vocabulary.
fn id(header: &Header<'_>, key: &str, tokens: usize) -> Result<Option<u32>> {
    let outside = |id| header.malformed(format!("{key}: expected an id below {tokens}, got {id}"));
    let Some(id) = header.count(key)? else { return Ok(None) };
    if id >= tokens {
        return Err(outside(id));
    }
    u32::try_from(id).map(Some).map_err(|_| outside(id))
}

/// The tokens that are matched whole in text: those that are neither normal nor a byte. All except user-defined ones are
/// special.
fn added(header: &Header<'_>, tokens: &[&str]) -> Result<Vec<AddedToken>> {
    let key = "tokenizer.ggml.token_type";
    let types = header.needed(key, header.counts(key)?)?;
    if types.len() != tokens.len() {
        let why = format!("{key}: expected one for each of {} tokens, got {}", tokens.len(), types.len());
        return Err(Error::Malformed { path: header.path.to_owned(), why });
    }
    let whole = tokens.iter().zip(types).filter(|(_, kind)| *kind != NORMAL && *kind != BYTE);
    Ok(whole.map(|(token, kind)| AddedToken::from(*token, kind != USER_DEFINED).normalized(false)).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::quantized::gguf_file::{self, Content, Value};
    use serde::Deserialize;
    use std::collections::HashMap;
    use std::io::Cursor;
    use std::path::Path;

    /// A vocabulary, and ids by the `tokenizers` program; `tests/golden/pre_tokenizers.py` made them.
    #[derive(Deserialize)]
    struct Golden {
        tokens: Vec<String>,
        merges: Vec<String>,
        texts: Vec<Text>,
    }

    #[derive(Deserialize)]
    struct Text {
        text: String,
        #[serde(flatten)]
        ids: HashMap<String, Vec<u32>>,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("../../../tests/golden/pre_tokenizers.json")).unwrap()
    }

    /// The tokenizer of a file of this vocabulary that names the pre-tokenizer `pre`.
    fn tokenizer(golden: &Golden, pre: &str) -> Result<Tokenizer> {
        let text = |text: &str| Value::String(text.to_owned());
        let texts = |list: &[String]| Value::Array(list.iter().map(|item| text(item)).collect());
        let metadata = [
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text(pre)),
            ("tokenizer.ggml.tokens", texts(&golden.tokens)),
            ("tokenizer.ggml.merges", texts(&golden.merges)),
            ("tokenizer.ggml.token_type", Value::Array(golden.tokens.iter().map(|_| Value::I32(1)).collect())),
            ("tokenizer.ggml.bos_token_id", Value::U32(0)),
        ];
        let pairs: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
        let mut file = Cursor::new(Vec::new());
        gguf_file::write(&mut file, &pairs, &[]).unwrap();
        file.set_position(0);
        let content = Content::read(&mut file).unwrap();
        Tokenizer::from_gguf(&Header { path: Path::new("model.gguf"), content: &content })
    }

    #[test]
    fn the_splits_of_phi_4_and_mistral_nemo_give_the_ids_of_tokenizers() {
        let golden = golden();
        assert!(golden.texts.len() > 40);
        for (name, other, adds_bos) in [("gpt-4o", "llama3", false), ("tekken", "qwen2", true)] {
            let made = tokenizer(&golden, name).unwrap();
            for Text { text, ids } in &golden.texts {
                assert_eq!(&made.encode(text).unwrap(), &ids[name], "{name}: {text:?}");
                assert_eq!(&made.decode(&ids[name]).unwrap(), text, "{name}");
            }
            assert_eq!(made.encode_document("x").unwrap()[0] == 0, adds_bos, "{name}");
            // What is nearest to it differs on many of these texts, so a wrong split would be seen.
            let near = tokenizer(&golden, other).unwrap();
            let unlike = golden.texts.iter().filter(|it| near.encode(&it.text).unwrap() != it.ids[name]).count();
            assert!(unlike >= 8, "{name} and {other} differ on {unlike} texts");
        }
    }
}
