//! Which kernel computes attention: by what the cache stores, the queries and the processor.

use super::codes::CodeQuad;
use super::element::{Bf16Pair, KvElement};
use super::online::{self, Queries};
#[cfg(target_arch = "x86_64")]
use super::{joint_codes, joint_dot, online_code_dot, online_dot};
use super::{joint_prefill, online_codes};

/// Attention over a cache of such elements. Whatever the kernel, results are the same to the last bit.
pub(super) trait Attend: KvElement {
    /// Attention of `queries` over the cache of their KV head; `out` becomes `(rows, group, head_dim)`.
    fn attend(queries: Queries<'_>, keys: &[Self], values: &[Self], out: &mut [f32]);
    /// The same where joint prefill applies.
    fn attend_joint(queries: Queries<'_>, keys: &[Self], values: &[Self], out: &mut [f32]);
}

impl Attend for f32 {
    fn attend(queries: Queries<'_>, keys: &[Self], values: &[Self], out: &mut [f32]) {
        online::attend_f32(queries, keys, values, out);
    }

    fn attend_joint(queries: Queries<'_>, keys: &[Self], values: &[Self], out: &mut [f32]) {
        joint_prefill::attend(queries, keys, values, out);
    }
}

impl Attend for Bf16Pair {
    fn attend(queries: Queries<'_>, keys: &[Self], values: &[Self], out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if joint_dot::applies(queries.heads.head_dim) {
            return online_dot::attend(queries, keys, values, out);
        }
        online::attend_bf16(queries, keys, values, out);
    }

    fn attend_joint(queries: Queries<'_>, keys: &[Self], values: &[Self], out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if joint_dot::applies(queries.heads.head_dim) {
            return joint_dot::attend(queries, keys, values, out);
        }
        joint_prefill::attend(queries, keys, values, out);
    }
}

impl Attend for CodeQuad {
    fn attend(queries: Queries<'_>, keys: &[Self], values: &[Self], out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if online_code_dot::applies(queries.heads.head_dim) {
            return online_code_dot::attend(queries, keys, values, out);
        }
        online_codes::attend(queries, keys, values, out);
    }

    fn attend_joint(queries: Queries<'_>, keys: &[Self], values: &[Self], out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if online_code_dot::applies(queries.heads.head_dim) {
            return joint_codes::attend(queries, keys, values, out);
        }
        out.fill(0.0);
        online_codes::attend(queries, keys, values, out);
    }
}
