//! What one evaluation of the critic in service comes to.

use super::bootstrap::Estimate;

/// The figures of the critic in service, times 100.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalSummary {
    /// Critique utility.
    pub cu: Option<Estimate>,
    /// Share of the responses that are right.
    pub accuracy_before: Option<Estimate>,
    /// Share of the refinements that are right.
    pub accuracy_after: Option<Estimate>,
}
