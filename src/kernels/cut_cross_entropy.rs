//! Cut cross-entropy (arXiv 2411.09009): log-probabilities of target ids and their gradient, fused with the head, with
//! one block of logits in memory at a time.
//!
//! A block of weights gives a block of logits, which update each row's running maximum and sum (arXiv 1805.02867). The
//! same block of weights, now in the cache, adds its part of the rows' expected output vectors. The vocabulary is split
//! into segments, whose softmaxes are combined at the end: this balances the threads, and the order of sums depends on
//! the model alone.

use super::gemm_lora::row_chunks;
use super::isa::Isa;
use super::layout::{Lane, NO_SUM, PANEL};
use super::operands::Strided;
use super::ops;
use super::packed_matrix::PackedMatrix;
use super::packed_rows::{PackedRows, multiply_panels, pack_tiles, panel_groups};
use super::rhs::Rhs;
use super::thread_pool;
use super::weight::Weight;
use std::cell::Cell;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Outputs of a block.
const BLOCK_OUTPUTS: usize = 256;
/// Outputs of a segment.
const SEGMENT_OUTPUTS: usize = 24 * BLOCK_OUTPUTS;
/// Nats by which a logit may exceed the reference maximum before that is raised; so it is raised seldom.
const SLACK: f32 = 8.0;

/// A chunk of rows, packed, with its result for each segment.
#[derive(Default)]
struct HeadChunk {
    rows: Vec<f32>,
    segments: Vec<Mutex<VocabSegment>>,
}

/// The rows' softmax over one segment of the vocabulary.
#[derive(Default)]
struct VocabSegment {
    softmax: Vec<RowSoftmax>,
    /// The rows' expected output vectors, not yet divided by the sum.
    expected: Rhs,
}

/// A block of logits, `(panels, rows)`, and their terms.
#[derive(Default)]
struct LogitBlock {
    logits: Vec<Lane>,
    terms: Rhs,
    /// The block's weights, where they are not held in f32.
    widened: PackedMatrix,
}

// Reused: fresh memory costs as much as the computation on it.
thread_local! {
    static CHUNKS: Cell<Vec<HeadChunk>> = Cell::default();
    static LOGIT_BLOCK: Cell<LogitBlock> = Cell::default();
}

/// The softmax of one row over the logits so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowSoftmax {
    /// The reference maximum: at most [`SLACK`] below the true one.
    max: f32,
    /// Sum of `exp(scale (logit - max))`.
    sum: f64,
    /// Factor by which the current block rescales earlier terms.
    rescale: f32,
    /// The target's logit.
    logit: f32,
}

/// Log-probabilities of `targets`, one a row, under softmax(scale * hidden W^T), written to `out`; `hidden` is
/// `(targets, inputs)`. With `with_gradient`, `hidden` becomes the gradient of each row's log-probability with respect
/// to that row, `scale (W[target] - sum_v p_v W[v])`.
///
/// # Panics
/// Where the lengths do not fit, or a target is no output of `w`.
pub(crate) fn log_probs(
    w: &Weight,
    hidden: &mut [f32],
    targets: &[u32],
    scale: f32,
    with_gradient: bool,
    out: &mut [f32],
) {
    log_probs_by(SEGMENT_OUTPUTS, w, hidden, (targets, scale, with_gradient), out);
}

/// Floats that [`log_probs`] needs for a row in addition to the row itself.
pub(crate) fn working_floats(vocab: usize, inputs: usize) -> usize {
    inputs * vocab.div_ceil(SEGMENT_OUTPUTS)
}

/// Floats of the block of weights that a thread widens.
pub(crate) fn block_floats(inputs: usize) -> usize {
    BLOCK_OUTPUTS * inputs
}

/// [`log_probs`] with segments of `segment` outputs, which are whole blocks.
fn log_probs_by(
    segment: usize,
    w: &Weight,
    hidden: &mut [f32],
    (targets, scale, with_gradient): (&[u32], f32, bool),
    out: &mut [f32],
) {
    let (isa, rows, inputs) = (Isa::detect(), targets.len(), w.inputs());
    let fits = hidden.len() == rows * inputs && out.len() == rows;
    assert!(fits && targets.iter().all(|&id| (id as usize) < w.outputs()), "{rows} targets of {w:?}");
    let (bounds, segments) = (row_chunks(rows, PANEL * isa.panels(), 3 * BLOCK_OUTPUTS), w.outputs().div_ceil(segment));
    let mut chunks = CHUNKS.take();
    chunks.resize_with(chunks.len().max(bounds.len()), HeadChunk::default);

    let mut unpacked: Vec<_> = bounds.iter().zip(&mut chunks).collect();
    thread_pool::each_mut(&mut unpacked, |_, (rows, chunk)| {
        chunk.segments.resize_with(segments, Mutex::default);
        pack_tiles(isa, Strided::rows(&hidden[rows.start * inputs..], inputs), rows.len(), inputs, &mut chunk.rows);
    });

    thread_pool::each_of_parts(bounds.len(), segments, |chunk, index| {
        let (rows, HeadChunk { rows: packed, segments }) = (bounds[chunk].clone(), &chunks[chunk]);
        let outputs = index * segment..w.outputs().min((index + 1) * segment);
        let mut segment = locked(&segments[index]);
        let mut block = LOGIT_BLOCK.take();
        segment.accumulate(
            isa,
            (w, outputs),
            PackedRows::new(packed, inputs),
            &targets[rows],
            (scale, with_gradient),
            &mut block,
        );
        LOGIT_BLOCK.set(block);
    });

    let (mut out, mut hidden) = (out, hidden);
    let split = |(rows, chunk): (&Range<usize>, _)| {
        let hidden = hidden.split_off_mut(..rows.len() * inputs).unwrap_or_default();
        (chunk, &targets[rows.clone()], out.split_off_mut(..rows.len()).unwrap_or_default(), hidden)
    };
    let mut accumulated: Vec<_> = bounds.iter().zip(&chunks).map(split).collect();
    thread_pool::each_mut(&mut accumulated, |_, (HeadChunk { segments, .. }, targets, out, hidden)| {
        let segments: Vec<_> = segments.iter().map(locked).collect();
        combine_segments(isa, (w, segment), &segments, (targets, scale), out, with_gradient.then_some(hidden));
    });
    CHUNKS.set(chunks);
}

