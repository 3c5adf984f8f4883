//! The tokenizer of bytes: 256 ids, no merges, three specials. Real code on the same path as any other.

use super::Tokenizer;
use tokenizers::AddedToken;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

pub(super) fn build() -> Tokenizer {
    let vocab = (0..=u8::MAX).map(|byte| (letter(byte).to_string(), u32::from(byte)));
    let model = BPE::new(vocab.collect(), Vec::new());
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_pre_tokenizer(Some(ByteLevel::new(false, false, false)));
    inner.with_decoder(Some(ByteLevel::new(false, false, false)));
    let specials = Tokenizer::BYTE_SPECIALS.map(|token| AddedToken::from(token, true));
    inner.add_special_tokens(specials).expect("fixed names with nothing to normalise");
    Tokenizer::new(inner, [], None)
}

/// The letter that byte-level vocabularies write for `byte` (GPT-2): printable ones stand for themselves, the
/// others follow from U+0100 in order.
fn letter(byte: u8) -> char {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if plain(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&other| !plain(other)).count() as u32;
    char::from_u32(0x100 + before).expect("68 letters from U+0100 on are all characters")
}
