//! The metadata of a GGUF file that an exported Hugging Face folder needs and the spec does not hold.

use super::header::Header;
use super::read;
use crate::formats::error::Result;
use std::path::Path;

/// Metadata of a file, before it is turned into a spec.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Described {
    /// Base of the rotary positions, before scaling.
    pub(crate) rotary_base: f32,
    /// The factor of linear scaling, if the file has one.
    pub(crate) rotary_factor: Option<f32>,
    /// Base of the rotary positions of sliding-window layers.
    pub(crate) sliding_rotary_base: f32,
    /// Id of the beginning-of-sequence token.
    pub(crate) bos: Option<u32>,
    /// Id of the end-of-sequence token.
    pub(crate) eos: Option<u32>,
    /// Id of the unknown token.
    pub(crate) unknown: Option<u32>,
    /// Id of the padding token.
    pub(crate) padding: Option<u32>,
    /// The chat template.
    pub(crate) template: Option<String>,
}

/// Reads the metadata of the file `path`, which [`super::open`] has accepted.
///
/// # Errors
/// If the file cannot be read, or a value has the wrong type.
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
