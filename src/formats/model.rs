//! What every model format gives: spec, tokenizer, chat template, and a reader of tensors.

use super::error::{Error, Result};
use super::spec::ModelSpec;
use super::template::ChatTemplate;
use super::tokenizer::Tokenizer;
use crate::kernels::MatrixRows;
use std::ops::Range;

/// Reads tensors by their Hugging Face names (`model.layers.0.self_attn.q_proj.weight`), as f32 on the host.
///
/// Every reader gives the layout and the values that the passes compute with: the rows of a head in rotary halves (as
/// Hugging Face stores them, not interleaved as `llama` GGUF files do), and the weight of a norm as the factor itself
/// (not less 1, as Gemma's safetensors do).
pub trait WeightReader: Send + Sync {
    /// The tensor `name` in row-major order; an error if it is missing or not of `shape`.
    fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>>;
    /// The matrix `name` of `(outputs, inputs)`, to be read a few rows at a time; an error as [`WeightReader::get`] has.
    fn rows<'a>(
        &'a self,
        name: &str,
        [outputs, inputs]: [usize; 2],
    ) -> Result<Box<dyn MatrixRows<Error = Error> + 'a>> {
        Ok(Box::new(Whole { values: self.get(name, &[outputs, inputs])?, inputs }))
    }
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

/// A matrix that was read as a whole.
struct Whole {
    values: Vec<f32>,
    inputs: usize,
}

impl MatrixRows for Whole {
    type Error = Error;

    fn outputs(&self) -> usize {
        self.values.len() / self.inputs
    }

    fn values(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&self.values[rows.start * self.inputs..rows.end * self.inputs]);
        Ok(())
    }
}

/// Runs `text`, which reads tokenizer and template, on another thread while `load` runs on this one.
pub(super) fn beside<U: Send, T>(
    text: impl FnOnce() -> Result<U> + Send,
    load: Option<impl FnOnce() -> T>,
) -> Result<(U, Option<T>)> {
    let Some(load) = load else { return Ok((text()?, None)) };
    std::thread::scope(|scope| {
        let text = scope.spawn(text);
        let loaded = load();
        let text = text.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((text, Some(loaded)))
    })
}
