//! The value network `V(x, y0)` of DRO-V, which predicts the baseline of a prompt and response.
//!
//! `V = w2 . silu(W1 h / rms(h) + b1) + b2`, where `h` is the reference's hidden state at the last token of the prefix
//! (prompt and response). No gradient reaches the reference: DRO found that sharing weights between value and policy
//! hurts (arXiv 2405.19107, section 5.3). The loss is `1/2 mean_i (V - CU_i + beta r_i)^2` (eq. 5 and algorithm 1),
//! with a separate AdamW.
//!
//! Runs on the host and knows no model. Invariant: its tensors are its whole state, so it resumes bit for bit.

use super::error::Error;
use super::optimizer::Adam;
use super::state::HostTensor;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One tensor with its gradient and moments.
#[derive(Clone, Debug)]
struct Weights {
    name: &'static str,
    shape: Vec<usize>,
    data: Vec<f32>,
    gradient: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Weights {
    fn new(name: &'static str, shape: &[usize], data: Vec<f32>) -> Self {
        let zeros = vec![0.0; data.len()];
        Self { name, shape: shape.to_vec(), data, gradient: zeros.clone(), first: zeros.clone(), second: zeros }
    }

    /// The weights and the two moments, with the names they are saved under.
    fn parts(&mut self) -> [(String, &mut Vec<f32>); 3] {
        let name = |suffix| format!("value.{}{suffix}", self.name);
        [(name(""), &mut self.data), (name(".m"), &mut self.first), (name(".v"), &mut self.second)]
    }
}

/// The network with its moments and the gradient it accumulates.
#[derive(Clone, Debug)]
pub struct Value {
    inputs: usize,
    width: usize,
    /// `W1` (width, inputs), `b1` (width), `w2` (width), `b2` (1).
    weights: [Weights; 4],
    /// Steps taken.
    steps: u64,
}

const STEPS: &str = "value.steps";

impl Value {
    /// A network that predicts 0 for every input: `W1` uniform in `+-1 / sqrt(inputs)` by `seed`, the rest zero.
    pub fn new(inputs: usize, width: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let bound = 1.0 / (inputs.max(1) as f32).sqrt();
        let hidden = (0..width * inputs).map(|_| (rng.random::<f32>() * 2.0 - 1.0) * bound).collect();
        let weights = [
            Weights::new("hidden.weight", &[width, inputs], hidden),
            Weights::new("hidden.bias", &[width], vec![0.0; width]),
            Weights::new("out.weight", &[1, width], vec![0.0; width]),
            Weights::new("out.bias", &[1], vec![0.0]),
        ];
        Self { inputs, width, weights, steps: 0 }
    }

    /// Whether a saved state contains a network; `has` tells whether it holds a tensor of that name.
    pub fn is_in(has: impl Fn(&str) -> bool) -> bool {
        has(STEPS)
    }

    /// Restores a network from the tensors of [`Value::tensors`]; `take` removes and returns a tensor by its name.
    ///
    /// # Errors
    /// If a tensor is missing or has another size.
    pub fn restore(
        inputs: usize,
        width: usize,
        take: &mut impl FnMut(&str) -> Option<HostTensor>,
    ) -> Result<Self, Error> {
        let mut value = Self::new(inputs, width, 0);
        for (name, data) in value.weights.iter_mut().flat_map(Weights::parts) {
            let saved = take(&name).filter(|saved| saved.data.len() == data.len());
            *data = saved.ok_or(Error::MissingTensor { name })?.data;
        }
        let steps = take(STEPS).filter(|saved| saved.data.len() == 2);
        let steps = steps.ok_or(Error::MissingTensor { name: STEPS.to_owned() })?.data;
        value.steps = (u64::from(steps[0].to_bits()) << 32) | u64::from(steps[1].to_bits());
        Ok(value)
    }

