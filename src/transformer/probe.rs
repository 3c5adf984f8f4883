//! A door for the benches: attention over a paged cache without the layers around it.
//!
//! Not part of the crate's interface.

use crate::formats::spec::ModelSpec;
use crate::kernels::KvKind;
use crate::kernels::attention::{AttentionParams, AttentionRow, BLOCK_TOKENS, Heads, KvCache};

/// Decoding sequences, one query row each, over a cache of one layer.
pub struct Attention {
    cache: KvCache,
    heads: Heads,
    tables: Vec<Vec<u32>>,
    context: usize,
    qkv: Vec<f32>,
    found: Vec<f32>,
}

impl Attention {
    /// `sequences` of `context` tokens with the heads of `spec`, keys and values as `kind` says.
    ///
    /// # Panics
    /// Where the system has no room for their keys and values.
    pub fn new(spec: &ModelSpec, sequences: usize, context: usize, kind: KvKind) -> Self {
        let heads = Heads::of(spec);
        let blocks = context.div_ceil(BLOCK_TOKENS);
        let cache = KvCache::new(1, heads, sequences * blocks, kind).expect("room for keys and values");
        let tables: Vec<Vec<u32>> =
            (0..sequences).map(|s| (0..blocks).map(|b| (b * sequences + s) as u32).collect()).collect();
        let row = heads.q_width() + 2 * heads.kv_width();
        let wave = |rows: usize| -> Vec<f32> { (0..rows * row).map(|i| (i as f32 * 0.37).sin()).collect() };
        let found = vec![0.0; sequences * heads.q_width()];
        let mut probe = Self { cache, heads, tables: Vec::new(), context, qkv: wave(context), found };
        for blocks in &tables {
            let rows: Vec<AttentionRow<'_>> = (0..context).map(|position| AttentionRow { blocks, position }).collect();
            let mut found = vec![0.0; context * heads.q_width()];
            Self::step(&mut probe.cache, heads, &probe.qkv, &mut found, &rows);
        }
        Self { tables, qkv: wave(sequences), ..probe }
    }

    /// Attends once from every sequence's last position.
    pub fn attend(&mut self) {
        let reach = |blocks| AttentionRow { blocks, position: self.context - 1 };
        let rows: Vec<AttentionRow<'_>> = self.tables.iter().map(|blocks| reach(blocks.as_slice())).collect();
        Self::step(&mut self.cache, self.heads, &self.qkv, &mut self.found, &rows);
    }

    fn step(cache: &mut KvCache, heads: Heads, qkv: &[f32], found: &mut [f32], rows: &[AttentionRow<'_>]) {
        let half = heads.head_dim / 2;
        let (cos, sin) = (vec![1.0; rows.len() * half], vec![0.0; rows.len() * half]);
        let angles = (cos.as_slice(), sin.as_slice());
        let params = AttentionParams { angles, half, qk_norms: None, norm_epsilon: 1e-5, window: usize::MAX };
        cache.attend(0, qkv, found, rows, params);
    }
}