/// The segment, even if a panic poisoned its lock: it is reset before use.
fn locked(segment: &Mutex<VocabSegment>) -> MutexGuard<'_, VocabSegment> {
    segment.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VocabSegment {
    /// Computes the rows' softmax, and with `with_gradient` their expected output vectors, over `outputs` of `w`.
    fn accumulate(
        &mut self,
        isa: Isa,
        (w, outputs): (&Weight, Range<usize>),
        x: PackedRows<'_>,
        targets: &[u32],
        (scale, with_gradient): (f32, bool),
        LogitBlock { logits, terms, widened }: &mut LogitBlock,
    ) {
        let (rows, inputs, Self { softmax, expected }) = (targets.len(), w.inputs(), self);
        softmax.clear();
        softmax.resize(rows, RowSoftmax { max: f32::NEG_INFINITY, sum: 0.0, rescale: 0.0, logit: 0.0 });
        if with_gradient {
            expected.clear(inputs, rows);
        }
        for first in outputs.clone().step_by(BLOCK_OUTPUTS) {
            let outputs = first..(first + BLOCK_OUTPUTS).min(outputs.end);
            let panels = first / PANEL..outputs.end.div_ceil(PANEL);
            let (w, shift) = w.score_panels(&panels, widened);
            let held = panels.start - shift..panels.end - shift;
            logits.resize(panels.len() * rows, NO_SUM);
            let mut rest = logits.as_mut_slice();
            for panels in panel_groups(isa, held.clone()) {
                let logits = rest.split_off_mut(..panels.len() * rows).unwrap_or_default();
                multiply_panels(isa, (w, panels), &x, None, logits, (|_, _| {}, |_, _, _: &[Lane]| {}));
            }
            let count = outputs.len() % PANEL;
            if count > 0 {
                let last = &mut logits[(panels.len() - 1) * rows..];
                last.iter_mut().for_each(|lane| lane.0[count..].fill(f32::NEG_INFINITY)); // no ids
            }
            for (row, (softmax, &id)) in softmax.iter_mut().zip(targets).enumerate() {
                if outputs.contains(&(id as usize)) {
                    let place = id as usize - first;
                    softmax.logit = logits[place / PANEL * rows + row].0[place % PANEL];
                }
            }
            exponentiate(logits, softmax, scale);
            if with_gradient {
                expected.scale_rows(softmax.iter().map(|softmax| softmax.rescale));
                terms.fill_transposed(isa, logits, rows);
                let held = held.start * PANEL..outputs.end - shift * PANEL;
                expected.add(isa, w, (0..inputs, 0), held, terms.slice(&(0..outputs.len())));
            }
        }
    }
}

