//! What every model format gives: spec, tokenizer, chat template, and a reader of tensors.

use super::error::Result;
use super::spec::ModelSpec;
use super::template::ChatTemplate;
use super::tokenizer::Tokenizer;

/// Reads tensors by their Hugging Face names (`model.layers.0.self_attn.q_proj.weight`), as f32 on the host.
///
/// Every reader gives the layout and the values that the passes compute with: the rows of a head in rotary halves (as
/// Hugging Face stores them, not interleaved as `llama` GGUF files do), and the weight of a norm as the factor itself
/// (not less 1, as Gemma's safetensors do).
pub trait WeightReader: Send {
    /// The tensor `name` in row-major order; an error if it is missing or not of `shape`.
    fn get(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>>;
    /// Whether there is such a tensor.
    fn has(&self, name: &str) -> bool;
    /// Whether the file stores the tensor in 4 bits a weight, with a scale for each block of 32 inputs (Q4_0, Q4_1): the int8
    /// kernels then keep it in 4 bits too.
    fn is_four_bit(&self, name: &str) -> bool;
}

/// A model's files, opened: the headers are read, the tensors are not.
pub struct OpenedModel {
    /// Sizes and constants of the transformer.
    pub spec: ModelSpec,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Conversation to text.
    pub template: ChatTemplate,
    /// Reads the tensors.
    pub weights: Box<dyn WeightReader>,
}
