//! Exports for other programs: a PEFT adapter, a merged Hugging Face folder, a LoRA file for llama.cpp.
//!
//! Every output is written under a temporary name and renamed into place: it exists whole or not at all, and never
//! replaces what is there already. Each output names its base model and that model's digest. Knows files and weights; no
//! run, no learner, no text.

mod card;
mod config;
mod dtype;
mod error;
mod lora_gguf;
mod merged;
mod output;
mod peft;
mod tensors;

pub use card::{CardEvaluation, ModelCard};
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use lora_gguf::write_lora_gguf;
pub use merged::{MergedLayout, write_merged};
pub use peft::write_peft;
