//! AdamW (arXiv 1711.05101) in f32 over named parameters, with clipping by the global norm, linear warm-up and a
//! schedule. The moments are accessible, so that they can be saved. Knows no loss.

use super::config::LearnerConfig;
use super::error::Error;
use super::state::HostTensor;
use rayon::prelude::*;

/// One trainable tensor with its gradient and moments.
#[derive(Clone, Debug)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) shape: [usize; 2],
    pub(super) values: Vec<f32>,
    gradient: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Parameter {
    pub(super) fn new(name: String, shape: [usize; 2], values: Vec<f32>) -> Self {
        let zeros = vec![0.0; values.len()];
        Self { name, shape, values, gradient: zeros.clone(), first: zeros.clone(), second: zeros }
    }

    /// Adds `gradient` to the accumulated gradient.
    pub(super) fn gather(&mut self, gradient: &[f32]) {
        for (sum, value) in self.gradient.iter_mut().zip(gradient) {
            *sum += value;
        }
    }

    /// Discards the accumulated gradient.
    pub(super) fn discard(&mut self) {
        self.gradient.fill(0.0);
    }

    /// The two moments, named.
    pub(super) fn moments(&self) -> [(String, HostTensor); 2] {
        let of = |suffix: &str, data: &Vec<f32>| {
            let shape = self.shape.to_vec();
            (format!("{}.{suffix}", self.name), HostTensor { shape, data: data.clone() })
        };
        [of("m", &self.first), of("v", &self.second)]
    }

    /// Restores saved moments.
    pub(super) fn restore(&mut self, take: &mut impl FnMut(&str) -> Option<HostTensor>) -> Result<(), Error> {
        for (suffix, moment) in [("m", &mut self.first), ("v", &mut self.second)] {
            let name = format!("{}.{suffix}", self.name);
            let saved = take(&name).filter(|saved| saved.data.len() == moment.len());
            *moment = saved.ok_or(Error::MissingTensor { name })?.data;
        }
        Ok(())
    }
}

/// Global norm of the accumulated gradients.
pub(super) fn gradient_norm(parameters: &[Parameter]) -> f32 {
    let square = |p: &Parameter| p.gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
    // Summed in the order of the parameters, so that the result does not depend on the threads.
    let squares: Vec<f64> = parameters.par_iter().map(square).collect();
    squares.iter().sum::<f64>().sqrt() as f32
}

/// Share of the learning rate at `step` (the first is 1): linear up to 1, then constant.
pub(super) fn warmth(config: &LearnerConfig, step: u64) -> f64 {
    if config.warmup_steps == 0 { 1.0 } else { (step as f64 / config.warmup_steps as f64).min(1.0) }
}

/// The learning rate of `step`.
pub(super) fn learning_rate(config: &LearnerConfig, step: u64) -> f64 {
    config.learning_rates().at(step) * warmth(config, step)
}

/// Settings of one AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate of this step.
    pub rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Keeps the division finite.
    pub epsilon: f64,
}

impl Adam {
    /// The settings of `config` with the learning rate `rate`.
    pub(super) fn of(config: &LearnerConfig, rate: f64) -> Self {
        Self { rate, beta1: config.adam_beta1, beta2: config.adam_beta2, epsilon: config.adam_epsilon }
    }

    /// Takes step `step` (the first is 1) on one tensor's values, gradient and two moments. The gradient is scaled by
    /// `clip` first, and cleared at the end.
    pub(super) fn step(self, step: u64, tensor: [&mut [f32]; 4], weight_decay: f64, clip: f32) {
        let [values, gradient, first, second] = tensor;
        let decay = (1.0 - self.rate * weight_decay) as f32;
        let size = (self.rate / (1.0 - self.beta1.powf(step as f64))) as f32;
        let root = (1.0 - self.beta2.powf(step as f64)).sqrt() as f32;
        let (beta1, beta2, epsilon) = (self.beta1 as f32, self.beta2 as f32, self.epsilon as f32);
        for (((weight, gradient), first), second) in values.iter_mut().zip(gradient).zip(first).zip(second) {
            let g = *gradient * clip;
            *first = beta1 * *first + (1.0 - beta1) * g;
            *second = beta2 * *second + (1.0 - beta2) * g * g;
            *weight = *weight * decay - size * *first / (second.sqrt() / root + epsilon);
            *gradient = 0.0;
        }
    }
}

/// The factor that clips a gradient of norm `norm`.
pub(super) fn clip(config: &LearnerConfig, norm: f32) -> f32 {
    (config.clip_norm / (f64::from(norm) + 1e-6)).min(1.0) as f32
}

/// Takes one AdamW step on the accumulated gradients, whose norm is `norm`, and clears them.
pub(super) fn update(parameters: &mut [Parameter], config: &LearnerConfig, step: u64, norm: f32) {
    let (clip, adam) = (clip(config, norm), Adam::of(config, learning_rate(config, step)));
    parameters.par_iter_mut().for_each(|parameter| {
        let Parameter { values, gradient, first, second, .. } = parameter;
        adam.step(step, [values, gradient, first, second], config.weight_decay, clip);
    });
}
