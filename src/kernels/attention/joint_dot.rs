//! Joint prefill by bf16 dot products (AVX-512 BF16): see [`super::joint_strip`].
//!
//! A dot product of pairs is two fused multiply-adds, the pair's first before its second, so results equal those of
//! [`super::online`] to the last bit.

use super::element::{Bf16Pair, FloatElement as _, pair_of_rounded};
use super::joint_strip::{self, Operands, Scratch, Strip, StripProducts};
use super::layout::BLOCK_TOKENS;
use super::online::Queries;
use crate::kernels::bf16_dots::{interleaved, round};
use crate::kernels::isa::{Isa, has_bf16_dots};
use crate::kernels::layout::{Lane, NO_SUM, PANEL, floats_mut};
use crate::kernels::transpose16::transpose16;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::ops::Range;

/// Keys or dimensions of a tile.
const TILE: usize = 8;

thread_local! {
    static SCRATCH: Cell<Scratch<Pairs>> = Cell::default();
}

/// Whether this processor has bf16 dot products, and a head of `dim` dimensions is made of their tiles.
pub(super) fn applies(dim: usize) -> bool {
    dim.is_multiple_of(2 * PANEL) && has_bf16_dots()
}

/// Attention of `queries`, all of one sequence, rounded to bf16; `out` becomes `(rows, group, head_dim)`.
///
/// # Panics
/// Where [`applies`] does not.
pub(super) fn attend(queries: Queries<'_>, keys: &[Bf16Pair], values: &[Bf16Pair], out: &mut [f32]) {
    let mut scratch = SCRATCH.take();
    joint_strip::attend(&mut scratch, queries, keys, values, out);
    SCRATCH.set(scratch);
}

/// Pairs of each query, and of weights. Private, and used in [`joint_strip::attend`] alone.
#[derive(Default)]
struct Pairs {
    /// `(head_dim / 2, vectors)`.
    queries: Vec<Lane>,
    /// `(16, vectors)`.
    weights: Vec<Lane>,
}

impl StripProducts for Pairs {
    type Element = Bf16Pair;

    fn applies(dim: usize) -> bool {
        applies(dim)
    }

    fn attend<const V: usize>(strip: &Strip<'_>, scratch: &mut Scratch<Self>, operands: Operands<'_, Bf16Pair>) {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
        fn compiled<const V: usize>(strip: &Strip<'_>, scratch: &mut Scratch<Pairs>, operands: Operands<'_, Bf16Pair>) {
            // SAFETY: these are the instructions.
            unsafe { strip.attend::<Pairs, V>(scratch, operands) }
        }
        // SAFETY: `applies` has looked for them.
        unsafe { compiled::<V>(strip, scratch, operands) }
    }

