//! A model's weights in one layout, and the forward pass through its layers.
//!
//! The forward pass is the same for every pass and device: a [`Pass`] computes the pieces of a layer, a [`WeightLayout`]
//! says how a device stores weights. Families differ by data in [`ModelSpec`]. Knows neither kernels nor tensors.

use crate::formats::spec::Projection;
use crate::formats::{WeightReader, spec::ModelSpec};
use crate::kernels::Precision;
use crate::transformer::error::{Error, Result};
use candle_core::Device;
use std::fmt::Debug;

/// The linears of a layer, fused where they share their input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Every linear of a layer, in the order of the forward pass.
    pub(crate) const ALL: [Self; 4] = [Self::Qkv, Self::Output, Self::GateUp, Self::Down];

    /// The projections it fuses, in the order of its output columns.
    pub(crate) fn projections(self) -> &'static [Projection] {
        match self {
            Self::Qkv => &[Projection::QProj, Projection::KProj, Projection::VProj],
            Self::Output => &[Projection::OProj],
            Self::GateUp => &[Projection::GateProj, Projection::UpProj],
            Self::Down => &[Projection::DownProj],
        }
    }

    /// `(inputs, outputs)` of all of them as one.
    pub(super) fn sizes(self, spec: &ModelSpec) -> (usize, usize) {
        let of_each = self.projections().iter().map(|projection| projection.sizes(spec));
        of_each.fold((0, 0), |(_, outputs), (inputs, more)| (inputs, outputs + more))
    }
}

/// A tensor that makes up a matrix, or a part of one: its name and its `(outputs, inputs)`.
pub(crate) type Part = (String, [usize; 2]);

/// How a device stores weights.
pub(crate) trait WeightLayout: Debug + Send + Sync {
    /// A linear's weight, `(outputs, inputs)`.
    type Matrix: Clone + Debug + Send + Sync;
    /// A norm's weight, or a bias.
    type Vector: Debug + Send + Sync;

    /// The device of the weights.
    fn device(&self) -> Device;
    /// The type of the weights that the decode pass reads.
    fn precision(&self) -> Precision;
    /// Reads the tensors `parts`, concatenated along the outputs.
    fn matrix(&self, weights: &dyn WeightReader, parts: &[Part]) -> Result<Self::Matrix>;
    /// A norm's weight, or a bias.
    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector>;
    /// Bytes of a matrix.
    fn bytes(matrix: &Self::Matrix) -> usize;
    /// Bytes of a matrix that one decode pass reads.
    fn decode_bytes(matrix: &Self::Matrix) -> usize;
    /// Whether the score pass can read it.
    fn has_score(matrix: &Self::Matrix) -> bool;
    /// Number of floats in a vector.
    fn len(vector: &Self::Vector) -> usize;
}

/// One layer's frozen weights. A field is `None` where the family has no such weight.
#[derive(Debug)]
pub(crate) struct Layer<L: WeightLayout> {
    pub(crate) attention_norm: Option<L::Vector>,
    pub(crate) qkv: L::Matrix,
    /// `(q + k + v widths)`.
    pub(crate) qkv_bias: Option<L::Vector>,
    pub(crate) qk_norms: Option<QkNorms<L>>,
    pub(crate) output: L::Matrix,
    pub(crate) output_bias: Option<L::Vector>,
    pub(crate) attention_output_norm: Option<L::Vector>,
    pub(crate) mlp_norm: Option<L::Vector>,
    pub(crate) gate_up: L::Matrix,
    /// `(2 intermediate)`.
    pub(crate) gate_up_bias: Option<L::Vector>,
    pub(crate) down: L::Matrix,
    pub(crate) down_bias: Option<L::Vector>,
    pub(crate) mlp_output_norm: Option<L::Vector>,
}

/// Weights of the norms of queries and of keys: `(head_dim)` each for each head by itself, or of all heads at once.
#[derive(Debug)]
pub(crate) struct QkNorms<L: WeightLayout> {
    pub(crate) q: L::Vector,
    pub(crate) k: L::Vector,
}

/// All weights of a model in one layout.
#[derive(Debug)]
pub(crate) struct Stack<L: WeightLayout> {
    pub(super) spec: ModelSpec,
    pub(super) layout: L,
    pub(super) embedding: L::Matrix,
    pub(super) layers: Vec<Layer<L>>,
    pub(super) norm: L::Vector,
    pub(super) head: L::Matrix,
}

