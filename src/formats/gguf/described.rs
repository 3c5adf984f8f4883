//! What a GGUF file says beside sizes and tensors: what a Hugging Face folder of the same model has to be told.

use super::header::Header;
use super::read;
use crate::formats::error::Result;
use std::path::Path;

/// What the header of a file says in its own words.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Described {
    /// Base of the rotary positions, before anything is slowed.
    pub(crate) rotary_base: f32,
    /// What all pairs are slowed by, where they are.
    pub(crate) rotary_factor: Option<f32>,
    /// Base of the sliding layers' rotary positions.
    pub(crate) sliding_rotary_base: f32,
    /// Id of the token at the beginning of a sequence.
    pub(crate) bos: Option<u32>,
    /// Id of the token at its end.
    pub(crate) eos: Option<u32>,
    /// Id of the token for what is unknown.
    pub(crate) unknown: Option<u32>,
    /// Id of the token that fills.
    pub(crate) padding: Option<u32>,
    /// The chat template.
    pub(crate) template: Option<String>,
}

/// Describes the file `path`, which [`super::open`] accepted.
///
/// # Errors
/// Where it cannot be read, or a value is of another type than it should be.
pub(crate) fn describe(path: &Path) -> Result<Described> {
    let (_, content) = read(path)?;
    let header = Header { path, content: &content };
    let name = header.needed("general.architecture", header.text("general.architecture")?)?;
    let id = |key: &str| -> Result<Option<u32>> {
        Ok(header.count(&format!("tokenizer.ggml.{key}_token_id"))?.and_then(|id| u32::try_from(id).ok()))
    };
    Ok(Described {
        rotary_base: header.rotary_base(name)?,
        rotary_factor: header.rotary_factor(name)?,
        sliding_rotary_base: header.sliding_rotary_base(name)?,
        bos: id("bos")?,
        eos: id("eos")?,
        unknown: id("unknown")?,
        padding: id("padding")?,
        template: header.text("tokenizer.chat_template")?.map(str::to_owned),
    })
}