    /// Weights, moments and the count of steps (its two halves as bits), named `value.`...
    pub fn tensors(&self) -> Vec<(String, HostTensor)> {
        let halves = [(self.steps >> 32) as u32, self.steps as u32].map(f32::from_bits).to_vec();
        let mut tensors = vec![(STEPS.to_owned(), HostTensor { shape: vec![2], data: halves })];
        for weights in &self.weights {
            for (suffix, data) in [("", &weights.data), (".m", &weights.first), (".v", &weights.second)] {
                let tensor = HostTensor { shape: weights.shape.clone(), data: data.clone() };
                tensors.push((format!("value.{}{suffix}", weights.name), tensor));
            }
        }
        tensors
    }

    /// `V` of the prefix with the last hidden state `hidden` (inputs), in units of the utilities.
    ///
    /// # Panics
    /// If the length of `hidden` differs from the number of inputs.
    pub fn predict(&self, hidden: &[f32]) -> f64 {
        let sums = self.sums(&normalised(hidden));
        let [_, _, out, bias] = &self.weights;
        sums.iter().zip(&out.data).map(|(&sum, &w)| silu(sum) * f64::from(w)).sum::<f64>() + f64::from(bias.data[0])
    }

    /// Adds one group's gradient, times `share`, to the accumulated gradient. Returns the group's loss times `share`;
    /// the loss is
    /// `1/2 mean_i (V - CU_i + beta r_i)^2`.
    ///
    /// # Panics
    /// If the length of `hidden` differs from the number of inputs.
    pub fn gather(&mut self, hidden: &[f32], utilities: &[f32], beta: f64, log_ratios: &[f32], share: f64) -> f64 {
        let value = self.predict(hidden);
        let count = utilities.len().max(1) as f64;
        let errors = utilities.iter().zip(log_ratios).map(|(&u, &r)| value - f64::from(u) + beta * f64::from(r));
        let (sum, squares) = errors.fold((0.0, 0.0), |(sum, squares), error| (sum + error, squares + error * error));
        let slope = share * sum / count;
        let inputs = normalised(hidden);
        let sums = self.sums(&inputs);
        let [hidden_weight, hidden_bias, out, bias] = &mut self.weights;
        bias.gradient[0] += slope as f32;
        for (unit, &sum) in sums.iter().enumerate() {
            out.gradient[unit] += (slope * silu(sum)) as f32;
            let back = slope * f64::from(out.data[unit]) * silu_slope(sum);
            hidden_bias.gradient[unit] += back as f32;
            let row = &mut hidden_weight.gradient[unit * self.inputs..][..self.inputs];
            row.iter_mut().zip(&inputs).for_each(|(gradient, input)| *gradient += (back * input) as f32);
        }
        share * squares / (2.0 * count)
    }

    /// Discards the accumulated gradient.
    pub fn discard(&mut self) {
        self.weights.iter_mut().for_each(|weights| weights.gradient.fill(0.0));
    }

    /// Takes one step on the accumulated gradient, without weight decay, and clears the gradient.
    pub fn update(&mut self, adam: Adam) {
        self.steps += 1;
        for Weights { data, gradient, first, second, .. } in &mut self.weights {
            adam.step(self.steps, [data, gradient, first, second], 0.0, 1.0);
        }
    }

    /// `W1 inputs + b1` (width).
    fn sums(&self, inputs: &[f64]) -> Vec<f64> {
        assert_eq!(inputs.len(), self.inputs, "the hidden state of the model that the network was made for");
        let [weight, bias, ..] = &self.weights;
        let row = |unit: usize| &weight.data[unit * self.inputs..][..self.inputs];
        let dot = |unit: usize| row(unit).iter().zip(inputs).map(|(&w, x)| f64::from(w) * x).sum::<f64>();
        (0..self.width).map(|unit| dot(unit) + f64::from(bias.data[unit])).collect()
    }
}

/// `hidden` scaled to a root mean square of 1, because the scale differs between models.
fn normalised(hidden: &[f32]) -> Vec<f64> {
    let square = hidden.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / hidden.len().max(1) as f64;
    let scale = 1.0 / (square + 1e-6).sqrt();
    hidden.iter().map(|&x| f64::from(x) * scale).collect()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn silu_slope(x: f64) -> f64 {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    sigmoid * (1.0 + x * (1.0 - sigmoid))
}

#[cfg(test)]
mod tests;
