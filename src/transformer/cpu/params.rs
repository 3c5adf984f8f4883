//! Weights in panels as parameters: copied, read and changed block by block, and packed for the decode pass.

use super::panels::Panels;
use crate::kernels::{PassPrecisions, Precision, Weight};
use crate::transformer::full_weights::{ParamBlock, Vector};
use crate::transformer::stack::{Layer, Linear, QkNorms, Stack};
use std::sync::Arc;

impl Layer<Panels> {
    fn map(&self, matrix: &impl Fn(&Weight) -> Weight) -> Self {
        let of = |weight: &Arc<Weight>| Arc::new(matrix(weight));
        let norms = self.qk_norms.as_ref();
        Self {
            attention_norm: self.attention_norm.clone(),
            qkv: of(&self.qkv),
            qkv_bias: self.qkv_bias.clone(),
            qk_norms: norms.map(|norms| QkNorms { q: norms.q.clone(), k: norms.k.clone() }),
            output: of(&self.output),
            output_bias: self.output_bias.clone(),
            gate_up_bias: self.gate_up_bias.clone(),
            down_bias: self.down_bias.clone(),
            attention_output_norm: self.attention_output_norm.clone(),
            mlp_norm: self.mlp_norm.clone(),
            gate_up: of(&self.gate_up),
            down: of(&self.down),
            mlp_output_norm: self.mlp_output_norm.clone(),
        }
    }

    fn matrix_mut(&mut self, linear: Linear) -> &mut Arc<Weight> {
        match linear {
            Linear::Qkv => &mut self.qkv,
            Linear::Output => &mut self.output,
            Linear::GateUp => &mut self.gate_up,
            Linear::Down => &mut self.down,
        }
    }

    fn vector(&self, vector: Vector) -> Option<&Vec<f32>> {
        let norms = self.qk_norms.as_ref();
        match vector {
            Vector::AttentionNorm => self.attention_norm.as_ref(),
            Vector::QkvBias => self.qkv_bias.as_ref(),
            Vector::QNorm => norms.map(|norms| &norms.q),
            Vector::KNorm => norms.map(|norms| &norms.k),
            Vector::AttentionOutputNorm => self.attention_output_norm.as_ref(),
            Vector::MlpNorm => self.mlp_norm.as_ref(),
            Vector::MlpOutputNorm => self.mlp_output_norm.as_ref(),
        }
    }

    fn vector_mut(&mut self, vector: Vector) -> Option<&mut Vec<f32>> {
        match vector {
            Vector::AttentionNorm => self.attention_norm.as_mut(),
            Vector::QkvBias => self.qkv_bias.as_mut(),
            Vector::QNorm => self.qk_norms.as_mut().map(|norms| &mut norms.q),
            Vector::KNorm => self.qk_norms.as_mut().map(|norms| &mut norms.k),
            Vector::AttentionOutputNorm => self.attention_output_norm.as_mut(),
            Vector::MlpNorm => self.mlp_norm.as_mut(),
            Vector::MlpOutputNorm => self.mlp_output_norm.as_mut(),
        }
    }
}

impl Stack<Panels> {
    /// A copy in f32, for both passes.
    ///
    /// # Panics
    /// Where the weights were loaded for the decode pass alone.
    pub(crate) fn copied(&self) -> Self {
        self.map(Panels { precisions: PassPrecisions::F32 }, &Weight::copied)
    }

    /// The same weights, packed for a decode pass of `precision` and for that pass alone.
    ///
    /// # Panics
    /// As [`Stack::copied`].
    pub(crate) fn for_decode(&self, precision: Precision) -> Self {
        self.map(Panels { precisions: PassPrecisions::decode_only(precision) }, &|weight| weight.for_decode(precision))
    }

    fn map(&self, layout: Panels, matrix: &impl Fn(&Weight) -> Weight) -> Self {
        let embedding = Arc::new(matrix(&self.embedding));
        let head = if self.spec.tied { embedding.clone() } else { Arc::new(matrix(&self.head)) };
        let layers = self.layers.iter().map(|layer| layer.map(matrix)).collect();
        Self { spec: self.spec.clone(), layout, embedding, layers, norm: self.norm.clone(), head }
    }

    /// The f32 values of `block`, as they are stored.
    ///
    /// # Panics
    /// Where the model has no such block, or was loaded for the decode pass alone.
    pub(crate) fn block(&self, block: ParamBlock) -> &[f32] {
        match block {
            ParamBlock::Embedding => self.embedding.in_f32().values(),
            ParamBlock::Head => self.head.in_f32().values(),
            ParamBlock::Norm => &self.norm,
            ParamBlock::Linear(layer, linear) => {
                let layer = &self.layers[layer];
                let weight = match linear {
                    Linear::Qkv => &layer.qkv,
                    Linear::Output => &layer.output,
                    Linear::GateUp => &layer.gate_up,
                    Linear::Down => &layer.down,
                };
                weight.in_f32().values()
            }
            ParamBlock::Vector(layer, vector) => {
                self.layers[layer].vector(vector).expect("the family has such a vector")
            }
        }
    }

    /// Calls `change` with the f32 values of each block, as they are stored, in the order of [`ParamBlock::all`].
    ///
    /// # Panics
    /// Where a weight is shared, or was loaded for the decode pass alone.
    pub(crate) fn for_each_block_mut(&mut self, mut change: impl FnMut(ParamBlock, &mut [f32])) {
        fn values(weight: &mut Arc<Weight>) -> &mut [f32] {
            Arc::get_mut(weight).expect("weights that are trained are not shared").in_f32_mut().values_mut()
        }
        if self.spec.tied {
            // The head shares the embedding, which must be unshared while it changes.
            self.head = Arc::new(Weight::empty());
        }
        for block in ParamBlock::all(&self.spec) {
            match block {
                ParamBlock::Embedding => change(block, values(&mut self.embedding)),
                ParamBlock::Head => change(block, values(&mut self.head)),
                ParamBlock::Norm => change(block, &mut self.norm),
                ParamBlock::Linear(layer, linear) => change(block, values(self.layers[layer].matrix_mut(linear))),
                ParamBlock::Vector(layer, vector) => {
                    change(block, self.layers[layer].vector_mut(vector).expect("the family has such a vector"));
                }
            }
        }
        if self.spec.tied {
            self.head = self.embedding.clone();
        }
    }
}
