//! Files that other programs write or read: GGUF, safetensors, PEFT adapters, tokenizers, chat templates, model sources.
//!
//! Knows bytes, names and shapes; computes nothing with the tensors. Nothing in a file is trusted: sizes are checked
//! before anything is allocated, and whatever the node would compute differently is refused by name.

pub mod adapter;
pub mod conversation;
mod error;
pub mod gguf;
pub(crate) mod json;
mod model;
pub mod peft;
pub mod rotary;
pub mod safetensors;
pub mod source;
pub mod spec;
pub mod template;
mod time_limit;
pub mod tokenizer;
pub(crate) mod values;

pub use error::{Error, Result};
pub use model::{OpenedModel, WeightReader};

use spec::ModelSpec;
use std::path::Path;

/// Opens a `.gguf` file or a Hugging Face folder.
///
/// # Errors
/// If the file is unreadable, malformed or of an unsupported architecture, a tensor is missing or has the wrong shape, or
/// the tokenizer is missing or unknown. Tensors are not read yet. A model without a chat template opens;
/// [`ChatTemplate::present`](template::ChatTemplate::present) then fails.
pub fn open(path: &Path) -> Result<OpenedModel> {
    open_with(path, None::<fn(&ModelSpec, &dyn WeightReader)>).map(|(opened, _)| opened)
}

/// As [`open`]; `load` reads the tensors while another thread reads tokenizer and chat template.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_and<T>(
    path: &Path,
    load: impl FnOnce(&ModelSpec, &dyn WeightReader) -> T,
) -> Result<(OpenedModel, T)> {
    let (opened, loaded) = open_with(path, Some(load))?;
    Ok((opened, loaded.expect("it was given")))
}

fn open_with<T>(
    path: &Path,
    load: Option<impl FnOnce(&ModelSpec, &dyn WeightReader) -> T>,
) -> Result<(OpenedModel, Option<T>)> {
    if path.is_dir() { safetensors::open(path, load) } else { gguf::open(path, load) }
}
