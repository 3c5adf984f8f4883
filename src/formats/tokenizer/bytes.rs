//! The byte tokenizer: 256 ids, no merges, three special tokens. It runs the same code as every other tokenizer.

use super::Tokenizer;
use tokenizers::AddedToken;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

impl Tokenizer {
    /// The special tokens of [`Tokenizer::bytes`]: ids 256, 257 and 258.
    pub const BYTE_SPECIALS: [&'static str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

    /// A byte tokenizer, for tests and tiny models: the id of a byte is its value, then come
    /// [`Tokenizer::BYTE_SPECIALS`].
    pub fn bytes() -> Self {
        let vocab = (0..=u8::MAX).map(|byte| (letter(byte).to_string(), u32::from(byte)));
        let model = BPE::new(vocab.collect(), Vec::new());
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(ByteLevel::new(false, false, false)));
        inner.with_decoder(Some(ByteLevel::new(false, false, false)));
        let specials = Self::BYTE_SPECIALS.map(|token| AddedToken::from(token, true));
        inner.add_special_tokens(specials).expect("fixed names with nothing to normalise");
        Self::new(inner, [], None)
    }
}

/// The character that byte-level vocabularies write for `byte` (GPT-2): a printable byte stands for itself, the others are
/// mapped in order from U+0100 on.
fn letter(byte: u8) -> char {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if plain(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&other| !plain(other)).count() as u32;
    char::from_u32(0x100 + before).expect("68 letters from U+0100 on are all characters")
}
