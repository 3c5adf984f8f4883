//! Failed steps in a row.

/// Counts the steps that failed since the last one taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct FailureStreak(u32);

impl FailureStreak {
    /// After this many failed steps in a row the run ends.
    pub const MAX: u32 = 3;

    /// A step was taken.
    pub fn reset(&mut self) {
        self.0 = 0;
    }

    /// A step failed. Returns whether that makes too many.
    #[must_use]
    pub fn is_over_with_one_more(&mut self) -> bool {
        self.0 += 1;
        self.0 >= Self::MAX
    }
}
