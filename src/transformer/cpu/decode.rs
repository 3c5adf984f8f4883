//! The `decode` pass over the CPU's kernels: packed weights, a paged cache, adapters added for the rows that have one.

use super::critic::CpuCritic;
use super::ends::EndBranches;
use super::lora::DecodeLora;
use super::panels::Panels;
use super::weight_sets::WeightSet;
use crate::formats::spec::ModelSpec;
use crate::kernels::attention::{AttentionParams, AttentionRow, Heads, KvCache};
use crate::kernels::ops;
use crate::kernels::{ActivationRows, KvPrecision, Precision, Weight};
use crate::transformer::decode::{Batch, Drawn, Forward};
use crate::transformer::error::{Error, Result};
use crate::transformer::rope::Tables;
use crate::transformer::stack::{Linear, Pass, QkNorms, Stack};
use std::ops::Range;
use std::sync::Arc;

/// A decoder over the CPU's kernels.
pub(super) struct CpuDecoder {
    model: Arc<Stack<Panels>>,
    cache: KvCache,
    /// ActivationRows that are not in use, kept for their memory.
    spare: Vec<ActivationRows>,
    /// Logits of one weight set, where a step has several sets.
    set_logits: Vec<f32>,
}

impl CpuDecoder {
    /// A decoder with a KV cache of `blocks` blocks of precision `kv`.
    ///
    /// # Errors
    /// Where the system has no room for the cache.
    pub(super) fn new(model: Arc<Stack<Panels>>, kv: KvPrecision, blocks: usize) -> Result<Self> {
        let (spec, kind) = (model.spec(), kv.kind(model.layout().precisions.decode));
        let mib = (blocks * KvCache::block_bytes(spec.layers, Heads::of(spec), kind)) >> 20;
        let cache = KvCache::new(spec.layers, Heads::of(spec), blocks, kind);
        let cache = cache.map_err(|why| Error::KvCache { mib, why })?;
        Ok(Self { model, cache, spare: Vec::new(), set_logits: Vec::new() })
    }

    /// One pass over the weights `model`.
    fn step_over(&mut self, model: &Arc<Stack<Panels>>, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        let spec = model.spec();
        let rows: Vec<AttentionRow<'_>> = batch
            .spans
            .iter()
            .flat_map(|span| {
                let blocks = batch.table(span);
                (span.cached..span.cached + span.len).map(move |position| AttentionRow { blocks, position })
            })
            .collect();
        let positions: Vec<usize> = rows.iter().map(|row| row.position).collect();
        let (angles, adapted) = (Tables::new(spec, &positions), adapted_rows(batch)?);
        let (precision, Self { cache, spare, .. }) = (model.layout().precisions.decode, self);
        let mut pass = DecodePass { spec, precision, cache, spare, rows: &rows, angles, adapted };
        let mut x = pass.take();
        x.resize(rows.len() * spec.hidden);
        model.embed(&batch.tokens, Weight::decode_row, x.values_mut())?;
        for (rows, ends) in pass.adapted_ends() {
            let x = &mut x.values_mut()[rows.start * spec.hidden..rows.end * spec.hidden];
            ends.add_embeddings(&batch.tokens[rows], spec.embedding_scale, x);
        }
        let hidden = model.forward(x, &mut pass)?; // (rows, hidden)
        let last: Vec<usize> = batch.logit_rows().collect();
        let mut sampled = pass.take();
        sampled.write(last.len(), spec.hidden, precision, |first, out| {
            for (out, &row) in out.chunks_exact_mut(spec.hidden).zip(&last[first..]) {
                out.copy_from_slice(&hidden.values()[row * spec.hidden..][..spec.hidden]);
            }
        }); // (rows with logits, hidden)
        logits.resize(last.len() * spec.vocab, 0.0);
        model.head().decode_rows(&sampled, logits);
        for (rows, ends) in pass.adapted_ends() {
            let rows = last.partition_point(|row| *row < rows.start)..last.partition_point(|row| *row < rows.end);
            let hidden = &sampled.values()[rows.start * spec.hidden..rows.end * spec.hidden];
            ends.add_logits(hidden, &mut logits[rows.start * spec.vocab..rows.end * spec.vocab]);
        }
        pass.spare.extend([hidden, sampled]);
        Ok(())
    }
}

impl Forward for CpuDecoder {
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

    fn step(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<Vec<Option<Drawn>>> {
        let sets = WeightSet::split(batch)?;
        if sets.is_empty() {
            self.step_over(&self.model.clone(), batch, logits)?;
            return Ok(Vec::new());
        }
        let vocab = self.vocab();
        let mut set_logits = std::mem::take(&mut self.set_logits);
        logits.resize(vocab * sets.iter().map(|set| set.rows.len()).sum::<usize>(), 0.0);
        for WeightSet { weights, batch, rows } in &sets {
            let model = weights.as_ref().unwrap_or(&self.model).clone();
            self.step_over(&model, batch, &mut set_logits)?;
            for (&row, row_logits) in rows.iter().zip(set_logits.chunks_exact(vocab)) {
                logits[row * vocab..][..vocab].copy_from_slice(row_logits);
            }
        }
        self.set_logits = set_logits;
        Ok(Vec::new())
    }
}

/// Runs of neighbouring rows that share an adapter.
fn adapted_rows(batch: &Batch) -> Result<Vec<(Range<usize>, &DecodeLora)>> {
    let mut runs: Vec<(Range<usize>, usize)> = vec![];
    for span in &batch.spans {
        let Some(adapter) = span.adapter else { continue };
        match runs.last_mut() {
            Some((rows, last)) if *last == adapter && rows.end == span.start => rows.end += span.len,
            _ => runs.push((span.start..span.start + span.len, adapter)),
        }
    }
    let lora = |(rows, adapter): (Range<usize>, usize)| {
        let critic: &CpuCritic = batch.adapters[adapter].layout()?;
        Ok((rows, critic.lora().ok_or(Error::OtherBackend)?))
    };
    runs.into_iter().map(lora).collect()
}

struct DecodePass<'a> {
    spec: &'a ModelSpec,
    precision: Precision,
    cache: &'a mut KvCache,
    spare: &'a mut Vec<ActivationRows>,
    rows: &'a [AttentionRow<'a>],
    angles: Tables,
    adapted: Vec<(Range<usize>, &'a DecodeLora)>,
}