/// How a pass computes the pieces of a layer. Rows are the flattened tokens of all sequences. Arguments that are no
/// longer needed are passed by value.
pub(crate) trait Pass {
    /// The layout of the weights it reads.
    type Layout: WeightLayout;
    /// Activations, `(rows, width)`.
    type Rows;
    /// `x W^T` plus the adapters' terms: `(rows, inputs)` to `(rows, outputs)`.
    fn linear(&mut self, layer: usize, linear: Linear, weight: &MatrixOf<Self>, x: Self::Rows) -> Result<Self::Rows>;
    /// Adds `bias` to every row.
    fn bias(&mut self, x: Self::Rows, bias: &VectorOf<Self>) -> Result<Self::Rows>;
    /// RMSNorm over the last dimension.
    fn norm(&mut self, x: &Self::Rows, weight: &VectorOf<Self>) -> Result<Self::Rows>;
    /// Per-head norms, rotary positions and attention: `(rows, q + k + v widths)` to `(rows, q width)`.
    fn attend(&mut self, layer: usize, norms: Option<&QkNorms<Self::Layout>>, qkv: Self::Rows) -> Result<Self::Rows>;
    /// `activation(gate) * up`: `(rows, 2 intermediate)` to `(rows, intermediate)`.
    fn gated(&mut self, gate_up: Self::Rows) -> Result<Self::Rows>;
    /// The residual stream `x` plus the output `h` of a block, scaled as the family does.
    fn add(&mut self, x: Self::Rows, h: Self::Rows) -> Result<Self::Rows>;
    /// The input of a block that does not normalise it: a copy of the residual stream.
    fn copied(&mut self, x: &Self::Rows) -> Result<Self::Rows>;
}

/// A pass's matrices.
type MatrixOf<P> = <<P as Pass>::Layout as WeightLayout>::Matrix;
/// A pass's vectors.
type VectorOf<P> = <<P as Pass>::Layout as WeightLayout>::Vector;

impl<L: WeightLayout> Stack<L> {
    /// Reads every weight from `weights`, matrices by `matrix`.
    ///
    /// # Errors
    /// Where a tensor is missing, unreadable or of another shape, or the device fails.
    pub(super) fn load(
        spec: &ModelSpec,
        weights: &dyn WeightReader,
        layout: L,
        matrix: impl Fn(&L, &[Part]) -> Result<L::Matrix>,
    ) -> Result<Self> {
        let hidden = spec.hidden;
        let of_vocab = |name: &str| matrix(&layout, &[(name.to_owned(), [spec.vocab, hidden])]);
        let embedding = of_vocab("model.embed_tokens.weight")?;
        let head = match spec.tied {
            true => embedding.clone(),
            false => of_vocab("lm_head.weight")?,
        };
        let layers =
            (0..spec.layers).map(|layer| Layer::load(layer, spec, weights, &layout, &matrix)).collect::<Result<_>>()?;
        let norm = layout.vector(weights.get("model.norm.weight", &[hidden])?)?;
        Ok(Self { spec: spec.clone(), layout, embedding, layers, norm, head })
    }

    /// The model's sizes.
    pub(crate) fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// How its weights are stored.
    pub(crate) fn layout(&self) -> &L {
        &self.layout
    }

    /// Bytes of all weights.
    pub(super) fn bytes(&self) -> usize {
        let layers = self.layers.iter().map(Layer::bytes).sum::<usize>();
        let head = if self.spec.tied { 0 } else { L::bytes(&self.head) };
        L::bytes(&self.embedding) + head + layers + L::len(&self.norm) * size_of::<f32>()
    }

    /// Weights of layer `index`.
    pub(crate) fn layer(&self, index: usize) -> &Layer<L> {
        &self.layers[index]
    }

    /// The norm before the head.
    pub(crate) fn norm(&self) -> &L::Vector {
        &self.norm
    }

    /// The output head, `(vocab, hidden)`.
    pub(crate) fn head(&self) -> &L::Matrix {
        &self.head
    }

    /// Bytes that one decode pass reads, whatever the number of its rows.
    pub(super) fn decode_bytes(&self) -> usize {
        let linears = self.layers.iter().flat_map(|l| [&l.qkv, &l.output, &l.gate_up, &l.down]);
        linears.chain([&self.head]).map(L::decode_bytes).sum()
    }

    /// Whether the score pass can read it.
    pub(crate) fn has_score(&self) -> bool {
        L::has_score(&self.head)
    }

    /// The embeddings, `(vocab, hidden)`.
    ///
    /// # Errors
    /// Where one of `ids` is outside the vocabulary.
    pub(crate) fn embedding_of(&self, ids: &[u32]) -> Result<&L::Matrix> {
        match ids.iter().find(|&&id| id as usize >= self.spec.vocab) {
            Some(&id) => Err(Error::TokenId { id, vocab: self.spec.vocab }),
            None => Ok(&self.embedding),
        }
    }

    /// Embeddings `(rows, hidden)` to the final hidden states `(rows, hidden)`, normalised.
    pub(crate) fn forward<P: Pass<Layout = L>>(&self, x: P::Rows, pass: &mut P) -> Result<P::Rows> {
        let x = (0..self.layers.len()).try_fold(x, |x, index| self.layer_forward(index, x, pass))?;
        pass.norm(&x, &self.norm)
    }

