//! Gradients of an adapter's factors. Knows no pass.

use crate::formats::adapter::Factors;
use crate::formats::spec::Projection;
use std::collections::BTreeMap;

/// Gradients of an adapter's factors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdapterGradients {
    /// By layer and projection, in the shapes of the factors.
    pub factors: BTreeMap<(usize, Projection), Factors>,
}

impl AdapterGradients {
    /// Empties every gradient and keeps its memory, so that one that a pass does not compute is seen to be missing.
    pub(in crate::transformer) fn clear(&mut self) {
        for Factors { a, b } in self.factors.values_mut() {
            a.clear();
            b.clear();
        }
    }

    /// The gradient of one pair of factors; empty where there is none yet.
    pub(in crate::transformer) fn of(&mut self, layer: usize, projection: Projection) -> &mut Factors {
        self.factors.entry((layer, projection)).or_default()
    }

    /// Adds the gradient of one pair of factors; an empty one adds nothing.
    pub(crate) fn add(&mut self, layer: usize, projection: Projection, gradient: Factors) {
        let sum = |to: &mut Vec<f32>, values: Vec<f32>| match to.is_empty() {
            true => *to = values,
            false => to.iter_mut().zip(values).for_each(|(to, value)| *to += value),
        };
        let to = self.of(layer, projection);
        sum(&mut to.a, gradient.a);
        sum(&mut to.b, gradient.b);
    }
}
