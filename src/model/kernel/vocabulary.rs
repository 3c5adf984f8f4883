//! The head and its softmax in one sweep: log-probabilities of given ids, and what they depend on, while no more than a
//! block of logits exists at a time (as in cut cross-entropy, arXiv 2411.09009).
//!
//! A thread takes some rows through the whole vocabulary. A block of weights gives a block of logits, the running maximum
//! and sum of each row take them in (arXiv 1805.02867), and the same block, in the caches by now, adds what its ids weigh
//! to the rows' expected output vector.

use super::full::PackedMatrix;
use super::isa::Isa;
use super::ordered::{Ordered, order, sums_of};
use super::right::Right;
use super::strided::Strided;
use super::sweep::parts;
use super::{Lane, NO_SUM, PANEL, team};
use crate::model::ops;
use std::cell::Cell;

/// Outputs of a block.
const BLOCK: usize = 256;
/// Logits may be so far above the maximum that their terms are taken from (nats): it seldom has to move.
const SLACK: f32 = 8.0;

/// What a thread works with: used again, since memory fresh from the system costs as much as what is done with it.
#[derive(Default)]
struct Scratch {
    /// Rows as tiles read them.
    ordered: Vec<f32>,
    /// A block of them, `(panels, rows)`.
    logits: Vec<Lane>,
    terms: Right,
    /// Expected output vectors as they add up.
    sums: Right,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// The softmax of one row over the logits so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax {
    /// What terms are taken from: at most [`SLACK`] below the maximum.
    top: f32,
    /// Of `exp(scale (logit - top))`.
    sum: f64,
    /// By what earlier terms change with the block at hand.
    change: f32,
    /// The target's.
    logit: f32,
}

/// Log-probabilities of `targets`, one a row, under softmax(scale * hidden W^T), written to `found`: `hidden` is
/// `(targets, inputs)`. With `slopes`, `hidden` becomes the gradient of each row's log-probability with respect to that
/// row, `scale (W[target] - sum_v p_v W[v])`.
///
/// # Panics
/// Where the lengths do not fit, or a target is no output of `w`.
pub(crate) fn log_probs(
    w: &PackedMatrix,
    hidden: &mut [f32],
    targets: &[u32],
    scale: f32,
    slopes: bool,
    found: &mut [f32],
) {
    let (isa, rows, inputs) = (Isa::detect(), targets.len(), w.inputs());
    let fits = hidden.len() == rows * inputs && found.len() == rows;
    assert!(fits && targets.iter().all(|&id| (id as usize) < w.outputs()), "{rows} targets of {w:?}");
    let (mut found, mut hidden) = (found, hidden);
    let split = |part: std::ops::Range<usize>| {
        let hidden = hidden.split_off_mut(..part.len() * inputs).unwrap_or_default();
        (&targets[part.clone()], found.split_off_mut(..part.len()).unwrap_or_default(), hidden)
    };
    let mut parts: Vec<_> = parts(rows, PANEL, 3 * BLOCK).into_iter().map(split).collect();
    team::each_mut(&mut parts, |_, (targets, found, hidden)| {
        let mut scratch = SCRATCH.take();
        log_probs_of(isa, w, (hidden, targets, found), (scale, slopes), &mut scratch);
        SCRATCH.set(scratch);
    });
}

/// What [`log_probs`] does, on one thread.
fn log_probs_of(
    isa: Isa,
    w: &PackedMatrix,
    (hidden, targets, found): (&mut [f32], &[u32], &mut [f32]),
    (scale, slopes): (f32, bool),
    Scratch { ordered, logits, terms, sums }: &mut Scratch,
) {
    let (rows, inputs) = (targets.len(), w.inputs());
    order(isa, Strided::rows(hidden, inputs), rows, inputs, ordered);
    let x = Ordered::new(ordered, inputs);
    let mut softmax = vec![Softmax { top: f32::NEG_INFINITY, sum: 0.0, change: 0.0, logit: 0.0 }; rows];
    if slopes {
        sums.clear(inputs, rows);
    }
    for first in (0..w.outputs()).step_by(BLOCK) {
        let outputs = first..(first + BLOCK).min(w.outputs());
        let panels = first / PANEL..outputs.end.div_ceil(PANEL);
        logits.resize(panels.len() * rows, NO_SUM);
        for (panel, logits) in panels.zip(logits.chunks_exact_mut(rows)) {
            sums_of(isa, (w, panel), &x, None, logits, (|_| {}, |_, _: &[Lane]| {}));
            let count = PANEL.min(w.outputs() - panel * PANEL);
            if count < PANEL {
                logits.iter_mut().for_each(|lane| lane.0[count..].fill(f32::NEG_INFINITY)); // no ids
            }
        }
        for (row, (softmax, &id)) in softmax.iter_mut().zip(targets).enumerate() {
            if outputs.contains(&(id as usize)) {
                let place = id as usize - first;
                softmax.logit = logits[place / PANEL * rows + row].0[place % PANEL];
            }
        }
        take_in(logits, &mut softmax, scale);
        if slopes {
            sums.scale_rows(softmax.iter().map(|softmax| softmax.change));
            terms.fill_turned(isa, logits, rows);
            let terms = terms.panels().map(|lanes| &lanes[..outputs.len()]);
            sums.add(isa, w, (0..inputs, 0), outputs.clone(), terms);
        }
    }
    for (found, softmax) in found.iter_mut().zip(&softmax) {
        let above_top = f64::from(scale) * f64::from(softmax.logit - softmax.top);
        *found = (above_top - softmax.sum.ln()) as f32;
    }
    if slopes {
        sums.read_to(isa, hidden);
        let mut output = vec![0.0; inputs];
        for ((hidden, softmax), &id) in hidden.chunks_exact_mut(inputs).zip(&softmax).zip(targets) {
            w.row(id as usize, &mut output);
            let share = (1.0 / softmax.sum) as f32;
            hidden.iter_mut().zip(&output).for_each(|(h, output)| *h = scale * (output - share * *h));
        }
    }
}

