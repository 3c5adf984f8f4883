//! The `decode` pass: paged cache, packed kernels, rows with and without adapters in one batch; no graph.
//!
//! Knows flattened tokens and block tables; knows neither requests nor sampling.

pub use super::attention::BLOCK_TOKENS;
use super::attention::{Heads, KvCache, Reach};
use super::kernel::{PackedMatrix, Weight};
use super::lora::{Adapter, Site};
use super::rotary::Tables;
use super::spec::ModelSpec;
use super::transformer::{Linear, Pass, QkNorms, Transformer};
use super::{Result, ops};
use candle_core::{CpuStorage, Device, Storage, Tensor};
use std::collections::BTreeMap;
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

/// An adapter laid out for the kernels.
#[derive(Debug)]
pub struct PackedAdapter {
    factors: BTreeMap<(usize, Site), (PackedMatrix, PackedMatrix)>,
    scale: f32,
}

impl PackedAdapter {
    /// Packs `adapter`, whose shapes were checked against `spec` when it was made.
    pub fn new(adapter: &Adapter, spec: &ModelSpec) -> Self {
        let pack = |(&(layer, site), factors): (&(usize, Site), &super::lora::Factors)| {
            let (inputs, _) = site.sizes(spec);
            let rank = adapter.config.rank;
            let packed = (PackedMatrix::new(&[&factors.a], inputs), PackedMatrix::new(&[&factors.b], rank));
            ((layer, site), packed)
        };
        Self { factors: adapter.factors.iter().map(pack).collect(), scale: adapter.config.scale() }
    }

    /// An adapter that changes nothing, for tests that need one's identity alone.
    #[cfg(test)]
    pub(crate) fn without_factors() -> Self {
        Self { factors: BTreeMap::new(), scale: 0.0 }
    }

    /// Adds this adapter's branches of `linear` for some rows: `y += scale * (x A^T) B^T`.
    fn add(&self, layer: usize, linear: Linear, spec: &ModelSpec, x: &[f32], y: &mut [f32], y_width: usize) {
        let mut column = 0;
        for &site in linear.sites() {
            let (inputs, outputs) = site.sizes(spec);
            if let Some((a, b)) = self.factors.get(&(layer, site)) {
                let rows = x.len() / inputs;
                let mut inner = vec![0.0; rows * a.outputs()];
                a.forward(x, &mut inner);
                let mut branch = vec![0.0; rows * outputs];
                b.forward(&inner, &mut branch);
                for (y, branch) in y.chunks_exact_mut(y_width).zip(branch.chunks_exact(outputs)) {
                    for (y, branch) in y[column..][..outputs].iter_mut().zip(branch) {
                        *y += self.scale * branch;
                    }
                }
            }
            column += outputs;
        }
    }
}

/// Base weights and KV cache, ready to compute steps. One thread owns it.
pub struct Decoder {
    model: Arc<Transformer>,
    cache: KvCache,
}

impl Decoder {
    /// A decoder with a KV cache of `blocks` blocks.
    pub fn new(model: Arc<Transformer>, blocks: usize) -> Self {
        let cache = KvCache::new(model.spec(), blocks);
        Self { model, cache }
    }

    /// Bytes of one KV block over all layers.
    pub fn block_bytes(spec: &ModelSpec) -> usize {
        KvCache::block_bytes(spec)
    }
}

impl Forward for Decoder {
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
        // From inside the pool a parallel loop costs microseconds; from outside, each would wake and wait.
        rayon::scope(|_| self.compute(batch, logits))
    }
}

impl Decoder {
    fn compute(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        let model = self.model.clone();
        let spec = model.spec();
        let rows: Vec<Reach<'_>> = batch
            .spans
            .iter()
            .flat_map(|span| {
                let blocks = batch.table(span);
                (span.cached..span.cached + span.len).map(move |position| Reach { blocks, position })
            })
            .collect();
        let positions: Vec<usize> = rows.iter().map(|row| row.position).collect();
        let (angles, adapted) = (Tables::new(spec, &positions), adapted_rows(batch));
        let mut pass = DecodePass { spec, cache: &mut self.cache, rows: &rows, angles, adapted };
        let x = tensor(model.embed(&batch.tokens, Weight::decode_row)?, rows.len())?;
        let hidden = model.walk(x, &mut pass)?; // (rows, hidden)
        let last: Vec<usize> =
            batch.spans.iter().filter(|span| span.sample).map(|span| span.start + span.len - 1).collect();
        let picked = on_host(&hidden, |hidden| {
            last.iter().flat_map(|&row| hidden[row * spec.hidden..][..spec.hidden].iter().copied()).collect::<Vec<_>>()
        })?;
        logits.resize(last.len() * spec.vocab, 0.0);
        model.head().decode(&picked, logits);
        Ok(())
    }
}

