//! What the engine needs of a model.

use super::drawn::Drawn;
use crate::transformer::error::Result;
use crate::transformer::paging::Batch;

/// A model with a KV cache, one step at a time.
pub trait Forward {
    /// Blocks in the KV cache.
    fn blocks(&self) -> usize;
    /// Vocabulary size: the length of one row of logits.
    fn vocab(&self) -> usize;
    /// Copies whole blocks, `(from, to)`, in every layer, in the order of `pairs`.
    ///
    /// # Errors
    /// Where the device fails.
    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()>;
    /// Whether it draws tokens itself, so that a batch may ask for them in the place of logits.
    fn draws(&self) -> bool {
        false
    }
    /// Runs one step. `logits` becomes raw f32 logits, `(rows with logits, vocab)` row-major, in the order of the spans and
    /// of their tokens; its memory is reused. Returns what [`Batch::draws`] asks for, none for a row that is no distribution.
    ///
    /// # Errors
    /// Where an id is outside the vocabulary, an adapter was packed for another device, or the device fails.
    fn step(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<Vec<Option<Drawn>>>;
}