/// Combines segments of `segment` outputs of `w`: writes the log-probabilities of `targets` to `out`, and their
/// gradients to `hidden` where it is given.
fn combine_segments(
    isa: Isa,
    (w, segment): (&Weight, usize),
    segments: &[MutexGuard<'_, VocabSegment>],
    (targets, scale): (&[u32], f32),
    out: &mut [f32],
    hidden: Option<&mut [f32]>,
) {
    let of_row = |row: usize| segments.iter().map(move |segment| segment.softmax[row]);
    // The factor of a segment's terms in the whole sum, whose reference is the largest maximum.
    let weight = |max: f32, of: RowSoftmax| f64::from(scale * (of.max - max)).exp();
    let total = |row: usize| {
        let max = of_row(row).map(|softmax| softmax.max).fold(f32::NEG_INFINITY, f32::max);
        (max, of_row(row).map(|softmax| softmax.sum * weight(max, softmax)).sum::<f64>())
    };
    let totals: Vec<(f32, f64)> = (0..targets.len()).map(total).collect();
    for (row, ((out, &id), &(max, sum))) in out.iter_mut().zip(targets).zip(&totals).enumerate() {
        let logit = segments[id as usize / segment].softmax[row].logit;
        *out = (f64::from(scale) * f64::from(logit - max) - sum.ln()) as f32;
    }
    let Some(hidden) = hidden else { return };
    let (inputs, mut output) = (w.inputs(), vec![0.0; w.inputs()]);
    for (hidden, &id) in hidden.chunks_exact_mut(inputs).zip(targets) {
        w.score_row(id as usize, &mut output);
        hidden.iter_mut().zip(&output).for_each(|(gradient, output)| *gradient = scale * output);
    }
    for segment in segments {
        let share = |(&(max, sum), &of): (&(f32, f64), &RowSoftmax)| (f64::from(scale) * weight(max, of) / sum) as f32;
        let shares: Vec<f32> = totals.iter().zip(&segment.softmax).map(share).collect();
        segment.expected.read(isa, |row, first, values| {
            let to = &mut hidden[row * inputs..][..inputs][first..];
            to.iter_mut().zip(values).for_each(|(gradient, expected)| *gradient -= shares[row] * expected);
        });
    }
}

/// Updates the softmax of rows by a block of logits, `(panels, rows)` lanes, which become the terms `exp(scale (logit -
/// max))`.
#[inline(always)]
fn exponentiate_rows(logits: &mut [Lane], softmax: &mut [RowSoftmax], scale: f32) {
    let rows = softmax.len();
    for (row, softmax) in softmax.iter_mut().enumerate() {
        let mut most = [f32::NEG_INFINITY; PANEL];
        for lane in logits[row..].iter().step_by(rows) {
            most.iter_mut().zip(lane.0).for_each(|(most, logit)| *most = if logit > *most { logit } else { *most });
        }
        let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
        softmax.rescale = 1.0;
        if scale * (most - softmax.max) > SLACK {
            softmax.rescale = ops::exp(scale * (softmax.max - most));
            softmax.max = most;
        }
        let (max, mut sums) = (softmax.max, [0.0f32; PANEL]);
        for lane in logits[row..].iter_mut().step_by(rows) {
            for (sum, logit) in sums.iter_mut().zip(&mut lane.0) {
                *logit = ops::exp(scale * (*logit - max));
                *sum += *logit;
            }
        }
        softmax.sum = softmax.sum * f64::from(softmax.rescale) + sums.into_iter().map(f64::from).sum::<f64>();
    }
}
ops::vectorised!(exponentiate, exponentiate_rows, (logits: &mut [Lane], softmax: &mut [RowSoftmax], scale: f32));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::PassPrecisions;
    use proptest::prelude::*;

    /// The log-probability and its gradient in double precision.
    fn reference(w: &[f32], hidden: &[f32], target: usize, scale: f32) -> (f64, Vec<f64>) {
        let inputs = hidden.len();
        let dot = |row: &[f32]| row.iter().zip(hidden).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let logits: Vec<f64> = w.chunks_exact(inputs).map(|row| f64::from(scale) * dot(row)).collect();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
        let probability = |output: usize| (logits[output] - max).exp() / sum;
        let gradient = |input: usize| {
            let at = |output: usize| f64::from(w[output * inputs + input]);
            let expected: f64 = (0..logits.len()).map(|output| probability(output) * at(output)).sum();
            f64::from(scale) * (at(target) - expected)
        };
        (logits[target] - max - sum.ln(), (0..inputs).map(gradient).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Vocabularies with full and with partial last panels, blocks and segments; steeply rising logits, so that the
        /// maximum moves.
        #[test]
        fn a_block_at_a_time_is_the_whole_softmax(
            rows in 1usize..150,
            inputs in 1usize..70,
            outputs in 1usize..700,
            scale in 0.3f32..2.0,
            steep in prop::sample::select(vec![0.1f32, 3.0]),
            segment in prop::sample::select(vec![BLOCK_OUTPUTS, 2 * BLOCK_OUTPUTS, SEGMENT_OUTPUTS]),
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
            let packed = Weight::new(&[&w], inputs, PassPrecisions::F32);
            let (mut gradients, mut found, mut again) = (hidden.clone(), vec![0.0; rows], vec![0.0; rows]);
            log_probs_by(segment, &packed, &mut gradients, (&targets, scale, true), &mut found);
            log_probs_by(segment, &packed, &mut hidden.clone(), (&targets, scale, false), &mut again);
            prop_assert_eq!(&found, &again);
            for row in 0..rows {
                let (log_prob, gradient) = reference(&w, &hidden[row * inputs..][..inputs], targets[row] as usize, scale);
                prop_assert!((f64::from(found[row]) - log_prob).abs() < 2e-4 * (1.0 + log_prob.abs()), "{} {log_prob}", found[row]);
                for (ours, theirs) in gradients[row * inputs..][..inputs].iter().zip(gradient) {
                    prop_assert!((f64::from(*ours) - theirs).abs() < 1e-3 * f64::from(1.0 + steep), "{ours} {theirs}");
                }
            }
        }
    }
}