/// Takes a block of logits in, `(panels, rows)` lanes, which become their terms `exp(scale (logit - top))`.
#[inline(always)]
fn take_in_rows(logits: &mut [Lane], softmax: &mut [Softmax], scale: f32) {
    let rows = softmax.len();
    for (row, softmax) in softmax.iter_mut().enumerate() {
        let mut most = [f32::NEG_INFINITY; PANEL];
        for lane in logits[row..].iter().step_by(rows) {
            most.iter_mut().zip(lane.0).for_each(|(most, logit)| *most = if logit > *most { logit } else { *most });
        }
        let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
        softmax.change = 1.0;
        if scale * (most - softmax.top) > SLACK {
            softmax.change = ops::exp(scale * (softmax.top - most));
            softmax.top = most;
        }
        let (top, mut sums) = (softmax.top, [0.0f32; PANEL]);
        for lane in logits[row..].iter_mut().step_by(rows) {
            for (sum, logit) in sums.iter_mut().zip(&mut lane.0) {
                *logit = ops::exp(scale * (*logit - top));
                *sum += *logit;
            }
        }
        softmax.sum = softmax.sum * f64::from(softmax.change) + sums.into_iter().map(f64::from).sum::<f64>();
    }
}
ops::vectorised!(take_in, take_in_rows, (logits: &mut [Lane], softmax: &mut [Softmax], scale: f32));

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same in double precision, logit by logit.
    fn plainly(w: &[f32], hidden: &[f32], target: usize, scale: f32) -> (f64, Vec<f64>) {
        let inputs = hidden.len();
        let dot = |row: &[f32]| row.iter().zip(hidden).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let logits: Vec<f64> = w.chunks_exact(inputs).map(|row| f64::from(scale) * dot(row)).collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|logit| (logit - top).exp()).sum();
        let probability = |output: usize| (logits[output] - top).exp() / sum;
        let slope = |input: usize| {
            let at = |output: usize| f64::from(w[output * inputs + input]);
            let expected: f64 = (0..logits.len()).map(|output| probability(output) * at(output)).sum();
            f64::from(scale) * (at(target) - expected)
        };
        (logits[target] - top - sum.ln(), (0..inputs).map(slope).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Vocabularies that fill their last panel and block and that do not, and logits that rise steeply, so that the
        /// maximum moves.
        #[test]
        fn a_block_at_a_time_is_the_whole_softmax(
            rows in 1usize..150,
            inputs in 1usize..70,
            outputs in 1usize..700,
            scale in 0.3f32..2.0,
            steep in prop::sample::select(vec![0.1f32, 3.0]),
            seed in any::<u32>(),
        ) {
            let mut state = seed | 1;
            let mut draw = || {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            };
            let w: Vec<f32> = (0..outputs * inputs).map(|at| draw() * steep * (at / inputs) as f32 / outputs as f32).collect();
            let hidden: Vec<f32> = (0..rows * inputs).map(|_| 2.0 * draw()).collect();
            let targets: Vec<u32> = (0..rows).map(|row| (row * 7 % outputs) as u32).collect();
            let packed = PackedMatrix::new(&[&w], inputs);
            let (mut slopes, mut found, mut again) = (hidden.clone(), vec![0.0; rows], vec![0.0; rows]);
            log_probs(&packed, &mut slopes, &targets, scale, true, &mut found);
            log_probs(&packed, &mut hidden.clone(), &targets, scale, false, &mut again);
            prop_assert_eq!(&found, &again);
            for row in 0..rows {
                let (log_prob, slope) = plainly(&w, &hidden[row * inputs..][..inputs], targets[row] as usize, scale);
                prop_assert!((f64::from(found[row]) - log_prob).abs() < 2e-4 * (1.0 + log_prob.abs()), "{} {log_prob}", found[row]);
                for (ours, theirs) in slopes[row * inputs..][..inputs].iter().zip(slope) {
                    prop_assert!((f64::from(*ours) - theirs).abs() < 1e-3 * f64::from(1.0 + steep), "{ours} {theirs}");
                }
            }
        }
    }
}
