//! The error of `transformer`: what a model in memory refuses, and what its files refuse.

use crate::formats;
use crate::kernels::Precision;
use std::path::PathBuf;

/// Why a model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the model or of an adapter is at fault.
    #[error(transparent)]
    File(#[from] formats::Error),
    /// A token id that the model has no embedding for.
    #[error("token id {id}: expected less than the vocabulary of {vocab}")]
    TokenId {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// The score pass was run on weights that were loaded for the decode pass only.
    #[error("expected weights loaded for scoring, got weights for decoding only")]
    DecodeOnly,
    /// The system has no room for the KV cache.
    #[error("engine.kv_cache_mib: expected a KV cache that the system has room for, got {mib} MiB: {why}")]
    KvCache {
        /// Its size.
        mib: usize,
        /// What the system says.
        why: std::io::Error,
    },
    /// All weights are to be trained, and the score pass reads them in less than f32.
    #[error("expected weights in f32, which are trained, got {precision}; set learner.base to f32")]
    NarrowBase {
        /// What the score pass reads.
        precision: Precision,
    },
    /// The prompt or the completion to score is empty.
    #[error("expected a prompt and a completion of at least one token each, got an empty one")]
    EmptyText,
    /// The device cannot be used.
    #[error("device {choice}: {why}")]
    Device {
        /// The device asked for.
        choice: String,
        /// Why it cannot be used.
        why: String,
    },
    /// An adapter is packed for another device than the weights, or a pass is differentiated by parameters that it was not
    /// recorded for.
    #[error("adapter: expected one packed for the device of the weights, and a pass recorded for it")]
    OtherBackend,
    /// The weights do not fit the memory. A file may state more than it holds: what was never written takes no disk.
    #[error(
        "{path}: its weights need {needed_mib} MiB of memory, expected at most the {available_mib} MiB that are free"
    )]
    Memory {
        /// The model.
        path: PathBuf,
        /// Memory of all weights.
        needed_mib: usize,
        /// Memory that is free.
        available_mib: usize,
    },
    /// Training or replacing all weights is supported on the CPU only.
    #[error("a critic with all weights trained (learner.mode full) runs on the CPU only, got a model on {device}")]
    CpuOnly {
        /// The device of the model.
        device: String,
    },
    /// An adapter brings an embedding or a head that is not the model's.
    #[error(
        "adapter: its file holds another {what} than the model (row {id}: expected {own}, got {got}); merge it into its base \
         with PEFT (merge_and_unload, then save_pretrained) and use the result as model"
    )]
    OtherEnds {
        /// `embedding` or `head`.
        what: &'static str,
        /// The first row that differs.
        id: usize,
        /// The model's value.
        own: f32,
        /// The value in the adapter's file.
        got: f32,
    },
    /// The learner cannot train all weights of these layers.
    #[error(
        "learner.mode full trains no biases outside of queries, keys and values and no norms over all heads, as this {family} \
         has; use learner.mode lora"
    )]
    NotTrainedWhole {
        /// The model's family.
        family: &'static str,
    },
    /// The GPU's passes do not compute these layers.
    #[error("a {family} like this one runs on the CPU only, got {device}; use --device cpu")]
    FamilyOnCpuOnly {
        /// The model's family.
        family: &'static str,
        /// The device.
        device: String,
    },
    /// The passes over tensors keep keys and values in the type of the weights.
    #[error("engine.kv: expected auto or {own} on {device}, got {kv}")]
    KvPrecision {
        /// What is asked for.
        kv: &'static str,
        /// What the device has.
        own: &'static str,
        /// The device.
        device: String,
    },
    /// Factors on embedding or head are supported on the CPU only.
    #[error(
        "adapter: factors on embed_tokens or lm_head run on the CPU only, got a model on {device}; merge the adapter into its \
         base (export --to merged) and use the result as model"
    )]
    EndsOnCpuOnly {
        /// The device of the model.
        device: String,
    },
    /// The tensor library failed.
    #[error("{}", in_one_line(.0))]
    Candle(candle_core::Error),
}

// By hand, so that the error is not its own cause: what it says is said in one line.
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(error)
    }
}

/// What the tensor library says, without the backtrace that it prints with its errors.
pub(super) fn in_one_line(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => in_one_line(inner),
        candle_core::Error::Context { inner, context } => format!("{context}: {}", in_one_line(inner)),
        error => match error.to_string() {
            text if text.contains("CUDA_ERROR_OUT_OF_MEMORY") => {
                "the gpu is out of memory; `nvidia-smi` lists the programs that hold it, `check` says what this one needs".to_owned()
            }
            text => text.lines().collect::<Vec<_>>().join(" "),
        },
    }
}

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;
