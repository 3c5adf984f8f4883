//! An adapter's factors on the embedding and on the head.
//!
//! A row of the embedding gets `scale * A[id] B^T`, a logit row `scale * (h A^T) B^T`. The score pass never has all logits in
//! memory, so it reads a head of its own with the factors added. Neither pass computes gradients of these factors.

use super::panels::Panels;
use crate::formats::adapter::{Adapter, Brought, Factors};
use crate::kernels::{PackedMatrix, Precision, Weight};
use crate::transformer::error::{Error, Result};
use crate::transformer::stack::Stack;

/// How far a value that an adapter's file holds may be from that of the model, as a share of it: bf16 rounds by 0.4 %.
const ROUNDING: f32 = 0.01;
/// The same where the model's own values are rounded to a few bits, as a share of the largest of the column's values.
const COARSE_ROUNDING: f32 = 0.25;

/// The factors of embedding and head in panels.
#[derive(Debug)]
pub(in crate::transformer) struct EndBranches {
    /// `A`, transposed to `(vocab, rank)`, and `B`, `(hidden, rank)`.
    embedding: Option<(Vec<f32>, PackedMatrix)>,
    /// `A`, `(rank, hidden)`, and `B`, `(vocab, rank)`.
    head: Option<(PackedMatrix, PackedMatrix)>,
    rank: usize,
    scale: f32,
}

impl EndBranches {
    /// Packs the factors of `adapter`, if it has some.
    pub(super) fn new(adapter: &Adapter, hidden: usize) -> Option<Self> {
        let (rank, scale) = (adapter.config.rank, adapter.config.scale());
        let embedding = adapter.ends.embedding.as_ref().map(|Factors { a, b }| {
            let vocab = a.len() / rank;
            let by_id = (0..vocab).flat_map(|id| (0..rank).map(move |inner| a[inner * vocab + id]));
            (by_id.collect(), PackedMatrix::new(&[b], rank))
        });
        let head = adapter.ends.head.as_ref();
        let head = head.map(|Factors { a, b }| (PackedMatrix::new(&[a], hidden), PackedMatrix::new(&[b], rank)));
        (!adapter.ends.is_empty()).then_some(Self { embedding, head, rank, scale })
    }

    /// Adds to the embeddings `x` of `ids`, which are scaled by `embedding_scale`.
    pub(super) fn add_embeddings(&self, ids: &[u32], embedding_scale: f32, x: &mut [f32]) {
        let Some((by_id, b)) = &self.embedding else { return };
        let rows: Vec<f32> =
            ids.iter().flat_map(|&id| &by_id[id as usize * self.rank..][..self.rank]).copied().collect();
        add_scaled(b, &rows, self.scale * embedding_scale, x);
    }

    /// Adds to the logits of the rows `hidden`.
    pub(super) fn add_logits(&self, hidden: &[f32], logits: &mut [f32]) {
        let Some((a, b)) = &self.head else { return };
        let mut inner = vec![0.0; hidden.len() / a.inputs() * self.rank];
        a.forward(hidden, &mut inner);
        add_scaled(b, &inner, self.scale, logits);
    }

    /// The head `weight` with the factors added; none where they leave it as it is.
    pub(super) fn merged_head(&self, weight: &Weight) -> Option<Weight> {
        let (a, b) = self.head.as_ref()?;
        let (hidden, mut row) = (weight.inputs(), vec![0.0; self.rank]);
        let mut factors = vec![vec![0.0; hidden]; self.rank];
        factors.iter_mut().enumerate().for_each(|(inner, values)| a.row(inner, values));
        let mut merged = vec![0.0; weight.outputs() * hidden];
        for (id, out) in merged.chunks_exact_mut(hidden).enumerate() {
            weight.score_row(id, out);
            b.row(id, &mut row);
            for (factor, values) in row.iter().zip(&factors) {
                out.iter_mut().zip(values).for_each(|(out, value)| *out += self.scale * factor * value);
            }
        }
        Some(Weight::of_f32(PackedMatrix::new(&[&merged], hidden)))
    }
}

/// `out += scale * rows B^T`.
fn add_scaled(b: &PackedMatrix, rows: &[f32], scale: f32, out: &mut [f32]) {
    let mut added = vec![0.0; out.len()];
    b.forward(rows, &mut added);
    out.iter_mut().zip(added).for_each(|(out, added)| *out += scale * added);
}

impl Stack<Panels> {
    /// Checks that the embedding and the head that the file of `adapter` holds are those of this model.
    ///
    /// # Errors
    /// If one is not: its factors were trained beside other weights.
    pub(super) fn check_brought(&self, adapter: &Adapter) -> Result<()> {
        let hidden = self.spec().hidden;
        for Brought { is_head, values } in &adapter.ends.brought {
            let weight = if *is_head { self.head() } else { &self.embedding };
            let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            let is_exact = weight.precisions().score == Some(Precision::F32);
            let read = |id: usize, row: &mut [f32]| match is_exact {
                true => weight.score_row(id, row),
                false => weight.decode_row(id, row),
            };
            let mut row = vec![0.0; hidden];
            for (id, value) in values.iter().enumerate() {
                read(id, &mut row);
                let own = row[Brought::column(id, hidden)];
                let allowed = if is_exact { ROUNDING * value.abs() + 1e-6 } else { COARSE_ROUNDING * largest };
                if (own - value).abs() > allowed {
                    let what = if *is_head { "head" } else { "embedding" };
                    return Err(Error::OtherEnds { what, id, own, got: *value });
                }
            }
        }
        Ok(())
    }
}
