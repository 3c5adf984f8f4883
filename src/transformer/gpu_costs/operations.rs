//! The operations of `dense::ops` as a GPU sees them: kernels launched, bytes moved, multiplications.
//!
//! How launches are counted: one for every call of the tensor library that computes something, so `sqr`, `exp`, a sum, a
//! copy that makes a tensor contiguous, a conversion and a product are one each; `narrow`, `reshape`, `permute`, `t` and
//! `broadcast_as` of contiguous tensors are none. A mean is two (the sum, and its scale), a concatenation is one for each
//! part, `index_add` is two (it copies first). The decode pass's own kernels are one each. Those of a decode step were held
//! against the emulator's record (`scripts/cuda-emulate`), those of the score pass and its gradient are counted by reading.

use crate::kernels::attention::Heads;
use crate::transformer::dense::decode::LOGIT_ROWS_MAX;

/// Bytes of an activation.
const F32: f64 = 4.0;
/// Bytes of a weight, a key or a value.
const BF16: f64 = 2.0;

/// What the gradient of a matrix product with frozen weights costs, in units of the product: `dy W` alone.
const LINEAR_BACKWARD: f64 = 1.0;
/// The same for the two products with an adapter's factors: five for the gradients of `x`, `A` and `B`.
const ADAPTER_BACKWARD: f64 = 2.5;
/// The same for a piece that is computed again, as rotation is: once for that; its gradients, each zeroed, computed and added,
/// take about three times as much. The gate's, which is written out, comes to as much.
const PIECE_BACKWARD: f64 = 4.0;
/// The same for a norm, whose gradient is written out.
const NORM_BACKWARD: f64 = 2.0;
/// The same for attention, whose gradient is written out: five products for two, and twice as many passes over the scores.
const ATTENTION_BACKWARD: f64 = 2.5;
/// The same for the logits' log-softmax.
const LOG_PROBS_BACKWARD: f64 = 1.0;

/// The arithmetic that bounds an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Products of bf16, summed in f32: tensor cores.
    Bf16,
    /// Products of f32, and everything that is no product.
    F32,
}

/// One operation, or some that are alike in a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    /// Kernels launched.
    pub(crate) launches: f64,
    /// Bytes read and written on the device.
    pub(crate) bytes: f64,
    /// Floating-point operations; a multiply-add counts as two.
    pub(crate) flops: f64,
    /// What computes them.
    pub(crate) unit: Unit,
    /// The cost of its gradient, in units of its own.
    pub(crate) backward: f64,
}

/// The operations of a pass, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Operations {
    /// The operations.
    pub(crate) list: Vec<Operation>,
    /// Floats copied between host and device.
    pub(crate) host_floats: f64,
}

impl Operations {
    /// `launches` kernels that read and write `floats` f32 numbers together and multiply little.
    pub(super) fn piece(&mut self, launches: usize, floats: usize) {
        self.moved(launches, F32 * floats as f64, PIECE_BACKWARD);
    }

    fn moved(&mut self, launches: usize, bytes: f64, backward: f64) {
        self.list.push(Operation { launches: launches as f64, bytes, flops: 0.0, unit: Unit::F32, backward });
    }

    /// `graph::frozen_product`: a product with frozen weights in bf16, summed into f32; the gradient's is bf16 and converted.
    pub(super) fn product(&mut self, rows: usize, inputs: usize, outputs: usize) {
        self.moved(1, (F32 + BF16) * (rows * inputs) as f64, 2.0 * LINEAR_BACKWARD);
        self.list.push(Operation {
            launches: 1.0,
            bytes: BF16 * (rows * inputs + inputs * outputs) as f64 + F32 * (rows * outputs) as f64,
            flops: 2.0 * rows as f64 * (inputs * outputs) as f64,
            unit: Unit::Bf16,
            backward: LINEAR_BACKWARD,
        });
    }

