//! Weights that come next, asked for from memory while tiles work on those at hand: a part of them at every tile, so
//! that memory is never idle and never waited for.

use super::{PANEL, PackedMatrix};
use std::ops::Range;

/// Some inputs of some panels, which are asked for in so many steps.
pub(super) struct Ahead<'a> {
    weights: &'a PackedMatrix,
    panels: Range<usize>,
    inputs: Range<usize>,
    /// Inputs of the first panel that were asked for.
    asked: usize,
    per_step: usize,
}

impl<'a> Ahead<'a> {
    /// Inputs `inputs` of `panels`, as far as there are such panels.
    pub(super) fn new(weights: &'a PackedMatrix, panels: Range<usize>, inputs: Range<usize>, steps: usize) -> Self {
        let all = weights.outputs().div_ceil(PANEL);
        let panels = panels.start.min(all)..panels.end.min(all);
        let per_step = (panels.len() * inputs.len()).div_ceil(steps.max(1));
        Self { weights, panels, inputs, asked: 0, per_step }
    }

    /// Asks for what belongs to one step.
    pub(super) fn step(&mut self) {
        let mut left = self.per_step;
        while left > 0 && !self.panels.is_empty() {
            let inputs = &self.weights.panel(self.panels.start)[self.inputs.clone()][self.asked..];
            let many = inputs.len().min(left);
            inputs[..many].iter().for_each(|lane| fetch(lane));
            left -= many;
            self.asked += many;
            if many == inputs.len() {
                (self.panels.start, self.asked) = (self.panels.start + 1, 0);
            }
        }
    }
}

/// Asks for the line where `value` begins as far as the second cache: it is for later, and must not drive out what is
/// in use.
pub(super) fn fetch<T>(value: *const T) {
    #[cfg(target_arch = "x86_64")]
    super::x86::prefetch_later(value);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
