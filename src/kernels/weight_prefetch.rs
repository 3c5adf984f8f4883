//! Prefetch of the next weights while tiles compute with the current ones: some lines at every tile, so that memory is
//! neither idle nor waited for.

use super::layout::{Lane, PANEL};
use super::packed_matrix::PackedMatrix;
use std::ops::Range;

/// Inputs of some panels, prefetched in steps.
pub(super) struct WeightPrefetch<'a> {
    weights: &'a PackedMatrix,
    panels: Range<usize>,
    inputs: Range<usize>,
    /// Inputs of the first panel that are prefetched already.
    asked: usize,
    per_step: usize,
}

impl<'a> WeightPrefetch<'a> {
    /// The inputs `inputs` of `panels`, as far as these exist, in about `steps` steps, at least one a panel.
    pub(super) fn new(weights: &'a PackedMatrix, panels: Range<usize>, inputs: Range<usize>, steps: usize) -> Self {
        let all = weights.outputs().div_ceil(PANEL);
        let panels = panels.start.min(all)..panels.end.min(all);
        let steps_each = steps.checked_div(panels.len()).unwrap_or(1).max(1);
        let per_step = inputs.len().div_ceil(steps_each);
        Self { weights, panels, inputs, asked: 0, per_step }
    }

    /// The lanes of the next step.
    pub(super) fn step(&mut self) -> &'a [Lane] {
        if self.panels.is_empty() {
            return &[];
        }
        let inputs = &self.weights.panel(self.panels.start)[self.inputs.clone()][self.asked..];
        let many = inputs.len().min(self.per_step);
        self.asked += many;
        if many == inputs.len() {
            (self.panels.start, self.asked) = (self.panels.start + 1, 0);
        }
        &inputs[..many]
    }
}
