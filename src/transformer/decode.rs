//! The `decode` pass: paged cache, packed kernels, rows with and without adapters in one batch; no graph.
//!
//! Knows flattened tokens and block tables; knows neither requests nor sampling.

mod factors;
mod placed;
mod sets;

pub use super::paging::BLOCK_TOKENS;
pub use placed::Decoder;

use super::dense::Branches;
use super::rope::Tables;
use super::{Linear, Panels, Pass, QkNorms, Stack};
use crate::formats::adapter::Adapter;
use crate::formats::spec::ModelSpec;
use crate::formats::{Error, Result};
use crate::kernels::attention::{AttentionParams, AttentionRow, Heads, KvCache};
use crate::kernels::ops;
use crate::kernels::{ActivationRows, Precision, Weight};
use factors::PackedFactors;
use sets::Set;
use std::ops::Range;
use std::sync::Arc;

/// One sequence's part of a [`Batch`].
#[derive(Clone, Debug)]
pub struct Span {
    /// Its tokens of this step lie at `start .. start + len` of [`Batch::tokens`].
    pub start: usize,
    /// Tokens of this step: 1 when decoding, more in a prefill chunk.
    pub len: usize,
    /// Tokens in the cache before this step; the first token of the step has this position.
    pub cached: usize,
    /// Where its block table lies in [`Batch::tables`].
    pub table: Range<usize>,
    /// Index into [`Batch::adapters`], or the base.
    pub adapter: Option<usize>,
    /// Whether the logits after its last token are wanted.
    pub sample: bool,
}

/// The flattened tokens of all sequences of one engine step.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Ids, sequence after sequence.
    pub tokens: Vec<u32>,
    /// The sequences, in the order of their tokens.
    pub spans: Vec<Span>,
    /// Block tables, sequence after sequence: entry `i` of one names the block of positions `32 i .. 32 i + 32`,
    /// and it covers the sequence's `cached + len` tokens.
    pub tables: Vec<u32>,
    /// The adapters in use.
    pub adapters: Vec<Arc<PackedAdapter>>,
}

impl Batch {
    /// Empties it for the next step; what it took of memory stays.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.spans.clear();
        self.tables.clear();
        self.adapters.clear();
    }

    /// Adds `tokens` of a sequence that has `cached` before them, over the blocks of `table`.
    pub fn push(
        &mut self,
        tokens: &[u32],
        cached: usize,
        table: &[u32],
        adapter: Option<&Arc<PackedAdapter>>,
        sample: bool,
    ) {
        let adapter = adapter.map(|adapter| {
            self.adapters.iter().position(|known| Arc::ptr_eq(known, adapter)).unwrap_or_else(|| {
                self.adapters.push(adapter.clone());
                self.adapters.len() - 1
            })
        });
        let (start, first) = (self.tokens.len(), self.tables.len());
        let table_end = first + table.len();
        self.spans.push(Span { start, len: tokens.len(), cached, table: first..table_end, adapter, sample });
        self.tokens.extend_from_slice(tokens);
        self.tables.extend_from_slice(table);
    }

    /// Whether an adapter's branches are added to the base's weights for a span.
    pub fn is_adapted(&self, span: &Span) -> bool {
        span.adapter.is_some_and(|index| self.adapters[index].weights().is_none())
    }

    /// The block table of one of its spans.
    pub fn table(&self, span: &Span) -> &[u32] {
        &self.tables[span.table.clone()]
    }
}

/// What the engine needs of a model.
pub trait Forward {
    /// Blocks in the KV cache.
    fn blocks(&self) -> usize;
    /// Vocabulary size: the length of one row of logits.
    fn vocab(&self) -> usize;
    /// Copies whole blocks, `(from, to)`, in every layer, one pair after the other.
    ///
    /// # Errors
    /// Where the device fails.
    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()>;
    /// Runs one step. `logits` becomes raw f32 logits, `(spans with sample, vocab)` row-major, in span order;
    /// its memory is used again.
    ///
    /// # Errors
    /// Where an id is outside the vocabulary or the device fails.
    fn step(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()>;
}

/// A critic laid out for the decode pass: an adapter as the weights are that it changes, or weights of its own;
/// [`Transformer::pack`](super::Transformer::pack) makes one for either form.
#[derive(Debug)]
pub struct PackedAdapter(Laid);

#[derive(Debug)]
enum Laid {
    Panels(PackedFactors),
    Dense(Branches),
    Full(Arc<Stack<Panels>>),
}

impl PackedAdapter {
    /// Packs `adapter`, whose shapes were checked against `spec` when it was made, for the CPU's kernels.
    pub fn new(adapter: &Adapter, spec: &ModelSpec) -> Self {
        Self(Laid::Panels(PackedFactors::new(adapter, spec)))
    }

