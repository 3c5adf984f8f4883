//! What leaves the house: a PEFT adapter, a merged Hugging Face folder, llama.cpp's LoRA file.
//!
//! Everything is written aside and renamed into place: it is there whole or not at all, and never takes the place of what
//! is there already. Each output names the base model it belongs to, and that model's digest. Knows files and weights; no
//! run, no learner, no text.

mod aside;
mod config;
mod lora_gguf;
mod merged;
mod tensors;

pub use lora_gguf::lora_gguf;
pub use merged::{Kind, Shape, merged};

use crate::formats;
use crate::formats::spec::ModelSpec;
use crate::formats::{lora, lora::Adapter};
use aside::Aside;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use tensors::{Entry, Stored};

/// The model that an output belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Its name, for people and for `base_model_name_or_path`.
    pub name: String,
    /// Its digest; see [`model::source::digest`].
    pub sha256: String,
}

impl Base {
    /// As safetensors files carry it.
    fn metadata(&self) -> Vec<(&'static str, String)> {
        vec![("base_model", self.name.clone()), ("base_model_sha256", self.sha256.clone()), ("format", "pt".to_owned())]
    }
}

/// Why nothing was exported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read, written or renamed.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is something of that name.
    #[error("{0} is there already: expected a name that is free")]
    Taken(PathBuf),
    /// Nothing can be written there.
    #[error("{0}: expected a path that ends with the name of a file or folder")]
    NoName(PathBuf),
    /// The model or adapter cannot be read.
    #[error(transparent)]
    Model(#[from] formats::Error),
    /// A number has no neighbour in the type asked for.
    #[error("tensor {name}: {value} does not fit into {kind}")]
    Overflow {
        /// The tensor.
        name: String,
        /// The first such value.
        value: f32,
        /// The type.
        kind: Kind,
    },
    /// The adapter is laid out for another model.
    #[error("adapter: expected factors of rank {rank} that fit {site} of layer {layer}")]
    Misfit {
        /// The adapter's rank.
        rank: usize,
        /// Its site.
        site: lora::Projection,
        /// Its layer.
        layer: usize,
    },
    /// A config cannot say what the model computes.
    #[error("{what}: {why}, and a config.json cannot say that")]
    Unsayable {
        /// The file of the model.
        what: PathBuf,
        /// What it computes.
        why: String,
    },
    /// What was written is not what was read.
    #[error("{path}: read back, it computes something else than {model}; nothing was exported")]
    Changed {
        /// Where it was written.
        path: PathBuf,
        /// What it was made from.
        model: PathBuf,
    },
}

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An I/O error that names its file.
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<'_> {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Writes `adapter`, of a model of sizes `spec`, as PEFT's folder `out`.
///
/// # Errors
/// Where `out` is taken, the adapter does not fit `spec`, or the disk fails.
pub fn peft(out: &Path, adapter: &Adapter, spec: &ModelSpec, base: &Base) -> Result<()> {
    let aside = Aside::folder(out)?;
    for (name, bytes) in adapter.files(out, &base.name, spec)? {
        let path = aside.path().join(name);
        if name != lora::WEIGHTS_FILE {
            aside::write(&path, &bytes)?;
            continue;
        }
        let malformed =
            |why: safetensors::SafeTensorError| formats::Error::Malformed { path: path.clone(), why: why.to_string() };
        let file = SafeTensors::deserialize(&bytes).map_err(malformed)?;
        let entries: Vec<Entry> =
            file.iter().map(|(name, view)| Entry { name: name.to_owned(), shape: view.shape().to_vec() }).collect();
        let find = |entry: &Entry| Ok(file.tensor(&entry.name).map_err(malformed)?.data().to_vec());
        tensors::write(&path, &base.metadata(), Stored::F32, &entries, find)?;
    }
    aside.place()
}
