//! A critic of its own weights: every tensor of a model, where an adapter has factors beside it.
//!
//! Values lie once, in f32, in the panels that the score pass reads; whatever goes along with them (gradients, moments)
//! lies likewise, slot by slot. A slot is what lies in one piece: a linear of several fused ones, or a vector. Names and
//! shapes are Hugging Face's, values those that are computed with: a norm's weight is the factor it is.

use super::device;
use super::{Linear, Panels, Placed, Stack, Transformer};
use crate::formats::adapter::Adapter;
use crate::formats::spec::ModelSpec;
use crate::formats::{Error, Result, WeightReader, safetensors};
use crate::kernels::{Precision, pack_rows, packed_len, unpack_rows};
use std::path::Path;
use std::sync::Arc;

mod file;

pub(crate) use file::write_f32;
pub use file::{WEIGHTS_FILE, write};

/// What lies in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ParamBlock {
    /// `(vocab, hidden)`; the head as well where that is tied.
    Embedding,
    /// The linears of a layer that share their input.
    Linear(usize, Linear),
    /// A vector of a layer.
    Vector(usize, Vector),
    /// The norm before the head.
    Norm,
    /// `(vocab, hidden)`, where it is not the embedding.
    Head,
}

/// A vector of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Vector {
    AttentionNorm,
    /// Of queries, keys and values, one behind the other.
    QkvBias,
    QNorm,
    KNorm,
    AttentionOutputNorm,
    MlpNorm,
    MlpOutputNorm,
}

/// A tensor's name and sizes.
pub(crate) type Named = (String, Vec<usize>);

impl ParamBlock {
    /// The slots of a model, in a fixed order.
    pub(crate) fn all(spec: &ModelSpec) -> Vec<Self> {
        let mut blocks = vec![Self::Embedding];
        let (block, names) = (&spec.block, spec.block.norm_names());
        for layer in 0..spec.layers {
            blocks.extend(Linear::ALL.map(|linear| Self::Linear(layer, linear)));
            let vectors = [
                (Vector::AttentionNorm, true),
                (Vector::QkvBias, block.qkv_bias),
                (Vector::QNorm, block.qk_norm),
                (Vector::KNorm, block.qk_norm),
                (Vector::AttentionOutputNorm, names.attention_output.is_some()),
                (Vector::MlpNorm, true),
                (Vector::MlpOutputNorm, names.mlp_output.is_some()),
            ];
            let there = vectors.into_iter().filter(|(_, there)| *there);
            blocks.extend(there.map(|(vector, _)| Self::Vector(layer, vector)));
        }
        blocks.push(Self::Norm);
        blocks.extend((!spec.tied).then_some(Self::Head));
        blocks
    }

    /// The tensors that lie in it, one below or behind the other.
    pub(crate) fn tensors(self, spec: &ModelSpec) -> Vec<Named> {
        let hidden = spec.hidden;
        match self {
            Self::Embedding => vec![("model.embed_tokens.weight".to_owned(), vec![spec.vocab, hidden])],
            Self::Norm => vec![("model.norm.weight".to_owned(), vec![hidden])],
            Self::Head => vec![("lm_head.weight".to_owned(), vec![spec.vocab, hidden])],
            Self::Linear(layer, linear) => {
                let tensor = |projection: &crate::formats::spec::Projection| {
                    let (inputs, outputs) = projection.sizes(spec);
                    let name = format!("model.layers.{layer}.{}.{}.weight", projection.module(), projection.name());
                    (name, vec![outputs, inputs])
                };
                linear.projections().iter().map(tensor).collect()
            }
            Self::Vector(layer, vector) => vector.tensors(layer, spec),
        }
    }

    /// Whether it is a matrix in panels.
    pub(crate) fn is_matrix(self) -> bool {
        matches!(self, Self::Embedding | Self::Linear(..) | Self::Head)
    }

    /// Floats that it takes.
    pub(crate) fn len(self, spec: &ModelSpec) -> usize {
        let tensors = self.tensors(spec);
        let rows = tensors.iter().map(|(_, shape)| shape[0]).sum();
        if self.is_matrix() { packed_len(rows, tensors[0].1[1]) } else { rows }
    }

