//! The error of `export`.

use super::dtype::Dtype;
use crate::formats::spec::Projection;
use std::path::{Path, PathBuf};

/// Why nothing was exported. If an export fails, the output does not exist.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read, written or renamed.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The output path exists.
    #[error("{0} is there already: expected a free name")]
    Taken(PathBuf),
    /// The output path has no file name.
    #[error("{0}: expected a path that ends with the name of a file or folder")]
    NoName(PathBuf),
    /// The model or adapter cannot be read.
    #[error(transparent)]
    Model(#[from] crate::formats::Error),
    /// A value overflows the type asked for.
    #[error("tensor {name}: {value} does not fit into {dtype}")]
    Overflow {
        /// The tensor.
        name: String,
        /// The first such value.
        value: f32,
        /// The type.
        dtype: Dtype,
    },
    /// The adapter belongs to another model.
    #[error("adapter: expected factors of rank {rank} that fit {projection} of layer {layer}")]
    AdapterMismatch {
        /// The adapter's rank.
        rank: usize,
        /// The linear that its factors do not fit.
        projection: Projection,
        /// The layer.
        layer: usize,
    },
    /// llama.cpp's file cannot hold the adapter.
    #[error(
        "adapter: expected factors on linears of layers alone, got some on embed_tokens or lm_head; export it --to merged"
    )]
    Ends,
    /// llama.cpp holds the linears of this family in another way.
    #[error(
        "adapter: llama.cpp fuses linears of a {family} that this adapter's factors are apart for; export it --to merged"
    )]
    Fused {
        /// The model's family.
        family: &'static str,
    },
    /// A `config.json` cannot express what the model computes.
    #[error("{path}: {why}, which a config.json cannot express")]
    Unrepresentable {
        /// The file of the model.
        path: PathBuf,
        /// What it computes.
        why: String,
    },
    /// The written model, read back, differs from the original.
    #[error("{path}: read back, the written model differs from {model}; nothing was exported")]
    Changed {
        /// The output.
        path: PathBuf,
        /// The original.
        model: PathBuf,
    },
}

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An I/O error that names its file.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<'_> {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
