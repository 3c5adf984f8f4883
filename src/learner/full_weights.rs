//! Full fine-tuning: the critic has its own copy of every weight. The base stays generator, judge and reference.
//!
//! Weights, gradients and moments are each stored once, in the panel layout that the score pass reads. Weight decay
//! applies to matrices only, not to norms and biases, as in Hugging Face's trainer. Knows no group and no loss.

use super::config::LearnerConfig;
use super::error::Error;
use super::optimizer::{self, Adam};
use super::state::HostTensor;
use crate::transformer::Transformer;
use crate::transformer::full_weights::{FullWeights, ParamBlock};
use crate::transformer::{
    score, score::ActivationPolicy, score::Arena, score::FullGradients, score::Packed, score::ScoreBatch, score::Scored,
};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Values that one thread handles at a time.
const CHUNK: usize = 1 << 16;

/// Every weight of a critic, with its gradient and moments.
pub(super) struct Full {
    whole: FullWeights,
    gradients: FullGradients,
    /// Whether a gradient has been accumulated. Zeroing the buffer is costly, so an empty one is left alone.
    gathered: bool,
    /// First and second moment of each block, in the layout of the weights.
    moments: BTreeMap<ParamBlock, [Vec<f32>; 2]>,
}

impl Full {
    /// A critic that starts as a copy of `model`.
    pub(super) fn of(model: &Transformer) -> Result<Self, Error> {
        Ok(Self::new(FullWeights::copy_of(model)?))
    }

    /// Floats that are trained.
    pub(super) fn floats(&self) -> usize {
        self.moments.values().map(|[first, _]| first.len()).sum()
    }

    /// Continues training `whole`; `model` is the base.
    pub(super) fn resumed(model: &Transformer, whole: Arc<FullWeights>) -> Result<Self, Error> {
        if !model.device().is_cpu() {
            return Self::of(model);
        }
        if whole.spec().tensors() != model.spec().tensors() {
            return Err(Error::OtherModel);
        }
        // Takes the weights over if nobody else holds them, else copies them.
        Ok(Self::new(Arc::try_unwrap(whole).unwrap_or_else(|whole| whole.copied())))
    }

    fn new(whole: FullWeights) -> Self {
        let spec = whole.spec();
        let moments = |block: ParamBlock| (block, [vec![0.0; block.len(spec)], vec![0.0; block.len(spec)]]);
        let moments = ParamBlock::all(spec).into_iter().map(moments).collect();
        Self { gradients: FullGradients::zeros(spec), gathered: false, moments, whole }
    }

    pub(super) fn score(&self, batch: ScoreBatch<'_>, arena: &mut Arena) -> Result<Scored, crate::transformer::Error> {
        score::score_in(&self.whole.transformer(), batch, None, arena)
    }

    pub(super) fn learn(
        &mut self,
        batch: ScoreBatch<'_>,
        policy: ActivationPolicy,
        arena: &mut Arena,
        loss_weights: impl FnOnce(&Scored) -> Vec<f32>,
    ) -> Result<(), Error> {
        let model = self.whole.transformer();
        let recorded = score::record_full_in(&model, batch, policy, arena)?;
        let weights = loss_weights(&recorded.scored);
        self.gathered = true;
        Ok(recorded.backward_full_in(&weights, &mut self.gradients, arena)?)
    }

    pub(super) fn discard(&mut self) {
        if std::mem::take(&mut self.gathered) {
            self.gradients.zero();
        }
    }

    pub(super) fn gradient_norm(&self) -> f32 {
        let square = |chunk: &[f32]| chunk.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
        // Summed in the order of the weights, so that the result does not depend on the threads.
        let of_block = |block: &[f32]| block.par_chunks(CHUNK).map(square).collect::<Vec<f64>>();
        self.gradients.blocks().flat_map(of_block).sum::<f64>().sqrt() as f32
    }

    pub(super) fn update(&mut self, config: &LearnerConfig, step: u64, norm: f32) {
        let (clip, adam) = (optimizer::clip(config, norm), Adam::of(config, optimizer::learning_rate(config, step)));
        self.gathered = false;
        let Self { whole, gradients, moments, .. } = self;
        whole.for_each_block_mut(|block, values| {
            let [first, second] = moments.get_mut(&block).expect("moments for every block");
            let decay = if block.is_matrix() { config.weight_decay } else { 0.0 };
            let chunks = values.par_chunks_mut(CHUNK).zip(gradients.block_mut(block).par_chunks_mut(CHUNK));
            let moments = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
            chunks.zip(moments).for_each(|((values, gradient), (first, second))| {
                adam.step(step, [values, gradient, first, second], decay, clip);
            });
        });
    }

    pub(super) fn copied(&self) -> FullWeights {
        self.whole.copied()
    }

    /// The moments (row-major), named after their tensors with the suffix `.m` or `.v`.
    pub(super) fn moments(&self) -> Vec<(String, HostTensor)> {
        let spec = self.whole.spec();
        let of_block = |(block, moments): (&ParamBlock, &[Vec<f32>; 2])| {
            let named = |(suffix, values): (&str, &Vec<f32>)| {
                let tensor = |((name, shape), data)| (format!("{name}.{suffix}"), HostTensor { shape, data });
                block.unpack(spec, values).into_iter().map(tensor).collect::<Vec<_>>()
            };
            ["m", "v"].into_iter().zip(moments).flat_map(named).collect::<Vec<_>>()
        };
        self.moments.iter().flat_map(of_block).collect()
    }

    pub(super) fn restore(&mut self, take: &mut impl FnMut(&str) -> Option<HostTensor>) -> Result<(), Error> {
        for (block, moments) in &mut self.moments {
            for (suffix, moment) in ["m", "v"].into_iter().zip(moments) {
                *moment = block.pack(self.whole.spec(), |name, shape| {
                    let name = format!("{name}.{suffix}");
                    let saved = take(&name).filter(|saved| saved.data.len() == shape.iter().product::<usize>());
                    saved.map(|saved| saved.data).ok_or(Error::MissingTensor { name })
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn parameters(&self) -> usize {
        self.whole.spec().parameters()
    }

    /// Fails if any weight receives no gradient from the loss.
    pub(super) fn self_test(
        &mut self,
        packed: &[Packed<'_>],
        temperature: f32,
        policy: ActivationPolicy,
    ) -> Result<(), Error> {
        let model = self.whole.transformer();
        let recorded = score::record_full(&model, ScoreBatch { packed, temperature }, policy)?;
        let weights = vec![1.0; recorded.scored.log_probs.len()];
        self.gathered = true;
        recorded.backward_full(&weights, &mut self.gradients)?;
        let cut_off = self.gradients.tensors(self.whole.spec()).find(|(_, _, gradient)| {
            gradient.iter().all(|slope| *slope == 0.0) || gradient.iter().any(|slope| !slope.is_finite())
        });
        self.discard();
        cut_off.map_or(Ok(()), |(name, _, _)| Err(Error::NoGradient { name }))
    }
}
