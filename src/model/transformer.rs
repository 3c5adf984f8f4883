//! The transformer: weights on the device and the one walk through its layers.
//!
//! The walk is the same for every pass. `decode` computes with fused kernels over a paged cache;
//! `score` builds a graph that can be differentiated. Families differ by data in [`ModelSpec`].

use super::kernel::{Precision, Weight};
use super::lora::Site;
use super::{Result, Weights, spec::ModelSpec};
use std::sync::Arc;

/// The linears of a layer, fused where they share their input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linear {
    /// Queries, keys and values.
    Qkv,
    /// Attention's output.
    Output,
    /// Feed-forward gate and up.
    GateUp,
    /// Feed-forward down.
    Down,
}

impl Linear {
    /// The sites it fuses, in the order of its columns.
    pub(crate) fn sites(self) -> &'static [Site] {
        match self {
            Self::Qkv => &[Site::QProj, Site::KProj, Site::VProj],
            Self::Output => &[Site::OProj],
            Self::GateUp => &[Site::GateProj, Site::UpProj],
            Self::Down => &[Site::DownProj],
        }
    }
}

/// One layer's frozen weights; what a family does not have is absent.
#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    qkv: Arc<Weight>,
    /// `(q + k + v widths)`.
    qkv_bias: Option<Vec<f32>>,
    qk_norms: Option<QkNorms>,
    output: Arc<Weight>,
    attention_output_norm: Option<Vec<f32>>,
    mlp_norm: Vec<f32>,
    gate_up: Arc<Weight>,
    down: Arc<Weight>,
    mlp_output_norm: Option<Vec<f32>>,
}

/// Norms of one head of queries and of keys, `(head_dim)` each.
#[derive(Debug)]
pub(crate) struct QkNorms {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
}

/// The frozen weights of a model: one copy, shared by engine and learner.
#[derive(Debug)]
pub struct Transformer {
    spec: ModelSpec,
    precision: Precision,
    embedding: Arc<Weight>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Arc<Weight>,
}

/// How a pass computes the pieces of a layer. Rows are the flattened tokens of all sequences; what is used up is
/// handed over.
pub(crate) trait Pass {
    /// Activations, `(rows, width)`.
    type Rows;
    /// `x W^T` and whatever adapters add: `(rows, inputs)` to `(rows, outputs)`.
    fn linear(&mut self, layer: usize, linear: Linear, weight: &Arc<Weight>, x: Self::Rows) -> Result<Self::Rows>;
    /// The same row added to every row.
    fn bias(&mut self, x: Self::Rows, bias: &[f32]) -> Result<Self::Rows>;
    /// RMSNorm over the last dimension.
    fn norm(&mut self, x: &Self::Rows, weight: &[f32]) -> Result<Self::Rows>;
    /// Norms of the heads, rotary positions and attention: `(rows, q + k + v widths)` to `(rows, q width)`.
    fn attend(&mut self, layer: usize, norms: Option<&QkNorms>, qkv: Self::Rows) -> Result<Self::Rows>;
    /// `activation(gate) * up`: `(rows, 2 intermediate)` to `(rows, intermediate)`.
    fn gated(&mut self, gate_up: Self::Rows) -> Result<Self::Rows>;
    /// The residual stream and what a block adds to it.
    fn add(&mut self, x: Self::Rows, h: Self::Rows) -> Result<Self::Rows>;
}

impl Transformer {
    /// Loads and packs every weight: for a decode pass of `precision`, and for the score pass where `score` asks for it.
    ///
    /// # Errors
    /// Where a tensor is missing, unreadable or of another shape.
    pub fn load(spec: &ModelSpec, weights: &mut dyn Weights, precision: Precision, score: bool) -> Result<Self> {
        let hidden = spec.hidden;
        let embedding = weights.get("model.embed_tokens.weight", &[spec.vocab, hidden])?;
        let pack = |values: &[f32]| Arc::new(Weight::new(&[values], hidden, precision, score));
        let embedding = pack(&embedding);
        let head = match spec.tied {
            true => embedding.clone(),
            false => pack(&weights.get("lm_head.weight", &[spec.vocab, hidden])?),
        };
        let layers =
            (0..spec.layers).map(|layer| Layer::load(layer, spec, weights, precision, score)).collect::<Result<_>>()?;
        let norm = weights.get("model.norm.weight", &[hidden])?;
        Ok(Self { spec: spec.clone(), precision, embedding, layers, norm, head })
    }

    /// Its sizes.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Bytes of weights it holds.
    pub fn bytes(&self) -> usize {
        let layers = self.layers.iter().map(Layer::bytes);
        let head = if self.spec.tied { 0 } else { self.head.bytes() };
        self.embedding.bytes() + head + layers.sum::<usize>() + size_of_val(self.norm.as_slice())
    }

    /// The output head, `(vocab, hidden)`.
    pub(crate) fn head(&self) -> &Arc<Weight> {
        &self.head
    }

    /// Bytes that one decode pass reads, whatever the number of its rows.
    pub fn decode_bytes(&self) -> usize {
        let linears = self.layers.iter().flat_map(|l| [&l.qkv, &l.output, &l.gate_up, &l.down]);
        linears.chain([&self.head]).map(|weight| weight.decode_bytes()).sum()
    }

