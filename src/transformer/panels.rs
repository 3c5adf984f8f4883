//! Weights in panels: the form that the CPU's kernels read.

mod full_weights;

use super::{Form, Stack};
use crate::formats::Result;
use crate::kernels::{Precision, Weight};
use std::sync::Arc;

/// Weights in panels for the CPU's kernels.
#[derive(Debug)]
pub(crate) struct Panels {
    /// Of the decode pass.
    pub(crate) precision: Precision,
    /// Whether the score pass reads them too.
    pub(super) score: bool,
}

impl Form for Panels {
    type Matrix = Arc<Weight>;
    type Vector = Vec<f32>;

    fn matrix(&self, parts: &[&[f32]], inputs: usize) -> Result<Arc<Weight>> {
        Ok(Arc::new(Weight::new(parts, inputs, self.precision, self.score)))
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }

    fn bytes(matrix: &Arc<Weight>) -> usize {
        matrix.bytes()
    }

    fn decode_bytes(matrix: &Arc<Weight>) -> usize {
        matrix.decode_bytes()
    }

    fn has_score(matrix: &Arc<Weight>) -> bool {
        matrix.has_score()
    }

    fn len(vector: &Vec<f32>) -> usize {
        vector.len()
    }
}

impl Stack<Panels> {
    /// Writes embeddings of `ids` by `row`, which is the decode pass's or the score pass's, to `out`: `(ids, hidden)`
    /// row-major, scaled as the family scales them.
    ///
    /// # Errors
    /// Where an id is outside the vocabulary.
    pub(crate) fn embed(&self, ids: &[u32], row: fn(&Weight, usize, &mut [f32]), out: &mut [f32]) -> Result<()> {
        let (embedding, spec) = (self.embedding_of(ids)?, self.spec());
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(spec.hidden)) {
            row(embedding, id as usize, out);
            out.iter_mut().for_each(|x| *x *= spec.embedding_scale);
        }
        Ok(())
    }
}