    /// What lies in `values`, tensor by tensor, row-major.
    pub(crate) fn unpack(self, spec: &ModelSpec, values: &[f32]) -> Vec<(Named, Vec<f32>)> {
        let mut first = 0;
        let tensor = |(name, shape): Named| {
            let rows = first..first + shape[0];
            first = rows.end;
            let data = if self.is_matrix() { unpack_rows(values, shape[1], rows) } else { values[rows].to_vec() };
            ((name, shape), data)
        };
        self.tensors(spec).into_iter().map(tensor).collect()
    }

    /// Back from [`ParamBlock::unpack`]: `get` gives a tensor of that name and shape.
    pub(crate) fn pack<E>(
        self,
        spec: &ModelSpec,
        mut get: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<Vec<f32>, E> {
        let (mut values, mut first) = (vec![0.0; self.len(spec)], 0);
        for (name, shape) in self.tensors(spec) {
            let data = get(&name, &shape)?;
            if self.is_matrix() {
                pack_rows(&data, shape[1], first, &mut values);
            } else {
                values[first..first + shape[0]].copy_from_slice(&data);
            }
            first += shape[0];
        }
        Ok(values)
    }
}

impl Vector {
    fn tensors(self, layer: usize, spec: &ModelSpec) -> Vec<Named> {
        let (hidden, names) = (spec.hidden, spec.block.norm_names());
        let one = |name: &str, width| vec![(format!("model.layers.{layer}.{name}"), vec![width])];
        let norm = |name: Option<&str>| name.map_or_else(Vec::new, |name| one(&format!("{name}.weight"), hidden));
        match self {
            Self::AttentionNorm => norm(Some(names.attention)),
            Self::AttentionOutputNorm => norm(names.attention_output),
            Self::MlpNorm => norm(Some(names.mlp)),
            Self::MlpOutputNorm => norm(names.mlp_output),
            Self::QNorm => one("self_attn.q_norm.weight", spec.head_dim),
            Self::KNorm => one("self_attn.k_norm.weight", spec.head_dim),
            Self::QkvBias => {
                let bias = |projection: &crate::formats::spec::Projection| {
                    let name = format!("model.layers.{layer}.{}.{}.bias", projection.module(), projection.name());
                    (name, vec![projection.sizes(spec).1])
                };
                Linear::Qkv.projections().iter().map(bias).collect()
            }
        }
    }
}

/// A weight set of its own, in f32.
#[derive(Debug)]
pub struct FullWeights(Transformer);

impl FullWeights {
    /// A copy of the weights of `model`.
    ///
    /// # Errors
    /// Where they do not lie on the CPU, or were loaded for the decode pass alone.
    pub fn copy_of(model: &Transformer) -> Result<Self> {
        match &model.0 {
            Placed::Dense(_) => Err(Error::CpuOnly { device: device::name(&model.device()) }),
            Placed::Panels(_) if !model.has_score() => Err(Error::DecodeOnly),
            Placed::Panels(stack) => Ok(Self::of(stack.copied())),
        }
    }

    /// The weights that `weights` holds for a model of `spec`.
    ///
    /// # Errors
    /// Where one is missing or of another shape.
    pub fn from_weights(spec: &ModelSpec, weights: &mut dyn WeightReader) -> Result<Self> {
        Ok(Self(Transformer::load(spec, weights, Precision::F32, true)?))
    }

    /// Reads the file [`WEIGHTS_FILE`] in the folder `dir`, checked against `spec`.
    ///
    /// # Errors
    /// Where it is unreadable, lacks a tensor of the model, or has one of another shape or type.
    pub fn load(dir: &Path, spec: &ModelSpec) -> Result<Self> {
        Self::from_weights(spec, safetensors::file(&dir.join(WEIGHTS_FILE))?.as_mut())
    }

    fn of(stack: Stack<Panels>) -> Self {
        Self(Transformer(Placed::Panels(Arc::new(stack))))
    }