    /// How the decode pass keeps the weights.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Whether the score pass can read it.
    pub fn has_score(&self) -> bool {
        self.head.has_score()
    }

    /// Writes embeddings of `ids` by `row`, which is the decode pass's or the score pass's, to `out`: `(ids, hidden)`
    /// row-major, scaled as the family scales them.
    ///
    /// # Errors
    /// Where an id is outside the vocabulary.
    pub(crate) fn embed(&self, ids: &[u32], row: fn(&Weight, usize, &mut [f32]), out: &mut [f32]) -> Result<()> {
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.spec.hidden)) {
            if id as usize >= self.spec.vocab {
                return Err(super::Error::TokenId { id, vocab: self.spec.vocab });
            }
            row(&self.embedding, id as usize, out);
            out.iter_mut().for_each(|x| *x *= self.spec.embedding_scale);
        }
        Ok(())
    }

    /// The walk: embeddings `(rows, hidden)` to final hidden states `(rows, hidden)`, normalised.
    pub(crate) fn walk<P: Pass>(&self, x: P::Rows, pass: &mut P) -> Result<P::Rows> {
        let mut x = x;
        for (index, layer) in self.layers.iter().enumerate() {
            let h = pass.norm(&x, &layer.attention_norm)?;
            let mut qkv = pass.linear(index, Linear::Qkv, &layer.qkv, h)?;
            if let Some(bias) = &layer.qkv_bias {
                qkv = pass.bias(qkv, bias)?; // (rows, q + k + v widths)
            }
            let h = pass.attend(index, layer.qk_norms.as_ref(), qkv)?;
            let mut h = pass.linear(index, Linear::Output, &layer.output, h)?;
            if let Some(norm) = &layer.attention_output_norm {
                h = pass.norm(&h, norm)?;
            }
            x = pass.add(x, h)?; // (rows, hidden)
            let h = pass.norm(&x, &layer.mlp_norm)?;
            let gate_up = pass.linear(index, Linear::GateUp, &layer.gate_up, h)?;
            let h = pass.gated(gate_up)?;
            let mut h = pass.linear(index, Linear::Down, &layer.down, h)?;
            if let Some(norm) = &layer.mlp_output_norm {
                h = pass.norm(&h, norm)?;
            }
            x = pass.add(x, h)?; // (rows, hidden)
        }
        pass.norm(&x, &self.norm)
    }
}

impl Layer {
    fn load(
        layer: usize,
        spec: &ModelSpec,
        weights: &mut dyn Weights,
        precision: Precision,
        score: bool,
    ) -> Result<Self> {
        let mut fused = |linear: Linear| -> Result<Arc<Weight>> {
            let mut parts = vec![];
            let mut inputs = 0;
            for &site in linear.sites() {
                let (from, to) = site.sizes(spec);
                inputs = from;
                let name = format!("model.layers.{layer}.{}.{}.weight", site.module(), site.name());
                parts.push(weights.get(&name, &[to, from])?);
            }
            let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
            Ok(Arc::new(Weight::new(&parts, inputs, precision, score)))
        };
        let (qkv, output) = (fused(Linear::Qkv)?, fused(Linear::Output)?);
        let (gate_up, down) = (fused(Linear::GateUp)?, fused(Linear::Down)?);
        let mut get = |name: &str, width| weights.get(&format!("model.layers.{layer}.{name}"), &[width]);
        let mut qkv_bias = None;
        if spec.block.qkv_bias {
            let mut row = vec![];
            for &site in Linear::Qkv.sites() {
                row.extend(get(&format!("{}.{}.bias", site.module(), site.name()), site.sizes(spec).1)?);
            }
            qkv_bias = Some(row);
        }
        let mut qk_norms = None;
        if spec.block.qk_norm {
            let mut head = |name: &str| get(&format!("self_attn.{name}.weight"), spec.head_dim);
            qk_norms = Some(QkNorms { q: head("q_norm")?, k: head("k_norm")? });
        }
        let mut norm = |name: &str| get(&format!("{name}.weight"), spec.hidden);
        let names = spec.block.norm_names();
        let attention_norm = norm(names.attention)?;
        let attention_output_norm = names.attention_output.map(&mut norm).transpose()?;
        let (mlp_norm, mlp_output_norm) = (norm(names.mlp)?, names.mlp_output.map(&mut norm).transpose()?);
        Ok(Self {
            attention_norm,
            qkv,
            qkv_bias,
            qk_norms,
            output,
            attention_output_norm,
            mlp_norm,
            gate_up,
            down,
            mlp_output_norm,
        })
    }

    fn bytes(&self) -> usize {
        let linears = [&self.qkv, &self.output, &self.gate_up, &self.down].iter().map(|w| w.bytes()).sum::<usize>();
        let heads = self.qk_norms.iter().map(|norms| norms.q.len() + norms.k.len());
        let norms = [Some(&self.attention_norm), self.attention_output_norm.as_ref()];
        let more = [Some(&self.mlp_norm), self.mlp_output_norm.as_ref()];
        let norms = norms.into_iter().chain(more).flatten().map(Vec::len);
        let bias = self.qkv_bias.iter().map(Vec::len);
        linears + heads.chain(norms).chain(bias).sum::<usize>() * size_of::<f32>()
    }
}
