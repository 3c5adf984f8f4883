//! Weights in panels: the layout that the CPU's kernels read.

use crate::formats::{self, WeightReader};
use crate::kernels::{MatrixRows, PassPrecisions, Precision, Weight};
use crate::transformer::error::Result;
use crate::transformer::stack::{Part, Stack, WeightLayout};
use candle_core::Device;
use std::sync::Arc;

/// Weights in panels for the CPU's kernels.
#[derive(Debug)]
pub(crate) struct Panels {
    /// What the passes read.
    pub(crate) precisions: PassPrecisions,
}

impl WeightLayout for Panels {
    type Matrix = Arc<Weight>;
    type Vector = Vec<f32>;

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn precision(&self) -> Precision {
        self.precisions.decode
    }

    fn matrix(&self, weights: &dyn WeightReader, parts: &[Part]) -> Result<Arc<Weight>> {
        let inputs = parts.first().map_or(1, |(_, [_, inputs])| *inputs);
        let rows = parts.iter().map(|(name, shape)| weights.rows(name, *shape)).collect::<Result<Vec<_>, _>>()?;
        let rows: Vec<&dyn MatrixRows<Error = formats::Error>> = rows.iter().map(|rows| &**rows as _).collect();
        Ok(Arc::new(Weight::read(&rows, inputs, self.precisions)?))
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
        matrix.precisions().score.is_some()
    }

    fn len(vector: &Vec<f32>) -> usize {
        vector.len()
    }
}

impl Stack<Panels> {
    /// Writes the scaled embeddings of `ids`, `(ids, hidden)` row-major, to `out`. `row` reads one of them, for the decode
    /// pass or for the score pass.
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