    /// The weights as a model.
    pub fn transformer(&self) -> &Transformer {
        &self.0
    }

    /// Its sizes.
    pub fn spec(&self) -> &ModelSpec {
        self.0.spec()
    }

    /// Another copy.
    pub fn copied(&self) -> Self {
        Self::of(self.stack().copied())
    }

    fn stack(&self) -> &Arc<Stack<Panels>> {
        match &self.0.0 {
            Placed::Panels(stack) => stack,
            Placed::Dense(_) => unreachable!("made of panels alone"),
        }
    }

    /// The same weights for a decode pass of `precision`: shared where that is f32, else packed anew.
    pub(crate) fn for_decode(&self, precision: Precision) -> Arc<Stack<Panels>> {
        match precision {
            Precision::F32 => self.stack().clone(),
            narrow => Arc::new(self.stack().for_decode(narrow)),
        }
    }

    /// Values of a slot, as they lie.
    pub(crate) fn block(&self, block: ParamBlock) -> &[f32] {
        self.stack().block(block)
    }

    /// Calls `change` with the values of each slot.
    ///
    /// # Panics
    /// Where somebody else holds the weights.
    pub(crate) fn for_each_block_mut(&mut self, change: impl FnMut(ParamBlock, &mut [f32])) {
        let Placed::Panels(stack) = &mut self.0.0 else { unreachable!("made of panels alone") };
        Arc::get_mut(stack).expect("whoever trains weights is alone with them").for_each_block_mut(change);
    }

    /// The tensor `name`, row-major; none where the model has none of that name.
    pub fn tensor(&self, name: &str) -> Option<Vec<f32>> {
        let spec = self.spec();
        let holds = |block: &ParamBlock| block.tensors(spec).iter().any(|(own, _)| own == name);
        let block = ParamBlock::all(spec).into_iter().find(holds)?;
        block.unpack(spec, self.block(block)).into_iter().find(|((own, _), _)| own == name).map(|(_, data)| data)
    }
}

impl PartialEq for FullWeights {
    fn eq(&self, other: &Self) -> bool {
        let blocks = || ParamBlock::all(self.spec()).into_iter();
        self.spec() == other.spec() && blocks().all(|block| self.block(block) == other.block(block))
    }
}

/// What was trained: an adapter beside the base's weights, or weights of their own. Immutable, on the host; clones
/// share it.
#[derive(Clone, Debug, PartialEq)]
pub enum CriticWeights {
    /// Low-rank factors.
    Adapter(Arc<Adapter>),
    /// Every weight.
    Full(Arc<FullWeights>),
}

impl CriticWeights {
    /// Reads a PEFT folder, or a checkpoint's folder of all weights, checked against `spec`.
    ///
    /// # Errors
    /// As [`Adapter::load`] and [`FullWeights::load`].
    pub fn load(dir: &Path, spec: &ModelSpec) -> Result<Self> {
        if dir.join(WEIGHTS_FILE).is_file() {
            return Ok(Self::Full(Arc::new(FullWeights::load(dir, spec)?)));
        }
        Ok(Self::Adapter(Arc::new(Adapter::load(dir, spec)?)))
    }

    /// The adapter, where it is one.
    pub fn adapter(&self) -> Option<&Adapter> {
        match self {
            Self::Adapter(adapter) => Some(adapter),
            Self::Full(_) => None,
        }
    }

    /// The weight set, where it is one.
    pub fn full(&self) -> Option<&FullWeights> {
        match self {
            Self::Full(whole) => Some(whole),
            Self::Adapter(_) => None,
        }
    }

    /// Whether both are the same piece of memory.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Adapter(one), Self::Adapter(two)) => Arc::ptr_eq(one, two),
            (Self::Full(one), Self::Full(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }
}

impl From<Adapter> for CriticWeights {
    fn from(adapter: Adapter) -> Self {
        Self::Adapter(Arc::new(adapter))
    }
}

impl From<FullWeights> for CriticWeights {
    fn from(whole: FullWeights) -> Self {
        Self::Full(Arc::new(whole))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