impl<'a> DecodePass<'a> {
    /// Runs of rows whose adapter has factors on embedding or head.
    fn adapted_ends(&self) -> impl Iterator<Item = (Range<usize>, &'a EndBranches)> {
        self.adapted.iter().filter_map(|(rows, lora)| Some((rows.clone(), lora.ends.as_ref()?)))
    }

    /// Queries and keys, each normalised over all heads; `qkv` as it is where there are no such norms.
    fn normalised(&mut self, norms: Option<&QkNorms<Panels>>, mut qkv: ActivationRows) -> ActivationRows {
        let Some(QkNorms { q, k }) = norms else { return qkv };
        let (width, epsilon) = (qkv.values().len() / self.rows.len(), self.spec.norm_epsilon);
        let input = qkv.values().to_vec();
        ops::by_rows(qkv.values_mut(), width, |first, rows| {
            for (row, out) in rows.chunks_exact_mut(width).enumerate() {
                let input = &input[(first + row) * width..][..width];
                ops::norm_part(&input[..q.len()], &mut out[..q.len()], q, epsilon);
                let keys = q.len()..q.len() + k.len();
                ops::norm_part(&input[keys.clone()], &mut out[keys], k, epsilon);
            }
        });
        qkv
    }

    /// Spare rows to write into.
    fn take(&mut self) -> ActivationRows {
        self.spare.pop().unwrap_or_default()
    }
}

impl Pass for DecodePass<'_> {
    type Layout = Panels;
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
        y.resize(self.rows.len() * outputs);
        weight.decode_rows(&x, y.values_mut());
        for (rows, lora) in &self.adapted {
            let x = &x.values()[rows.start * inputs..rows.end * inputs];
            let y = &mut y.values_mut()[rows.start * outputs..rows.end * outputs];
            lora.add(layer, linear, self.spec, x, y, outputs);
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
        out.write(self.rows.len(), width, self.precision, |first, out| {
            ops::norm_part(&x.values()[first * width..][..out.len()], out, weight, epsilon);
        });
        Ok(out)
    }

    fn attend(&mut self, layer: usize, norms: Option<&QkNorms<Panels>>, qkv: ActivationRows) -> Result<ActivationRows> {
        let (mut by_head, mut out) = (self.take(), self.take());
        let qkv = self.normalised(norms.filter(|_| self.spec.layer_spec.post_norms), qkv);
        let angles = self.angles.of(self.spec, layer);
        let by_head_norms = norms.filter(|_| !self.spec.layer_spec.post_norms);
        let params = AttentionParams {
            angles: (&angles.cos, &angles.sin),
            half: angles.half,
            qk_norms: by_head_norms.map(|norms| (norms.q.as_slice(), norms.k.as_slice())),
            norm_epsilon: self.spec.norm_epsilon,
            window: self.spec.window(layer),
        };
        let heads = Heads::of(self.spec);
        by_head.resize(self.rows.len() * heads.q_width());
        self.cache.attend(layer, qkv.values(), by_head.values_mut(), self.rows, params);
        out.write(self.rows.len(), heads.q_width(), self.precision, |first, out| {
            heads.by_row(by_head.values(), self.rows.len(), first, out);
        });
        self.spare.extend([qkv, by_head]);
        Ok(out)
    }

    fn gated(&mut self, gate_up: ActivationRows) -> Result<ActivationRows> {
        let (width, activation) = (self.spec.intermediate, self.spec.layer_spec.activation);
        let mut out = self.take();
        out.write(self.rows.len(), width, self.precision, |first, out| {
            ops::gated_part(&gate_up.values()[2 * first * width..][..2 * out.len()], 2 * width, out, width, activation);
        });
        self.spare.push(gate_up);
        Ok(out)
    }

    fn add(&mut self, mut x: ActivationRows, mut h: ActivationRows) -> Result<ActivationRows> {
        let scale = self.spec.residual_scale;
        if scale != 1.0 {
            ops::by_rows(h.values_mut(), self.spec.hidden, |_, rows| ops::scale_part(rows, scale));
        }
        ops::add(h.values(), x.values_mut());
        self.spare.push(h);
        Ok(x)
    }

    fn copied(&mut self, x: &ActivationRows) -> Result<ActivationRows> {
        let (width, mut out) = (self.spec.hidden, self.take());
        out.write(self.rows.len(), width, self.precision, |first, out| {
            out.copy_from_slice(&x.values()[first * width..][..out.len()]);
        });
        Ok(out)
    }
}