/// Runs of neighbouring rows that share an adapter.
fn adapted_rows(batch: &Batch) -> Vec<(Range<usize>, &PackedAdapter)> {
    let mut runs: Vec<(Range<usize>, usize)> = vec![];
    for span in &batch.spans {
        let Some(adapter) = span.adapter else { continue };
        match runs.last_mut() {
            Some((rows, last)) if *last == adapter && rows.end == span.start => rows.end += span.len,
            _ => runs.push((span.start..span.start + span.len, adapter)),
        }
    }
    runs.into_iter().map(|(rows, adapter)| (rows, batch.adapters[adapter].as_ref())).collect()
}

struct DecodePass<'a> {
    spec: &'a ModelSpec,
    cache: &'a mut KvCache,
    rows: &'a [Reach<'a>],
    angles: Tables,
    adapted: Vec<(Range<usize>, &'a PackedAdapter)>,
}

impl Pass for DecodePass<'_> {
    fn linear(&mut self, layer: usize, linear: Linear, weight: &Arc<Weight>, x: &Tensor) -> Result<Tensor> {
        let (inputs, outputs) = (weight.inputs(), weight.outputs());
        let mut y = vec![0.0; self.rows.len() * outputs];
        on_host(x, |x| {
            weight.decode(x, &mut y);
            for (rows, adapter) in &self.adapted {
                let (x, y) =
                    (&x[rows.start * inputs..rows.end * inputs], &mut y[rows.start * outputs..rows.end * outputs]);
                adapter.add(layer, linear, self.spec, x, y, outputs);
            }
        })?;
        tensor(y, self.rows.len())
    }

    fn norm(&mut self, x: &Tensor, weight: &[f32]) -> Result<Tensor> {
        let mut out = vec![0.0; self.rows.len() * weight.len()];
        on_host(x, |x| ops::norm(x, &mut out, weight, self.spec.norm_epsilon))?;
        tensor(out, self.rows.len())
    }

    fn attend(&mut self, layer: usize, norms: Option<&QkNorms>, qkv: &Tensor) -> Result<Tensor> {
        let heads = Heads::of(self.spec);
        let (q_width, kv_width) = (heads.q_width(), heads.kv_width());
        let rows = self.rows.len();
        let column = |from: usize, width: usize| -> Result<Vec<f32>> {
            on_host(qkv, |qkv| {
                let rows = qkv.chunks_exact(q_width + 2 * kv_width);
                rows.flat_map(|row| row[from..from + width].iter().copied()).collect()
            })
        };
        let (mut q, mut k, v) =
            (column(0, q_width)?, column(q_width, kv_width)?, column(q_width + kv_width, kv_width)?);
        let (mut turned_q, mut turned_k) = (vec![0.0; q.len()], vec![0.0; k.len()]);
        if let Some(norms) = norms {
            ops::norm(&q, &mut turned_q, &norms.q, self.spec.norm_epsilon);
            ops::norm(&k, &mut turned_k, &norms.k, self.spec.norm_epsilon);
            std::mem::swap(&mut q, &mut turned_q);
            std::mem::swap(&mut k, &mut turned_k);
        }
        let (angles, half) = (self.angles.of(self.spec, layer), heads.head_dim / 2);
        ops::rotate(&q, &mut turned_q, &angles.cos, &angles.sin, half, 1.0);
        ops::rotate(&k, &mut turned_k, &angles.cos, &angles.sin, half, 1.0);
        self.cache.write(layer, &turned_k, &v, self.rows);
        let mut out = q;
        self.cache.attend(layer, &turned_q, &mut out, self.rows, self.spec.window(layer));
        tensor(out, rows)
    }

    fn gated(&mut self, gate_up: &Tensor) -> Result<Tensor> {
        let width = self.spec.intermediate;
        let mut out = vec![0.0; self.rows.len() * width];
        on_host(gate_up, |x| ops::gated(x, &mut out, width, self.spec.block.activation))?;
        tensor(out, self.rows.len())
    }
}

/// `(rows, len / rows)` from row-major values.
pub(crate) fn tensor(values: Vec<f32>, rows: usize) -> Result<Tensor> {
    let width = values.len() / rows.max(1);
    Ok(Tensor::from_vec(values, (rows, width), &Device::Cpu)?)
}

/// Lends the f32 values of a contiguous tensor on the CPU.
pub(crate) fn on_host<R>(x: &Tensor, use_it: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(use_it(&values[start..end])),
        _ => Err(candle_core::Error::Msg("expected a contiguous f32 tensor on the cpu".into()).into()),
    }
}
