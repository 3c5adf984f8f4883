//! The blocks in which trained weights, their gradients and their moments are stored, and the tensors of each.
//!
//! Names and shapes are Hugging Face's. Knows no values.

use crate::formats::spec::{ModelSpec, Projection};
use crate::kernels::{pack_rows, packed_len, unpack_rows};
use crate::transformer::stack::Linear;

/// A piece of a model's weights that is stored contiguously.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ParamBlock {
    /// `(vocab, hidden)`; the head too if that is tied.
    Embedding,
    /// The linears of a layer that share their input.
    Linear(usize, Linear),
    /// A vector of a layer.
    Vector(usize, Vector),
    /// The norm before the head.
    Norm,
    /// `(vocab, hidden)`, if untied.
    Head,
}

/// A vector of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Vector {
    AttentionNorm,
    /// Of queries, keys and values, concatenated.
    QkvBias,
    QNorm,
    KNorm,
    AttentionOutputNorm,
    MlpNorm,
    MlpOutputNorm,
}

/// A tensor's name and shape.
pub(crate) type NamedShape = (String, Vec<usize>);

impl ParamBlock {
    /// The blocks of a model, in a fixed order.
    pub(crate) fn all(spec: &ModelSpec) -> Vec<Self> {
        let mut blocks = vec![Self::Embedding];
        let (block, names) = (&spec.layer_spec, spec.layer_spec.norm_names());
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
            let present = vectors.into_iter().filter(|(_, present)| *present);
            blocks.extend(present.map(|(vector, _)| Self::Vector(layer, vector)));
        }
        blocks.push(Self::Norm);
        blocks.extend((!spec.tied).then_some(Self::Head));
        blocks
    }

    /// The tensors in the block, in the order in which they are concatenated.
    pub(crate) fn tensors(self, spec: &ModelSpec) -> Vec<NamedShape> {
        let hidden = spec.hidden;
        match self {
            Self::Embedding => vec![("model.embed_tokens.weight".to_owned(), vec![spec.vocab, hidden])],
            Self::Norm => vec![("model.norm.weight".to_owned(), vec![hidden])],
            Self::Head => vec![("lm_head.weight".to_owned(), vec![spec.vocab, hidden])],
            Self::Linear(layer, linear) => {
                let tensor = |projection: &Projection| {
                    let (inputs, outputs) = projection.sizes(spec);
                    let name = format!("model.layers.{layer}.{}.{}.weight", projection.module(), projection.name());
                    (name, vec![outputs, inputs])
                };
                linear.projections().iter().map(tensor).collect()
            }
            Self::Vector(layer, vector) => vector.tensors(layer, spec),
        }
    }

    /// Whether the block is a matrix in panels.
    pub(crate) fn is_matrix(self) -> bool {
        matches!(self, Self::Embedding | Self::Linear(..) | Self::Head)
    }

    /// Number of floats in the block.
    pub(crate) fn len(self, spec: &ModelSpec) -> usize {
        let tensors = self.tensors(spec);
        let rows = tensors.iter().map(|(_, shape)| shape[0]).sum();
        if self.is_matrix() { packed_len(rows, tensors[0].1[1]) } else { rows }
    }

    /// Splits the block's `values` into its tensors, row-major.
    pub(crate) fn unpack(self, spec: &ModelSpec, values: &[f32]) -> Vec<(NamedShape, Vec<f32>)> {
        let mut first = 0;
        let tensor = |(name, shape): NamedShape| {
            let rows = first..first + shape[0];
            first = rows.end;
            let data = if self.is_matrix() { unpack_rows(values, shape[1], rows) } else { values[rows].to_vec() };
            ((name, shape), data)
        };
        self.tensors(spec).into_iter().map(tensor).collect()
    }

    /// The inverse of [`ParamBlock::unpack`]: `get` returns the tensor of a name and shape.
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
    fn tensors(self, layer: usize, spec: &ModelSpec) -> Vec<NamedShape> {
        let (hidden, names) = (spec.hidden, spec.layer_spec.norm_names());
        let one = |name: &str, width| vec![(format!("model.layers.{layer}.{name}"), vec![width])];
        let norm = |name: Option<&str>| name.map_or_else(Vec::new, |name| one(&format!("{name}.weight"), hidden));
        match self {
            Self::AttentionNorm => norm(names.attention),
            Self::AttentionOutputNorm => norm(names.attention_output),
            Self::MlpNorm => norm(names.mlp),
            Self::MlpOutputNorm => norm(names.mlp_output),
            Self::QNorm => one("self_attn.q_norm.weight", spec.head_dim),
            Self::KNorm => one("self_attn.k_norm.weight", spec.head_dim),
            Self::QkvBias => {
                let bias = |projection: &Projection| {
                    let name = format!("model.layers.{layer}.{}.{}.bias", projection.module(), projection.name());
                    (name, vec![projection.sizes(spec).1])
                };
                Linear::Qkv.projections().iter().map(bias).collect()
            }
        }
    }
}
