//! Tokens that a device draws itself, so that rows of logits need not leave it.

/// How a token is drawn from a row of logits. The order of filters is temperature, top-k, top-p over what top-k kept, min-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowSampling {
    /// The row, among those that are drawn from.
    pub row: usize,
    /// A number in `[0, 1)`: the point of the inverse CDF over ids in order.
    pub uniform: f64,
    /// 0 is greedy: the likeliest id, the lowest of equals, with its log-probability at temperature 1.
    pub temperature: f32,
    /// Keep the k likeliest; 0 is off.
    pub top_k: usize,
    /// Keep the smallest set of at least this mass; 1 is off.
    pub top_p: f32,
    /// Drop what is less likely than this share of the likeliest; 0 is off.
    pub min_p: f32,
}

/// A token that was drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub id: u32,
    /// Log-probability under the distribution it was drawn from (nats).
    pub log_prob: f32,
}
