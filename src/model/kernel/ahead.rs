//! Weights that come next, asked for from memory while tiles work on those at hand: a part of them at every tile, so
//! that memory is never idle and never waited for.

use super::{PANEL, PackedMatrix};
use std::ops::Range;

/// Some inputs of some panels, which are asked for in so many steps.
pub(super) struct Ahead<'a> {
    weights: &'a PackedMatrix,
    panels: Range<usize>,
    inputs: Range<usize>,
    steps: usize,
    step: usize,
}

impl<'a> Ahead<'a> {
    /// Inputs `inputs` of `panels`, as far as there are such panels.
    pub(super) fn new(weights: &'a PackedMatrix, panels: Range<usize>, inputs: Range<usize>, steps: usize) -> Self {
        let all = weights.outputs().div_ceil(PANEL);
        Self { weights, panels: panels.start.min(all)..panels.end.min(all), inputs, steps, step: 0 }
    }

    /// Asks for what belongs to one step.
    pub(super) fn step(&mut self) {
        let width = self.inputs.len();
        let until = |step: usize| self.panels.len() * width * step / self.steps.max(1);
        let (mut at, end) = (until(self.step), until((self.step + 1).min(self.steps)));
        self.step = (self.step + 1).min(self.steps);
        while at < end {
            let (panel, first) = (self.panels.start + at / width, at % width);
            let many = (width - first).min(end - at);
            self.weights.panel(panel)[self.inputs.start + first..][..many].iter().for_each(fetch);
            at += many;
        }
    }
}

/// Asks for the line where `value` begins as far as the second cache: it is for later, and must not drive out what is
/// in use.
pub(super) fn fetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    super::x86::prefetch_later(value);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