    /// Takes factors that lie on the weights' device.
    pub(crate) fn of_branches(branches: Branches) -> Self {
        Self(Laid::Dense(branches))
    }

    /// Takes a weight set of the decoder's precision.
    pub(crate) fn of_weights(weights: Arc<Stack<Panels>>) -> Self {
        Self(Laid::Full(weights))
    }

    /// The weights that stand in for the base's, where it has some.
    pub(crate) fn weights(&self) -> Option<&Arc<Stack<Panels>>> {
        match &self.0 {
            Laid::Full(weights) => Some(weights),
            Laid::Panels(_) | Laid::Dense(_) => None,
        }
    }

    /// An adapter that changes nothing, for tests that need one's identity alone.
    #[cfg(test)]
    pub(crate) fn without_factors() -> Self {
        Self(Laid::Panels(PackedFactors::none()))
    }

    /// The factors as tensors.
    pub(crate) fn branches(&self) -> Result<&Branches> {
        match &self.0 {
            Laid::Dense(branches) => Ok(branches),
            Laid::Panels(_) | Laid::Full(_) => Err(Error::OtherForm),
        }
    }

    fn packed(&self) -> Result<&PackedFactors> {
        match &self.0 {
            Laid::Panels(factors) => Ok(factors),
            Laid::Dense(_) | Laid::Full(_) => Err(Error::OtherForm),
        }
    }
}

/// A decoder over the CPU's kernels.
struct PanelsDecoder {
    model: Arc<Stack<Panels>>,
    cache: KvCache,
    /// Rows that are not in use; kept for their memory.
    spare: Vec<ActivationRows>,
    /// Logits of one weight set, where a step has several.
    of_set: Vec<f32>,
}

impl PanelsDecoder {
    fn new(model: Arc<Stack<Panels>>, blocks: usize) -> Self {
        let cache = {
            let (spec, narrow) = (model.spec(), model.form().precision.is_narrow());
            KvCache::new(spec.layers, Heads::of(spec), blocks, narrow)
        };
        Self { model, cache, spare: Vec::new(), of_set: Vec::new() }
    }

    /// One pass over one weight set.
    fn compute_over(&mut self, model: &Arc<Stack<Panels>>, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        let spec = model.spec();
        let reach: Vec<AttentionRow<'_>> = batch
            .spans
            .iter()
            .flat_map(|span| {
                let blocks = batch.table(span);
                (span.cached..span.cached + span.len).map(move |position| AttentionRow { blocks, position })
            })
            .collect();
        let positions: Vec<usize> = reach.iter().map(|row| row.position).collect();
        let (angles, adapted) = (Tables::new(spec, &positions), adapted_rows(batch)?);
        let (precision, Self { cache, spare, .. }) = (model.form().precision, self);
        let mut pass = DecodePass { spec, precision, cache, spare, reach: &reach, angles, adapted };
        let mut x = pass.take();
        x.resize(reach.len() * spec.hidden);
        model.embed(&batch.tokens, Weight::decode_row, x.values_mut())?;
        let hidden = model.walk(x, &mut pass)?; // (rows, hidden)
        let last: Vec<usize> =
            batch.spans.iter().filter(|span| span.sample).map(|span| span.start + span.len - 1).collect();
        let mut picked = pass.take();
        picked.write(last.len(), spec.hidden, precision, |first, out| {
            for (out, &row) in out.chunks_exact_mut(spec.hidden).zip(&last[first..]) {
                out.copy_from_slice(&hidden.values()[row * spec.hidden..][..spec.hidden]);
            }
        }); // (spans with sample, hidden)
        logits.resize(last.len() * spec.vocab, 0.0);
        model.head().decode_rows(&picked, logits);
        pass.spare.extend([hidden, picked]);
        Ok(())
    }
}

impl Forward for PanelsDecoder {
    fn blocks(&self) -> usize {
        self.cache.blocks()
    }

    fn vocab(&self) -> usize {
        self.model.spec().vocab
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        self.cache.copy_blocks(pairs);
        Ok(())
    }

