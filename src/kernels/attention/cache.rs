//! The paged KV cache of the CPU.
//!
//! A block holds 32 positions of every KV head, by head: see [`KvElement`].

use super::codes::CodeQuad;
use super::element::{Bf16Pair, KvElement};
use super::layout::Heads;
use crate::kernels::{KvKind, LazyZeros};
use std::io;

/// Keys and values of every layer, in blocks.
pub(crate) struct KvCache {
    pub(super) layers: KvLayers,
    pub(super) heads: Heads,
    blocks: usize,
}

/// Keys and values by layer, of one kind.
pub(super) enum KvLayers {
    F32(Vec<KvLayer<f32>>),
    Bf16(Vec<KvLayer<Bf16Pair>>),
    Int8(Vec<KvLayer<CodeQuad>>),
}

/// Keys and values of one layer, by KV head.
pub(super) type KvLayer<T> = Vec<KvHead<T>>;

/// Keys and values of one KV head, `blocks` blocks each.
pub(super) struct KvHead<T> {
    pub(super) keys: LazyZeros<T>,
    pub(super) values: LazyZeros<T>,
}

impl KvCache {
    /// Bytes of one block over all layers, keys and values.
    pub(crate) fn block_bytes(layers: usize, heads: Heads, kind: KvKind) -> usize {
        fn bytes<T: KvElement>(dim: usize) -> usize {
            (T::keys_len(dim) + T::values_len(dim)) * size_of::<T>()
        }
        let of_head = match kind {
            KvKind::F32 => bytes::<f32>,
            KvKind::Bf16 => bytes::<Bf16Pair>,
            KvKind::Int8 => bytes::<CodeQuad>,
        };
        layers * heads.kv_heads * of_head(heads.head_dim)
    }

    /// A cache of `blocks` blocks. The system allocates its pages when they are first written.
    ///
    /// # Errors
    /// Where the system has no address space for it.
    pub(crate) fn new(layers: usize, heads: Heads, blocks: usize, kind: KvKind) -> io::Result<Self> {
        Ok(Self { layers: KvLayers::new(layers, heads, blocks, kind)?, heads, blocks })
    }

    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Copies whole blocks, `(from, to)`, in every layer.
    pub(crate) fn copy_blocks(&mut self, pairs: &[(u32, u32)]) {
        fn copy<T: KvElement>(layers: &mut [KvLayer<T>], pairs: &[(u32, u32)], dim: usize) {
            let copy = |elements: &mut [T], size: usize, from: u32, to: u32| {
                let (from, to) = (from as usize * size, to as usize * size);
                elements.copy_within(from..from + size, to);
            };
            for KvHead { keys, values } in layers.iter_mut().flatten() {
                for &(from, to) in pairs {
                    copy(keys, T::keys_len(dim), from, to);
                    copy(values, T::values_len(dim), from, to);
                }
            }
        }
        let dim = self.heads.head_dim;
        match &mut self.layers {
            KvLayers::F32(layers) => copy(layers, pairs, dim),
            KvLayers::Bf16(layers) => copy(layers, pairs, dim),
            KvLayers::Int8(layers) => copy(layers, pairs, dim),
        }
    }
}

impl KvLayers {
    fn new(layers: usize, heads: Heads, blocks: usize, kind: KvKind) -> io::Result<Self> {
        fn zeros<T: KvElement>(layers: usize, heads: Heads, blocks: usize) -> io::Result<Vec<KvLayer<T>>> {
            let elements = |of_block: usize| LazyZeros::new(blocks * of_block);
            let dim = heads.head_dim;
            let head = |_| Ok(KvHead { keys: elements(T::keys_len(dim))?, values: elements(T::values_len(dim))? });
            (0..layers).map(|_| (0..heads.kv_heads).map(head).collect()).collect()
        }
        Ok(match kind {
            KvKind::F32 => Self::F32(zeros(layers, heads, blocks)?),
            KvKind::Bf16 => Self::Bf16(zeros(layers, heads, blocks)?),
            KvKind::Int8 => Self::Int8(zeros(layers, heads, blocks)?),
        })
    }
}
