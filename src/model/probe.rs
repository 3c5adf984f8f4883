//! A door for the benches: attention over a paged cache without the layers around it.
//!
//! Not part of the crate's interface.

use super::attention::{BLOCK_TOKENS, Heads, KvCache, Reach};
use super::spec::ModelSpec;

/// Decoding sequences, one query row each, over a cache of one layer.
pub struct Attention {
    cache: KvCache,
    tables: Vec<Vec<u32>>,
    context: usize,
    queries: Vec<f32>,
    out: Vec<f32>,
}

impl Attention {
    /// `sequences` of `context` tokens with the heads of `spec`.
    pub fn new(spec: &ModelSpec, sequences: usize, context: usize) -> Self {
        let heads = Heads::of(spec);
        let blocks = context.div_ceil(BLOCK_TOKENS);
        let mut cache = KvCache::new(&ModelSpec { layers: 1, ..spec.clone() }, sequences * blocks);
        let tables: Vec<Vec<u32>> =
            (0..sequences).map(|s| (0..blocks).map(|b| (b * sequences + s) as u32).collect()).collect();
        let wave = |count: usize| -> Vec<f32> { (0..count).map(|i| (i as f32 * 0.37).sin()).collect() };
        for blocks in &tables {
            let rows: Vec<Reach<'_>> = (0..context).map(|position| Reach { blocks, position }).collect();
            let values = wave(context * heads.kv_width());
            cache.write(0, &values, &values, &rows);
        }
        let width = sequences * heads.q_width();
        Self { cache, tables, context, queries: wave(width), out: vec![0.0; width] }
    }

    /// Attends once from every sequence's last position.
    pub fn attend(&mut self) {
        let reach = |blocks| Reach { blocks, position: self.context - 1 };
        let rows: Vec<Reach<'_>> = self.tables.iter().map(|blocks| reach(blocks.as_slice())).collect();
        self.cache.attend(0, &self.queries, &mut self.out, &rows);
    }
}