    /// Packs pairs of dimensions of 16 queries a lane.
    #[inline(always)]
    fn set_queries<const V: usize>(&mut self, q: &[f32], dim: usize) {
        let isa = Isa::detect();
        self.queries.resize(dim / 2 * V, NO_SUM);
        self.weights.resize(BLOCK_TOKENS / 2 * V, NO_SUM);
        for v in 0..V {
            for first in (0..dim).step_by(PANEL) {
                let mut square = [NO_SUM; PANEL];
                transpose16(isa, (&q[v * PANEL * dim + first..], dim), (floats_mut(&mut square), PANEL));
                for (pair, lanes) in square.as_chunks::<2>().0.iter().enumerate() {
                    let to = &mut self.queries[(first / 2 + pair) * V + v].0;
                    for ((to, first), second) in to.iter_mut().zip(&lanes[0].0).zip(&lanes[1].0) {
                        *to = f32::from_bits(pair_of_rounded(*first, *second));
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn scores<const V: usize>(&self, keys: &[Bf16Pair], to: &mut [Lane]) {
        // SAFETY: the processor has the instructions.
        unsafe { scores::<V>(&self.queries, keys, to) }
    }

    #[inline(always)]
    fn set_weights<const V: usize>(&mut self, pair: usize, v: usize, weights: [__m512; 2]) {
        // SAFETY: the processor has the instructions.
        unsafe { set_weights(&mut self.weights[pair * V + v], weights) }
    }

    #[inline(always)]
    fn add_values<const V: usize>(
        &mut self,
        values: &[Bf16Pair],
        places: Range<usize>,
        rescale: &[__m512; V],
        sums: &mut [Lane],
    ) {
        let pairs = places.start / Bf16Pair::TOGETHER..places.end.div_ceil(Bf16Pair::TOGETHER);
        // SAFETY: the processor has the instructions.
        unsafe { add_values::<V>(&self.weights, values, pairs, rescale, sums) }
    }
}

/// A lane of pairs.
#[inline(always)]
fn pairs(lane: &Lane) -> __m512bh {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute::<[f32; PANEL], __m512bh>(lane.0) }
}

/// The pair in all lanes.
#[target_feature(enable = "avx512f")]
#[inline]
fn broadcast(pair: Bf16Pair) -> __m512bh {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair.cast_signed())) }
}

/// Scores of all queries with a block's keys, `(head_dim / 2, 32)`.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn scores<const V: usize>(queries: &[Lane], keys: &[Bf16Pair], scores: &mut [Lane]) {
    for first in (0..BLOCK_TOKENS).step_by(TILE) {
        let mut sums = [[_mm512_setzero_ps(); V]; TILE];
        for (queries, keys) in queries.chunks_exact(V).zip(keys.chunks_exact(BLOCK_TOKENS)) {
            let keys = &keys[first..first + TILE];
            for (sums, key) in sums.iter_mut().zip(keys) {
                let key = broadcast(*key);
                for (sum, query) in sums.iter_mut().zip(queries) {
                    *sum = _mm512_dpbf16_ps(*sum, pairs(query), key);
                }
            }
        }
        for (to, sum) in scores[first * V..][..TILE * V].iter_mut().zip(sums.as_flattened()) {
            // SAFETY: a lane is 16 floats aligned to 64 bytes.
            unsafe { _mm512_store_ps(to.0.as_mut_ptr(), *sum) }
        }
    }
}

/// Narrows the weights of two places.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn set_weights(to: &mut Lane, [first, second]: [__m512; 2]) {
    // A pair's first number is its upper one.
    let pairs = interleaved(round(second, first));
    // SAFETY: a lane is 64 bytes that are aligned to 64.
    unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), pairs) }
}

/// Rescales the sums and adds the block's values, `(16, head_dim)` pairs, of which `places` count.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn add_values<const V: usize>(
    weights: &[Lane],
    values: &[Bf16Pair],
    places: Range<usize>,
    rescale: &[__m512; V],
    sums: &mut [Lane],
) {
    let dim = sums.len() / V;
    for first in (0..dim).step_by(TILE) {
        let sums = &mut sums[first * V..][..TILE * V];
        let mut tile = [[_mm512_setzero_ps(); V]; TILE];
        for (tile, sums) in tile.iter_mut().zip(sums.chunks_exact(V)) {
            for ((sum, so_far), rescale) in tile.iter_mut().zip(sums).zip(*rescale) {
                // SAFETY: a lane is 16 floats aligned to 64 bytes.
                *sum = _mm512_mul_ps(unsafe { _mm512_load_ps(so_far.0.as_ptr()) }, rescale);
            }
        }
        for place in places.clone() {
            let (weights, values) = (&weights[place * V..][..V], &values[place * dim + first..][..TILE]);
            for (sums, value) in tile.iter_mut().zip(values) {
                let value = broadcast(*value);
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_dpbf16_ps(*sum, pairs(weights), value);
                }
            }
        }
        for (to, sum) in sums.iter_mut().zip(tile.as_flattened()) {
            // SAFETY: a lane is 16 floats aligned to 64 bytes.
            unsafe { _mm512_store_ps(to.0.as_mut_ptr(), *sum) }
        }
    }
}
