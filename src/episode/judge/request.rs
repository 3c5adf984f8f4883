//! Requests to a judge.

use crate::episode::role::ResponseContext;
use crate::types::{Completion, Prompt};
use std::sync::Arc;

/// A refinement with its prompt, response and critique.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// The prompt.
    pub prompt: &'a Prompt,
    /// The response to it.
    pub response: &'a Completion,
    /// The critique of the response.
    pub critique: &'a Completion,
    /// The refinement by that critique.
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