    /// The residual stream before layer `index` to that behind it, `(rows, hidden)`.
    pub(crate) fn layer_forward<P: Pass<Layout = L>>(&self, index: usize, x: P::Rows, pass: &mut P) -> Result<P::Rows> {
        let layer = &self.layers[index];
        let h = input(pass, &x, layer.attention_norm.as_ref())?;
        let mut qkv = pass.linear(index, Linear::Qkv, &layer.qkv, h)?;
        if let Some(bias) = &layer.qkv_bias {
            qkv = pass.bias(qkv, bias)?; // (rows, q + k + v widths)
        }
        let h = pass.attend(index, layer.qk_norms.as_ref(), qkv)?;
        let mut h = pass.linear(index, Linear::Output, &layer.output, h)?;
        if let Some(bias) = &layer.output_bias {
            h = pass.bias(h, bias)?;
        }
        if let Some(norm) = &layer.attention_output_norm {
            h = pass.norm(&h, norm)?;
        }
        let x = pass.add(x, h)?; // (rows, hidden)
        let h = input(pass, &x, layer.mlp_norm.as_ref())?;
        let mut gate_up = pass.linear(index, Linear::GateUp, &layer.gate_up, h)?;
        if let Some(bias) = &layer.gate_up_bias {
            gate_up = pass.bias(gate_up, bias)?; // (rows, 2 intermediate)
        }
        let h = pass.gated(gate_up)?;
        let mut h = pass.linear(index, Linear::Down, &layer.down, h)?;
        if let Some(bias) = &layer.down_bias {
            h = pass.bias(h, bias)?;
        }
        if let Some(norm) = &layer.mlp_output_norm {
            h = pass.norm(&h, norm)?;
        }
        pass.add(x, h) // (rows, hidden)
    }
}

/// The input of a block: the residual stream `x`, normalised where the family does that.
fn input<P: Pass>(pass: &mut P, x: &P::Rows, norm: Option<&VectorOf<P>>) -> Result<P::Rows> {
    match norm {
        Some(norm) => pass.norm(x, norm),
        None => pass.copied(x),
    }
}

impl<L: WeightLayout> Layer<L> {
    fn load(
        layer: usize,
        spec: &ModelSpec,
        weights: &dyn WeightReader,
        layout: &L,
        matrix: &impl Fn(&L, &[Part]) -> Result<L::Matrix>,
    ) -> Result<Self> {
        let fused = |linear: Linear| -> Result<L::Matrix> {
            let part = |projection: &Projection| -> Part {
                let (inputs, outputs) = projection.sizes(spec);
                let name = format!("model.layers.{layer}.{}.{}.weight", projection.module(), projection.name());
                (name, [outputs, inputs])
            };
            matrix(layout, &linear.projections().iter().map(part).collect::<Vec<_>>())
        };
        let (qkv, output) = (fused(Linear::Qkv)?, fused(Linear::Output)?);
        let (gate_up, down) = (fused(Linear::GateUp)?, fused(Linear::Down)?);
        let get = |name: &str, width| weights.get(&format!("model.layers.{layer}.{name}"), &[width]);
        let bias = |linear: Linear| -> Result<Option<L::Vector>> {
            if !linear.projections().iter().all(|&projection| spec.layer_spec.has_bias(projection)) {
                return Ok(None);
            }
            let mut row = vec![];
            for &projection in linear.projections() {
                let name = format!("{}.{}.bias", projection.module(), projection.name());
                row.extend(get(&name, projection.sizes(spec).1)?);
            }
            layout.vector(row).map(Some)
        };
        let (qkv_bias, output_bias) = (bias(Linear::Qkv)?, bias(Linear::Output)?);
        let (gate_up_bias, down_bias) = (bias(Linear::GateUp)?, bias(Linear::Down)?);
        let mut qk_norms = None;
        if spec.layer_spec.qk_norm {
            let vector = |name: &str, width| layout.vector(get(&format!("self_attn.{name}.weight"), width)?);
            let [q, k] = spec.qk_norm_widths();
            qk_norms = Some(QkNorms { q: vector("q_norm", q)?, k: vector("k_norm", k)? });
        }
        let norm = |name: Option<&str>| -> Result<Option<L::Vector>> {
            let Some(name) = name else { return Ok(None) };
            layout.vector(get(&format!("{name}.weight"), spec.hidden)?).map(Some)
        };
        let names = spec.layer_spec.norm_names();
        Ok(Self {
            attention_norm: norm(names.attention)?,
            qkv,
            qkv_bias,
            qk_norms,
            output,
            output_bias,
            attention_output_norm: norm(names.attention_output)?,
            mlp_norm: norm(names.mlp)?,
            gate_up,
            gate_up_bias,
            down,
            down_bias,
            mlp_output_norm: norm(names.mlp_output)?,
        })
    }

    fn bytes(&self) -> usize {
        let linears = [&self.qkv, &self.output, &self.gate_up, &self.down].map(L::bytes).iter().sum::<usize>();
        let heads = self.qk_norms.iter().flat_map(|norms| [&norms.q, &norms.k]);
        let norms = [&self.attention_norm, &self.attention_output_norm, &self.mlp_norm, &self.mlp_output_norm];
        let biases = [&self.qkv_bias, &self.output_bias, &self.gate_up_bias, &self.down_bias];
        let vectors = heads.chain(norms.into_iter().chain(biases).flatten());
        linears + vectors.map(L::len).sum::<usize>() * size_of::<f32>()
    }
}
