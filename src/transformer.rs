//! The transformer: weights on the device and the one walk through its layers.
//!
//! The walk is the same for every pass and every device. `decode` writes over a paged cache; `score` builds a graph
//! that can be differentiated. Families differ by data in [`ModelSpec`], devices by the form of their weights:
//! panels for the CPU's kernels, plain tensors elsewhere.

pub mod decode;
pub(crate) mod dense;
pub mod device;
pub mod full_weights;
mod heads;
pub mod load;
pub(crate) mod paging;
mod panels;
#[doc(hidden)]
pub mod probe;
pub mod rope;
pub mod score;

pub(crate) use panels::Panels;

use crate::formats::spec::Projection;
use crate::formats::{Error, Result, WeightReader, spec::ModelSpec};
use crate::kernels::Precision;
use crate::transformer::decode::PackedAdapter;
use crate::transformer::full_weights::CriticWeights;
use candle_core::Device;
use dense::Dense;
use std::fmt::Debug;
use std::sync::Arc;

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

    /// The sites it fuses, in the order of its columns.
    pub(crate) fn projections(self) -> &'static [Projection] {
        match self {
            Self::Qkv => &[Projection::QProj, Projection::KProj, Projection::VProj],
            Self::Output => &[Projection::OProj],
            Self::GateUp => &[Projection::GateProj, Projection::UpProj],
            Self::Down => &[Projection::DownProj],
        }
    }
}

/// How a device holds weights.
pub(crate) trait Form: Debug {
    /// A linear's weight, `(outputs, inputs)`.
    type Matrix: Clone + Debug;
    /// A norm's weight, or a bias.
    type Vector: Debug;

    /// Row-major matrices of `(outputs_i, inputs)`, one below the other.
    fn matrix(&self, parts: &[&[f32]], inputs: usize) -> Result<Self::Matrix>;
    /// A norm's weight, or a bias.
    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector>;
    /// Bytes that a matrix takes.
    fn bytes(matrix: &Self::Matrix) -> usize;
    /// Bytes of it that one decode pass reads.
    fn decode_bytes(matrix: &Self::Matrix) -> usize;
    /// Whether the score pass can read it.
    fn has_score(matrix: &Self::Matrix) -> bool;
    /// Floats that a vector holds.
    fn len(vector: &Self::Vector) -> usize;
}

/// One layer's frozen weights; what a family does not have is absent.
#[derive(Debug)]
pub(crate) struct Layer<F: Form> {
    pub(crate) attention_norm: F::Vector,
    pub(crate) qkv: F::Matrix,
    /// `(q + k + v widths)`.
    pub(crate) qkv_bias: Option<F::Vector>,
    pub(crate) qk_norms: Option<QkNorms<F>>,
    pub(crate) output: F::Matrix,
    pub(crate) attention_output_norm: Option<F::Vector>,
    pub(crate) mlp_norm: F::Vector,
    pub(crate) gate_up: F::Matrix,
    pub(crate) down: F::Matrix,
    pub(crate) mlp_output_norm: Option<F::Vector>,
}

/// Norms of one head of queries and of keys, `(head_dim)` each.
#[derive(Debug)]
pub(crate) struct QkNorms<F: Form> {
    pub(crate) q: F::Vector,
    pub(crate) k: F::Vector,
}

/// The frozen weights of a model: one copy, shared by engine and learner.
#[derive(Debug)]
pub struct Transformer(pub(crate) Placed);

/// Weights in the form of their device.
#[derive(Debug)]
pub(crate) enum Placed {
    /// The CPU's panels.
    Panels(Arc<Stack<Panels>>),
    /// Tensors on any device.
    Dense(Arc<Stack<Dense>>),
}

/// Weights in one form.
#[derive(Debug)]
pub(crate) struct Stack<F: Form> {
    spec: ModelSpec,
    form: F,
    embedding: F::Matrix,
    layers: Vec<Layer<F>>,
    norm: F::Vector,
    head: F::Matrix,
}

