//! The paged KV cache of the CPU.
//!
//! A block holds 32 positions of every KV head, by head: see [`KvElement`].

use super::element::{Bf16Pair, KvElement};
use super::layout::{BLOCK_TOKENS, Heads};
use crate::kernels::advise_huge_pages;

/// Keys and values of every layer, in blocks.
pub(crate) struct KvCache {
    pub(super) layers: KvLayers,
    pub(super) heads: Heads,
    blocks: usize,
}

/// Keys and values by layer, in f32 or in bf16.
pub(super) enum KvLayers {
    F32(Vec<KvLayer<f32>>),
    Bf16(Vec<KvLayer<Bf16Pair>>),
}

/// Keys and values of one layer, by KV head.
pub(super) type KvLayer<T> = Vec<KvHead<T>>;

/// Keys and values of one KV head, `blocks` blocks each.
pub(super) struct KvHead<T> {
    pub(super) keys: Vec<T>,
    pub(super) values: Vec<T>,
}

impl KvCache {
    /// Bytes of one block over all layers, keys and values.
    pub(crate) fn block_bytes(layers: usize, heads: Heads, narrow: bool) -> usize {
        let size = if narrow { size_of::<u16>() } else { size_of::<f32>() };
        layers * 2 * BLOCK_TOKENS * heads.kv_width() * size
    }

    /// A cache of `blocks` blocks, in bf16 if `narrow`, else in f32. The system allocates its pages when they are first
    /// written.
    pub(crate) fn new(layers: usize, heads: Heads, blocks: usize, narrow: bool) -> Self {
        Self { layers: KvLayers::new(layers, heads, blocks, narrow), heads, blocks }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Copies whole blocks, `(from, to)`, in every layer.
    pub(crate) fn copy_blocks(&mut self, pairs: &[(u32, u32)]) {
        fn copy<T: KvElement>(layers: &mut [KvLayer<T>], pairs: &[(u32, u32)], dim: usize) {
            let size = T::block_len(dim);
            for KvHead { keys, values } in layers.iter_mut().flatten() {
                for &(from, to) in pairs {
                    let (from, to) = (from as usize * size, to as usize * size);
                    keys.copy_within(from..from + size, to);
                    values.copy_within(from..from + size, to);
                }
            }
        }
        let dim = self.heads.head_dim;
        match &mut self.layers {
            KvLayers::F32(layers) => copy(layers, pairs, dim),
            KvLayers::Bf16(layers) => copy(layers, pairs, dim),
        }
    }
}

impl KvLayers {
    fn new(layers: usize, heads: Heads, blocks: usize, narrow: bool) -> Self {
        fn zeros<T: KvElement>(layers: usize, heads: Heads, blocks: usize) -> Vec<KvLayer<T>> {
            let values = || {
                let values = T::zeros(blocks * T::block_len(heads.head_dim));
                advise_huge_pages(&values);
                values
            };
            let head = |_| KvHead { keys: values(), values: values() };
            (0..layers).map(|_| (0..heads.kv_heads).map(head).collect()).collect()
        }
        if narrow { Self::Bf16(zeros(layers, heads, blocks)) } else { Self::F32(zeros(layers, heads, blocks)) }
    }
}
