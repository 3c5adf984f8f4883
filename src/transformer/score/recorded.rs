//! A score pass that can still be differentiated.

use super::arena::Arena;
use super::batch::Scored;
use super::full_gradients::FullGradients;
use super::gradients::AdapterGradients;
use crate::transformer::error::Result;

/// What a backend keeps of a recorded pass. A pass can be differentiated by what it was recorded for, and by nothing else.
pub(in crate::transformer) trait RecordedPass {
    /// `gradients` becomes the gradient of `sum_i weights_i log_probs_i` with respect to the adapter.
    fn backward(self: Box<Self>, weights: &[f32], gradients: &mut AdapterGradients, arena: &mut Arena) -> Result<()>;
    /// Adds the gradient of the same sum with respect to every weight to `gradients`.
    fn backward_full(self: Box<Self>, weights: &[f32], gradients: &mut FullGradients, arena: &mut Arena) -> Result<()>;
}

/// A pass that can still be differentiated, once.
pub struct Recorded<'a> {
    /// The pass's results.
    pub scored: Scored,
    pass: Box<dyn RecordedPass + 'a>,
}

impl<'a> Recorded<'a> {
    pub(in crate::transformer) fn new(scored: Scored, pass: impl RecordedPass + 'a) -> Self {
        Self { scored, pass: Box::new(pass) }
    }

    /// The gradient of `sum_i weights_i log_probs_i` with respect to the adapter's factors.
    ///
    /// # Errors
    /// Where the device fails, or the pass was recorded for all weights.
    ///
    /// # Panics
    /// Where the number of weights is not that of the log-probabilities.
    pub fn backward(self, weights: &[f32]) -> Result<AdapterGradients> {
        let mut gradients = AdapterGradients::default();
        self.backward_in(weights, &mut gradients, &mut Arena::default())?;
        Ok(gradients)
    }

    /// [`Recorded::backward`] in the memory of `arena`; `gradients` is overwritten and its memory reused.
    pub(crate) fn backward_in(
        self,
        weights: &[f32],
        gradients: &mut AdapterGradients,
        arena: &mut Arena,
    ) -> Result<()> {
        assert_eq!(weights.len(), self.scored.log_probs.len(), "one weight a log-probability");
        self.pass.backward(weights, gradients, arena)
    }

    /// Adds the gradient of `sum_i weights_i log_probs_i` with respect to every weight to `gradients`.
    ///
    /// # Errors
    /// Where the pass was recorded for an adapter.
    ///
    /// # Panics
    /// Where the number of weights is not that of the log-probabilities, or `gradients` are of another model.
    pub fn backward_full(self, weights: &[f32], gradients: &mut FullGradients) -> Result<()> {
        self.backward_full_in(weights, gradients, &mut Arena::default())
    }

    /// [`Recorded::backward_full`] in the memory of `arena`.
    pub(crate) fn backward_full_in(
        self,
        weights: &[f32],
        gradients: &mut FullGradients,
        arena: &mut Arena,
    ) -> Result<()> {
        assert_eq!(weights.len(), self.scored.log_probs.len(), "one weight a log-probability");
        self.pass.backward_full(weights, gradients, arena)
    }
}
