//! What the engine says of its work: one step's report, and the sums since it was made.

/// What one step did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepReport {
    /// Prompt tokens computed, and sampled ones computed again after a preemption.
    pub prefill_tokens: usize,
    /// Tokens sampled.
    pub sampled_tokens: usize,
    /// Sequences sent back to be recomputed.
    pub preemptions: usize,
    /// Prompt tokens found in the cache (after a preemption, sampled ones too).
    pub cached_tokens: usize,
}

/// What an engine has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Steps that computed something.
    pub steps: u64,
    /// Tokens of the prompts that were asked, each times its continuations: what would be computed if
    /// nothing were shared. The three below say what became of them.
    pub prompt_tokens: u64,
    /// Tokens computed that were not sampled just before, recomputed ones included.
    pub prefill_tokens: u64,
    /// Tokens found in the cache when their sequence was let in.
    pub cached_tokens: u64,
    /// Prompt tokens that a continuation took over from its sibling.
    pub forked_tokens: u64,
    /// Tokens sampled.
    pub sampled_tokens: u64,
    /// Sequences sent back to be recomputed because blocks ran out.
    pub preemptions: u64,
    /// Blocks copied because a sibling still read them.
    pub copied_blocks: u64,
    /// Blocks whose cached content was given up for new content.
    pub evicted_blocks: u64,
}

impl Counters {
    /// Adds a step that copied `copies` blocks.
    pub(crate) fn add(&mut self, report: &StepReport, copies: usize) {
        self.steps += u64::from(report.prefill_tokens + report.sampled_tokens > 0);
        self.prefill_tokens += report.prefill_tokens as u64;
        self.cached_tokens += report.cached_tokens as u64;
        self.sampled_tokens += report.sampled_tokens as u64;
        self.preemptions += report.preemptions as u64;
        self.copied_blocks += copies as u64;
    }
}
