//! The head sizes of a model's attention.

use crate::formats::spec::ModelSpec;
use crate::kernels::attention::Heads;

impl Heads {
    /// The heads of `spec`.
    pub(crate) fn of(spec: &ModelSpec) -> Self {
        Self { heads: spec.heads, kv_heads: spec.kv_heads, head_dim: spec.head_dim, scale: spec.score_scale }
    }
}