    fn step(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        let sets = Set::split(batch);
        if sets.is_empty() {
            return self.compute_over(&self.model.clone(), batch, logits);
        }
        let vocab = self.vocab();
        let mut of_set = std::mem::take(&mut self.of_set);
        logits.resize(vocab * sets.iter().map(|set| set.rows.len()).sum::<usize>(), 0.0);
        for Set { weights, batch, rows } in &sets {
            let model = weights.as_ref().unwrap_or(&self.model).clone();
            self.compute_over(&model, batch, &mut of_set)?;
            for (&row, found) in rows.iter().zip(of_set.chunks_exact(vocab)) {
                logits[row * vocab..][..vocab].copy_from_slice(found);
            }
        }
        self.of_set = of_set;
        Ok(())
    }
}

/// Runs of neighbouring rows that share an adapter.
fn adapted_rows(batch: &Batch) -> Result<Vec<(Range<usize>, &PackedFactors)>> {
    let mut runs: Vec<(Range<usize>, usize)> = vec![];
    for span in &batch.spans {
        let Some(adapter) = span.adapter else { continue };
        match runs.last_mut() {
            Some((rows, last)) if *last == adapter && rows.end == span.start => rows.end += span.len,
            _ => runs.push((span.start..span.start + span.len, adapter)),
        }
    }
    runs.into_iter().map(|(rows, adapter)| Ok((rows, batch.adapters[adapter].packed()?))).collect()
}

struct DecodePass<'a> {
    spec: &'a ModelSpec,
    precision: Precision,
    cache: &'a mut KvCache,
    spare: &'a mut Vec<ActivationRows>,
    reach: &'a [AttentionRow<'a>],
    angles: Tables,
    adapted: Vec<(Range<usize>, &'a PackedFactors)>,
}

impl DecodePass<'_> {
    /// Rows to write into.
    fn take(&mut self) -> ActivationRows {
        self.spare.pop().unwrap_or_default()
    }
}

impl Pass for DecodePass<'_> {
    type Form = Panels;
    type Rows = ActivationRows;

    fn linear(
        &mut self,
        layer: usize,
        linear: Linear,
        weight: &Arc<Weight>,
        x: ActivationRows,
    ) -> Result<ActivationRows> {
        let (inputs, outputs) = (weight.inputs(), weight.outputs());
        let mut y = self.take();
        y.resize(self.reach.len() * outputs);
        weight.decode_rows(&x, y.values_mut());
        for (rows, adapter) in &self.adapted {
            let x = &x.values()[rows.start * inputs..rows.end * inputs];
            let y = &mut y.values_mut()[rows.start * outputs..rows.end * outputs];
            adapter.add(layer, linear, self.spec, x, y, outputs);
        }
        self.spare.push(x);
        Ok(y)
    }

    fn bias(&mut self, mut x: ActivationRows, bias: &Vec<f32>) -> Result<ActivationRows> {
        ops::by_rows(x.values_mut(), bias.len(), |_, rows| {
            rows.chunks_exact_mut(bias.len()).for_each(|row| ops::add_part(bias, row));
        });
        Ok(x)
    }

    fn norm(&mut self, x: &ActivationRows, weight: &Vec<f32>) -> Result<ActivationRows> {
        let (width, epsilon) = (weight.len(), self.spec.norm_epsilon);
        let mut out = self.take();
        out.write(self.reach.len(), width, self.precision, |first, out| {
            ops::norm_part(&x.values()[first * width..][..out.len()], out, weight, epsilon);
        });
        Ok(out)
    }

    fn attend(&mut self, layer: usize, norms: Option<&QkNorms<Panels>>, qkv: ActivationRows) -> Result<ActivationRows> {
        let (mut found, mut out) = (self.take(), self.take());
        let angles = self.angles.of(self.spec, layer);
        let params = AttentionParams {
            angles: (&angles.cos, &angles.sin),
            half: angles.half,
            qk_norms: norms.map(|norms| (norms.q.as_slice(), norms.k.as_slice())),
            norm_epsilon: self.spec.norm_epsilon,
            window: self.spec.window(layer),
        };
        let heads = Heads::of(self.spec);
        found.resize(self.reach.len() * heads.q_width());
        self.cache.attend(layer, qkv.values(), found.values_mut(), self.reach, params);
        out.write(self.reach.len(), heads.q_width(), self.precision, |first, out| {
            heads.by_row(found.values(), self.reach.len(), first, out);
        });
        self.spare.extend([qkv, found]);
        Ok(out)
    }

    fn gated(&mut self, gate_up: ActivationRows) -> Result<ActivationRows> {
        let (width, activation) = (self.spec.intermediate, self.spec.block.activation);
        let mut out = self.take();
        out.write(self.reach.len(), width, self.precision, |first, out| {
            ops::gated_part(&gate_up.values()[2 * first * width..][..2 * out.len()], 2 * width, out, width, activation);
        });
        self.spare.push(gate_up);
        Ok(out)
    }

    fn add(&mut self, mut x: ActivationRows, h: ActivationRows) -> Result<ActivationRows> {
        ops::add(h.values(), x.values_mut());
        self.spare.push(h);
        Ok(x)
    }
}
