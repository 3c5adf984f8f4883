//! What a judge is asked.

use crate::episode::role::ResponseContext;
use crate::types::{Completion, Prompt};
use std::sync::Arc;

/// One refinement and what it came from.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// What was asked.
    pub prompt: &'a Prompt,
    /// What was answered.
    pub response: &'a Completion,
    /// What was criticised.
    pub critique: &'a Completion,
    /// What came of it.
    pub refinement: &'a Completion,
}

/// All refinements of one critique.
#[derive(Clone, Debug)]
pub struct JudgeRequest {
    /// Prompt and response.
    pub context: Arc<ResponseContext>,
    /// The critique.
    pub critique: Arc<Completion>,
    /// Its refinements.
    pub refinements: Vec<Completion>,
}

/// All critiques of one response.
#[derive(Clone, Debug)]
pub struct PreferenceRequest {
    /// Prompt and response.
    pub context: Arc<ResponseContext>,
    /// The critiques.
    pub critiques: Vec<Arc<Completion>>,
}