    /// A product of f32 tensors, `(batch, rows, inner)` by `(batch, inner, columns)`.
    pub(super) fn f32_product(&mut self, batch: usize, [rows, inner, columns]: [usize; 3], backward: f64) {
        self.list.push(Operation {
            launches: 1.0,
            bytes: F32 * batch as f64 * (rows * inner + inner * columns + rows * columns) as f64,
            flops: 2.0 * batch as f64 * (rows * inner * columns) as f64,
            unit: Unit::F32,
            backward,
        });
    }

    /// An adapter's branch beside a linear: two products in f32.
    pub(super) fn branch(&mut self, rows: usize, inputs: usize, rank: usize, outputs: usize) {
        self.f32_product(1, [rows, inputs, rank], ADAPTER_BACKWARD);
        self.f32_product(1, [rows, rank, outputs], ADAPTER_BACKWARD);
    }

    /// `ops::norm`: a square, a mean (two), an epsilon, a root, a quotient and a product.
    pub(super) fn norm(&mut self, rows: usize, width: usize) {
        self.moved(7, 7.0 * F32 * (rows * width) as f64, NORM_BACKWARD);
    }

    /// `ops::gated` with SiLU: a copy of the gate, its activation, the product.
    pub(super) fn gated(&mut self, rows: usize, width: usize) {
        self.piece(3, 7 * rows * width);
    }

    /// `ops::rotate`: four products of half a head, two sums, a concatenation of two.
    pub(super) fn rotated(&mut self, rows: usize, width: usize) {
        self.piece(8, 9 * rows * width);
    }

    /// `attention::attend` of `rows` queries of each of `batch` sequences over `keys` keys. Queries and results are copied only
    /// where a sequence has several rows: else they are contiguous as they are.
    pub(super) fn attention(&mut self, heads: Heads, batch: usize, rows: usize, keys: usize) {
        let Heads { heads, kv_heads, head_dim, .. } = heads;
        let (queries, cached) = (batch * rows * heads * head_dim, batch * keys * kv_heads * head_dim);
        let scores = batch * heads * rows * keys;
        let mut piece = |launches, floats: usize| self.moved(launches, F32 * floats as f64, ATTENTION_BACKWARD);
        if rows > 1 {
            piece(2, 4 * queries);
        }
        piece(2, 2 * 2 * cached);
        // Scale, mask, softmax.
        piece(3, 6 * scores);
        let of_head = heads / kv_heads * rows;
        self.f32_product(batch * kv_heads, [of_head, head_dim, keys], ATTENTION_BACKWARD);
        self.f32_product(batch * kv_heads, [of_head, keys, head_dim], ATTENTION_BACKWARD);
    }

    /// `graph::log_probs` of `targets` rows: the product with the head, which the gradient computes again, then scale, maximum,
    /// difference, gather, exponential, sum, logarithm, difference.
    pub(super) fn log_probs(&mut self, targets: usize, hidden: usize, vocab: usize) {
        let chunks = targets.div_ceil(LOGIT_ROWS_MAX);
        let product = self.list.len();
        self.summed_product([targets, hidden, vocab], false);
        for one in &mut self.list[product..] {
            one.launches *= chunks as f64;
            one.backward = 2.0 * LINEAR_BACKWARD;
        }
        self.moved(8 * chunks, 8.0 * F32 * (targets * vocab) as f64, LOG_PROBS_BACKWARD);
    }

    /// The keys and values of `tokens` cached tokens, gathered from their blocks and converted to f32.
    pub(super) fn gather(&mut self, kv_width: usize, tokens: usize) {
        self.moved(4, 2.0 * (kv_width * tokens) as f64 * (3.0 * BF16 + F32), 0.0);
    }

