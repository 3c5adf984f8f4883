//! Cosines and sines of rotary positions (arXiv 2104.09864) for the rows of a step.
//!
//! Angles are computed in f32, as the reference implementations do. Knows no tensor.

use crate::formats::rotary::Rotary;
use crate::formats::spec::ModelSpec;
use std::sync::Arc;

/// Cosines and sines by row, `(rows, pairs)` each.
#[derive(Debug)]
pub(crate) struct Angles {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
    /// Pairs of a head that are rotated.
    pub(crate) half: usize,
}

impl Angles {
    /// Cosines and sines of one row, `(pairs)` each.
    pub(crate) fn row(&self, row: usize) -> (&[f32], &[f32]) {
        let row = row * self.half..(row + 1) * self.half;
        (&self.cos[row.clone()], &self.sin[row])
    }
}

/// The angles of a step's rows, for both kinds of layers.
#[derive(Debug)]
pub(crate) struct Tables {
    full: Arc<Angles>,
    sliding: Option<Arc<Angles>>,
    /// Of layers without rotary positions: no rotation.
    unrotated: Option<Arc<Angles>>,
}

impl Tables {
    /// The tables of rows that stand at `positions`.
    pub(crate) fn new(spec: &ModelSpec, positions: &[usize]) -> Self {
        let sliding = spec.sliding.as_ref().map(|sliding| Arc::new(angles(&sliding.rotary, positions)));
        let pairs = positions.len() * spec.rotary.frequencies.len();
        let still = || Angles { cos: vec![1.0; pairs], sin: vec![0.0; pairs], half: spec.rotary.frequencies.len() };
        let unrotated = spec.unrotated.contains(&true).then(|| Arc::new(still()));
        Self { full: Arc::new(angles(&spec.rotary, positions)), sliding, unrotated }
    }

    /// The table of `layer`.
    pub(crate) fn of(&self, spec: &ModelSpec, layer: usize) -> &Arc<Angles> {
        match (&self.unrotated, &self.sliding) {
            (Some(unrotated), _) if !spec.rotates(layer) => unrotated,
            (_, Some(sliding)) if spec.slides(layer) => sliding,
            _ => &self.full,
        }
    }
}

/// The angles of `positions`.
fn angles(rotary: &Rotary, positions: &[usize]) -> Angles {
    let mut angles = Angles { cos: vec![], sin: vec![], half: rotary.frequencies.len() };
    for &position in positions {
        for frequency in &rotary.frequencies {
            let angle = f64::from(position as f32 * frequency);
            angles.cos.push(angle.cos() as f32 * rotary.magnitude);
            angles.sin.push(angle.sin() as f32 * rotary.magnitude);
        }
    }
    angles
}
