//! Attention of a few queries over 8-bit keys and values, by plain loops.

use super::codes::{CodeQuad, GROUP_QUADS, RoundedQuery, quads_of, query_len, round_query, round_weights, steps};
use super::layout::BLOCK_TOKENS;
use super::online::{BlockProducts, BlockWeights, Queries, attend_rows};
use crate::kernels::ops::vectorised;
use std::borrow::Cow;
use std::ops::Range;

/// Sums of each query that are computed in registers: six queries take twelve of AVX2's sixteen.
const WIDTH: usize = 16;
/// [`WIDTH`] with AVX-512's registers.
const WIDTH_WIDE: usize = 32;

#[inline(always)]
fn attend_rows_codes(queries: Queries<'_>, keys: &[CodeQuad], values: &[CodeQuad], out: &mut [f32]) {
    attend_rows::<Loops<WIDTH>>(queries, keys, values, out);
}
#[inline(always)]
fn attend_rows_codes_wide(queries: Queries<'_>, keys: &[CodeQuad], values: &[CodeQuad], out: &mut [f32]) {
    attend_rows::<Loops<WIDTH_WIDE>>(queries, keys, values, out);
}
vectorised!(
    attend, attend_rows_codes, attend_rows_codes_wide,
    (queries: Queries<'_>, keys: &[CodeQuad], values: &[CodeQuad], out: &mut [f32])
);

/// Rounded queries, one behind the other.
#[inline(always)]
pub(super) fn pack(q: &[f32], dim: usize) -> Cow<'_, [i32]> {
    let len = query_len(dim);
    let mut words = vec![0; q.len() / dim * len];
    q.chunks_exact(dim).zip(words.chunks_exact_mut(len)).for_each(|(query, words)| round_query(query, words));
    Cow::Owned(words)
}

/// Loops over `WIDTH` sums of each query in registers.
struct Loops<const WIDTH: usize>;

impl<const WIDTH: usize> BlockProducts for Loops<WIDTH> {
    type Element = CodeQuad;
    type Word = i32;

    #[inline(always)]
    fn pack(q: &[f32], dim: usize) -> Cow<'_, [i32]> {
        pack(q, dim)
    }

    #[inline(always)]
    fn scores<const Q: usize>(q: &[i32], keys: &[CodeQuad]) -> [[f32; BLOCK_TOKENS]; Q] {
        let words = q.len() / Q;
        let quads = quads_of(words);
        let queries: [RoundedQuery<'_>; Q] =
            std::array::from_fn(|i| RoundedQuery::new(&q[i * words..][..words], quads));
        let (codes, key_steps) = keys.split_at(quads * BLOCK_TOKENS);
        let mut scores = [[0.0f32; BLOCK_TOKENS]; Q];
        for (group, words) in key_steps.chunks_exact(BLOCK_TOKENS / 2).enumerate() {
            let steps = steps(words);
            for from in (0..BLOCK_TOKENS).step_by(WIDTH) {
                let mut sums = queries.map(|query| [query.corrections[group]; WIDTH]);
                for quad in group * GROUP_QUADS..quads.min((group + 1) * GROUP_QUADS) {
                    let factors = queries.map(|query| query.quad(quad));
                    for part in 0..4 {
                        let mut key = [0; WIDTH];
                        for (key, codes) in key.iter_mut().zip(&codes[quad * BLOCK_TOKENS + from..][..WIDTH]) {
                            *key = i32::from(codes[part]);
                        }
                        for (sums, factors) in sums.iter_mut().zip(&factors) {
                            for (sum, key) in sums.iter_mut().zip(key) {
                                *sum = sum.wrapping_add(factors[part].wrapping_mul(key));
                            }
                        }
                    }
                }
                for (scores, sums) in scores.iter_mut().zip(&sums) {
                    let scores = &mut scores[from..from + WIDTH];
                    for ((score, sum), step) in scores.iter_mut().zip(sums).zip(&steps[from..from + WIDTH]) {
                        *score = (*sum as f32).mul_add(*step, *score);
                    }
                }
            }
        }
        for (scores, query) in scores.iter_mut().zip(&queries) {
            scores.iter_mut().for_each(|score| *score *= query.step);
        }
        scores
    }

    #[inline(always)]
    fn add_values<const Q: usize>(weights: &BlockWeights<Q>, values: &[CodeQuad], out: &mut [f32]) {
        let (dim, mut from) = (out.len() / Q, 0);
        let weights = RoundedWeights::new(weights, &values[BLOCK_TOKENS / 4 * dim..]);
        while from + WIDTH <= dim {
            weights.add_columns::<WIDTH>(values, from, out);
            from += WIDTH;
        }
        while from + 8 <= dim {
            weights.add_columns::<8>(values, from, out);
            from += 8;
        }
        while from < dim {
            weights.add_columns::<1>(values, from, out);
            from += 1;
        }
    }
}

/// [`BlockWeights`] times the steps of their values, rounded.
struct RoundedWeights<'a, const Q: usize> {
    weights: [[i32; BLOCK_TOKENS]; Q],
    /// Of each query's weights.
    steps: [f32; Q],
    of: &'a BlockWeights<Q>,
}

impl<'a, const Q: usize> RoundedWeights<'a, Q> {
    #[inline(always)]
    fn new(of: &'a BlockWeights<Q>, value_steps: &[CodeQuad]) -> Self {
        let value_steps = steps(value_steps);
        let (mut weights, mut steps) = ([[0; BLOCK_TOKENS]; Q], [0.0; Q]);
        for ((rounded, step), weights) in weights.iter_mut().zip(&mut steps).zip(&of.weights) {
            (*rounded, *step) = round_weights(weights, &value_steps);
        }
        Self { weights, steps, of }
    }

    /// Quads of places that any query attends to.
    #[inline(always)]
    fn quads(&self) -> Range<usize> {
        self.of.places.start / 4..self.of.places.end.div_ceil(4)
    }

    /// `out = out * rescale + weights * values`, columns `from .. from + W`.
    #[inline(always)]
    fn add_columns<const W: usize>(&self, values: &[CodeQuad], from: usize, out: &mut [f32]) {
        let dim = out.len() / Q;
        let mut sums = [[0i32; W]; Q];
        for quad in self.quads() {
            for part in 0..4 {
                let mut value = [0; W];
                for (value, codes) in value.iter_mut().zip(&values[quad * dim + from..][..W]) {
                    *value = i32::from(codes[part].cast_signed());
                }
                for (sums, weights) in sums.iter_mut().zip(&self.weights) {
                    for (sum, value) in sums.iter_mut().zip(value) {
                        *sum += weights[4 * quad + part] * value;
                    }
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (out, sum) in out[i * dim + from..][..W].iter_mut().zip(sums) {
                *out = (*sum as f32).mul_add(self.steps[i], *out * self.of.rescale[i]);
            }
        }
    }
}

/// The loops as compiled for any processor, by the numbers in registers.
#[cfg(test)]
pub(super) const ANY: [Kernel; 2] = [attend_rows_codes, attend_rows_codes_wide];

/// Attention of queries over keys and values.
#[cfg(test)]
type Kernel = fn(Queries<'_>, &[CodeQuad], &[CodeQuad], &mut [f32]);

/// The scores of one query over a block's keys.
#[cfg(test)]
pub(super) fn scores_of(query: &[f32], keys: &[CodeQuad]) -> [f32; BLOCK_TOKENS] {
    Loops::<WIDTH>::scores::<1>(&pack(query, query.len()), keys)[0]
}