    /// Flash attention's kernel over `cached` tokens, all in bf16: `pairs` of a query and a key.
    pub(super) fn flash(&mut self, heads: Heads, rows: usize, cached: usize, pairs: usize) {
        let width = heads.heads * heads.head_dim;
        self.list.push(Operation {
            launches: 1.0,
            bytes: BF16 * (2 * cached * heads.kv_width() + 2 * rows * width) as f64,
            flops: 4.0 * (pairs * width) as f64,
            unit: Unit::Bf16,
            backward: 0.0,
        });
    }

    /// `cuda::product`: a product with frozen weights in bf16 that is summed and kept in f32; its input is converted, unless
    /// it `is_bf16`.
    pub(super) fn summed_product(&mut self, [rows, inputs, outputs]: [usize; 3], is_bf16: bool) {
        if !is_bf16 {
            self.moved(1, (F32 + BF16) * (rows * inputs) as f64, 0.0);
        }
        self.list.push(Operation {
            launches: 1.0,
            bytes: BF16 * (rows * inputs + inputs * outputs) as f64 + F32 * (rows * outputs) as f64,
            flops: 2.0 * rows as f64 * (inputs * outputs) as f64,
            unit: Unit::Bf16,
            backward: 0.0,
        });
    }

    /// What the adapters of a step add to a linear: `rows` of which `adapted` have one, and the adapter's inputs, ranks and
    /// outputs. Rows are selected and added by index where not all have one.
    pub(super) fn joined(&mut self, [rows, adapted]: [usize; 2], [inputs, ranks, outputs]: [usize; 3], is_bf16: bool) {
        if ranks == 0 {
            return;
        }
        let (some, converted) = (usize::from(adapted < rows), usize::from(is_bf16));
        self.piece(some + converted, 2 * adapted * inputs * (some + converted));
        self.f32_product(1, [adapted, inputs, ranks], 0.0);
        self.f32_product(1, [adapted, ranks, outputs], 0.0);
        self.piece(1 + some, 3 * rows * outputs);
    }

    /// `fused::norm`.
    pub(super) fn fused_norm(&mut self, rows: usize, width: usize) {
        self.piece(1, 2 * rows * width);
    }

    /// `cuda::heads_to_cache`: f32 in, bf16 out.
    pub(super) fn heads(&mut self, heads: Heads, rows: usize) {
        self.moved(1, (F32 + BF16) * (rows * (heads.q_width() + 2 * heads.kv_width())) as f64, 0.0);
    }

    /// `cuda::draw`: the samplings there, three looks at each row, ids and log-probabilities back.
    pub(super) fn drawn(&mut self, rows: usize, vocab: usize) {
        self.uploaded(3);
        self.piece(1, 3 * rows * vocab);
    }

    /// The embeddings of `rows` ids: their copy to the device, the rows, the conversion, the scale.
    pub(super) fn embedded(&mut self, rows: usize, hidden: usize) {
        self.moved(4, (3.0 * BF16 + 3.0 * F32) * (rows * hidden) as f64, 0.0);
    }

    /// Small tensors made on the host: `copies` of them.
    pub(super) fn uploaded(&mut self, copies: usize) {
        self.moved(copies, 0.0, 0.0);
    }

    /// `layer`, `layers` times.
    pub(super) fn layers(&mut self, layers: usize, layer: &Self) {
        let times = layers as f64;
        let all = layer.list.iter().map(|one| Operation {
            launches: times * one.launches,
            bytes: times * one.bytes,
            flops: times * one.flops,
            ..*one
        });
        self.list.extend(all);
    }

    /// The operations of the gradient.
    pub(super) fn gradient(&self) -> Self {
        let of = |one: &Operation| Operation {
            launches: one.backward * one.launches,
            bytes: one.backward * one.bytes,
            flops: one.backward * one.flops,
            ..*one
        };
        Self { list: self.list.iter().map(of).collect(), ..Self::default() }
    }

    /// All kernels launched.
    pub(crate) fn launches(&self) -> f64 {
        self.list.iter().map(|one| one.launches).sum()
    }
}