/// How a pass computes the pieces of a layer. Rows are the flattened tokens of all sequences; what is used up is
/// handed over.
pub(crate) trait Pass {
    /// The form of the weights that it computes with.
    type Form: Form;
    /// Activations, `(rows, width)`.
    type Rows;
    /// `x W^T` and whatever adapters add: `(rows, inputs)` to `(rows, outputs)`.
    fn linear(&mut self, layer: usize, linear: Linear, weight: &MatrixOf<Self>, x: Self::Rows) -> Result<Self::Rows>;
    /// The same row added to every row.
    fn bias(&mut self, x: Self::Rows, bias: &VectorOf<Self>) -> Result<Self::Rows>;
    /// RMSNorm over the last dimension.
    fn norm(&mut self, x: &Self::Rows, weight: &VectorOf<Self>) -> Result<Self::Rows>;
    /// Norms of the heads, rotary positions and attention: `(rows, q + k + v widths)` to `(rows, q width)`.
    fn attend(&mut self, layer: usize, norms: Option<&QkNorms<Self::Form>>, qkv: Self::Rows) -> Result<Self::Rows>;
    /// `activation(gate) * up`: `(rows, 2 intermediate)` to `(rows, intermediate)`.
    fn gated(&mut self, gate_up: Self::Rows) -> Result<Self::Rows>;
    /// The residual stream and what a block adds to it.
    fn add(&mut self, x: Self::Rows, h: Self::Rows) -> Result<Self::Rows>;
}

/// The matrices of a pass.
type MatrixOf<P> = <<P as Pass>::Form as Form>::Matrix;
/// The vectors of a pass.
type VectorOf<P> = <<P as Pass>::Form as Form>::Vector;

impl Transformer {
    /// Loads and packs every weight for the CPU: for a decode pass of `precision`, and for the score pass where `score`
    /// asks for it.
    ///
    /// # Errors
    /// Where a tensor is missing, unreadable or of another shape.
    pub fn load(spec: &ModelSpec, weights: &mut dyn WeightReader, precision: Precision, score: bool) -> Result<Self> {
        Ok(Self(Placed::Panels(Arc::new(Stack::load(spec, weights, Panels { precision, score })?))))
    }

    /// Loads every weight as a plain tensor, for both passes.
    ///
    /// # Errors
    /// As [`Transformer::load`], and where the device fails.
    pub(crate) fn dense(spec: &ModelSpec, weights: &mut dyn WeightReader, form: Dense) -> Result<Self> {
        let stack = Stack::load(spec, weights, form)?;
        // Another thread may compute with them, on a stream of its own.
        stack.form.device.synchronize()?;
        Ok(Self(Placed::Dense(Arc::new(stack))))
    }

    /// Its sizes.
    pub fn spec(&self) -> &ModelSpec {
        match &self.0 {
            Placed::Panels(stack) => &stack.spec,
            Placed::Dense(stack) => &stack.spec,
        }
    }

    /// Where its weights lie.
    pub fn device(&self) -> Device {
        match &self.0 {
            Placed::Panels(_) => Device::Cpu,
            Placed::Dense(stack) => stack.form.device.clone(),
        }
    }

    /// Bytes of weights it holds.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Placed::Panels(stack) => stack.bytes(),
            Placed::Dense(stack) => stack.bytes(),
        }
    }

    /// Bytes that one decode pass reads, whatever the number of its rows.
    pub fn decode_bytes(&self) -> usize {
        match &self.0 {
            Placed::Panels(stack) => stack.decode_bytes(),
            Placed::Dense(stack) => stack.decode_bytes(),
        }
    }

    /// How the decode pass keeps the weights.
    pub fn precision(&self) -> Precision {
        match &self.0 {
            Placed::Panels(stack) => stack.form.precision,
            Placed::Dense(stack) => stack.form.precision(),
        }
    }

    /// Whether the score pass can read it.
    pub fn has_score(&self) -> bool {
        match &self.0 {
            Placed::Panels(stack) => stack.has_score(),
            Placed::Dense(stack) => stack.has_score(),
        }
    }

    /// Lays `critic` out for the engine's pass over these weights, or over its own in their place and precision.
    ///
    /// # Errors
    /// Where the device fails, or is not the CPU and `critic` has weights of its own.
    pub fn pack(&self, critic: &CriticWeights) -> Result<PackedAdapter> {
        match (&self.0, critic) {
            (Placed::Panels(stack), CriticWeights::Adapter(adapter)) => Ok(PackedAdapter::new(adapter, &stack.spec)),
            (Placed::Panels(stack), CriticWeights::Full(whole)) => {
                Ok(PackedAdapter::of_weights(whole.for_decode(stack.form.precision)))
            }
            (Placed::Dense(stack), CriticWeights::Adapter(adapter)) => Ok(PackedAdapter::of_branches(
                dense::Branches::frozen(adapter, &stack.spec)?.to_device(&stack.form.device)?,
            )),
            (Placed::Dense(_), CriticWeights::Full(_)) => Err(Error::CpuOnly { device: device::name(&self.device()) }),
        }
    }
}

impl<F: Form> Stack<F> {
    fn load(spec: &ModelSpec, weights: &mut dyn WeightReader, form: F) -> Result<Self> {
        let hidden = spec.hidden;
        let embedding = form.matrix(&[&weights.get("model.embed_tokens.weight", &[spec.vocab, hidden])?], hidden)?;
        let head = match spec.tied {
            true => embedding.clone(),
            false => form.matrix(&[&weights.get("lm_head.weight", &[spec.vocab, hidden])?], hidden)?,
        };
        let layers = (0..spec.layers).map(|layer| Layer::load(layer, spec, weights, &form)).collect::<Result<_>>()?;
        let norm = form.vector(weights.get("model.norm.weight", &[hidden])?)?;
        Ok(Self { spec: spec.clone(), form, embedding, layers, norm, head })
    }

    /// Its sizes.
    pub(crate) fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// How its weights are held.
    pub(crate) fn form(&self) -> &F {
        &self.form
    }

    fn bytes(&self) -> usize {
        let layers = self.layers.iter().map(Layer::bytes).sum::<usize>();
        let head = if self.spec.tied { 0 } else { F::bytes(&self.head) };
        F::bytes(&self.embedding) + head + layers + F::len(&self.norm) * size_of::<f32>()
    }

    /// The weights of a layer.
    pub(crate) fn layer(&self, index: usize) -> &Layer<F> {
        &self.layers[index]
    }

    /// The norm before the head.
    pub(crate) fn norm(&self) -> &F::Vector {
        &self.norm
    }

    /// The output head, `(vocab, hidden)`.
    pub(crate) fn head(&self) -> &F::Matrix {
        &self.head
    }

    /// Bytes that one decode pass reads.
    fn decode_bytes(&self) -> usize {
        let linears = self.layers.iter().flat_map(|l| [&l.qkv, &l.output, &l.gate_up, &l.down]);
        linears.chain([&self.head]).map(F::decode_bytes).sum()
    }

    /// Whether the score pass can read it.
    pub(crate) fn has_score(&self) -> bool {
        F::has_score(&self.head)
    }

    /// The embeddings, `(vocab, hidden)`, once every one of `ids` is known to be in them.
    pub(crate) fn embedding_of(&self, ids: &[u32]) -> Result<&F::Matrix> {
        match ids.iter().find(|&&id| id as usize >= self.spec.vocab) {
            Some(&id) => Err(Error::TokenId { id, vocab: self.spec.vocab }),
            None => Ok(&self.embedding),
        }
    }

    /// The walk: embeddings `(rows, hidden)` to final hidden states `(rows, hidden)`, normalised.
    pub(crate) fn walk<P: Pass<Form = F>>(&self, x: P::Rows, pass: &mut P) -> Result<P::Rows> {
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

impl<F: Form> Layer<F> {
    fn load(layer: usize, spec: &ModelSpec, weights: &mut dyn WeightReader, form: &F) -> Result<Self> {
        let mut fused = |linear: Linear| -> Result<F::Matrix> {
            let mut parts = vec![];
            let mut inputs = 0;
            for &projection in linear.projections() {
                let (from, to) = projection.sizes(spec);
                inputs = from;
                let name = format!("model.layers.{layer}.{}.{}.weight", projection.module(), projection.name());
                parts.push(weights.get(&name, &[to, from])?);
            }
            let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
            form.matrix(&parts, inputs)
        };
        let (qkv, output) = (fused(Linear::Qkv)?, fused(Linear::Output)?);
        let (gate_up, down) = (fused(Linear::GateUp)?, fused(Linear::Down)?);
        let mut get = |name: &str, width| weights.get(&format!("model.layers.{layer}.{name}"), &[width]);
        let mut qkv_bias = None;
        if spec.block.qkv_bias {
            let mut row = vec![];
            for &projection in Linear::Qkv.projections() {
                row.extend(get(
                    &format!("{}.{}.bias", projection.module(), projection.name()),
                    projection.sizes(spec).1,
                )?);
            }
            qkv_bias = Some(form.vector(row)?);
        }
        let mut qk_norms = None;
        if spec.block.qk_norm {
            let mut head = |name: &str| form.vector(get(&format!("self_attn.{name}.weight"), spec.head_dim)?);
            qk_norms = Some(QkNorms { q: head("q_norm")?, k: head("k_norm")? });
        }
        let mut norm = |name: &str| form.vector(get(&format!("{name}.weight"), spec.hidden)?);
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
        let linears = [&self.qkv, &self.output, &self.gate_up, &self.down].map(F::bytes).iter().sum::<usize>();
        let heads = self.qk_norms.iter().flat_map(|norms| [&norms.q, &norms.k]);
        let sometimes = [&self.qkv_bias, &self.attention_output_norm, &self.mlp_output_norm].into_iter().flatten();
        let vectors = heads.chain(sometimes).chain([&self.attention_norm, &self.mlp_norm]);
        linears + vectors.map(F::len).sum::<usize>() * size_of::<f32>()
    }
}
