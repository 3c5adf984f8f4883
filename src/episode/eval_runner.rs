//! Runs an evaluation: each held-out prompt is given to several critics, all of which criticise the same response.
//!
//! [`EvalRunner::run`] evaluates one prompt in the order of the paper (arXiv 2506.22157, section 3). It does not store
//! records and does not compute figures from them.
//!
//! Invariants: every critic criticises the same response; each seed depends on (seed, prompt index, role, index) and not
//! on the critic, so two critics with the same weights get the same results; an error in one critique drops only that
//! critique.

use super::judge::{JudgeRequest, JudgeSource, verdicts};
use super::models::Models;
use super::role::{self, ResponseContext};
use super::sampling::{PolicyRef, SampleError, SamplingClient};
use crate::device::Device;
use crate::episode::seed::seed;
use crate::episode::text_work::CHECKING;
use crate::eval::{CriticRecord, CritiqueOutcome, EvalConfig, Record, ScoredText};
use crate::run::events::EventBus;
use crate::telemetry::metrics::Role;
use crate::types::{ChatRole, Completion, CriticVersion, EpisodeId, FinishReason, Prompt, Turn, Verdict};
use crate::verify::{self, CheckError, Checker};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The least deadline of one request. On a slow machine, a rollout's deadline would drop the longest texts first and so
/// bias the figures; an evaluation only gives up requests that hang.
const DEADLINE_MIN: Duration = Duration::from_secs(3600);

/// A critic to evaluate.
#[derive(Clone)]
pub struct Candidate {
    /// Its name in the records.
    pub name: String,
    /// Where its critiques come from.
    pub source: CritiqueSource,
}

/// Where a candidate's critiques come from.
#[derive(Clone)]
pub enum CritiqueSource {
    /// The critic's prompt, sampled from this policy.
    Critic(PolicyRef),
    /// The same fixed text for every response.
    Empty,
    /// The base model continues the generator's conversation, with the generator's sampling.
    SelfCritique,
    /// A fixed text that states the prompt's known answer.
    Oracle,
}

/// Evaluates candidates on prompts.
pub struct EvalRunner {
    /// The models of all roles.
    pub models: Arc<Models>,
    /// The device that runs them.
    pub device: Device,
    /// Scores the texts of prompts that have a verifier.
    pub checker: Arc<Checker>,
    /// The critics to evaluate.
    pub candidates: Vec<Candidate>,
    /// N, M and the fixed texts.
    pub config: EvalConfig,
    /// Rounds of refinement, at least 1.
    pub rounds: usize,
    /// All random draws follow from it.
    pub seed: u64,
    /// Receives the events of sampling and judging.
    pub events: EventBus,
}

/// A chain of refinements. Its first round criticises the response, each later one the first refinement of the round
/// before.
struct Chain {
    source: CritiqueSource,
    /// Prompt and first response.
    context: Arc<ResponseContext>,
    /// The first response with its score.
    response: ScoredText,
    /// The prompt's index, for seeds.
    episode: EpisodeId,
    /// The chain's index among those of its candidate, less than N.
    index: usize,
}

/// A prompt's index and its record, or why it has none.
pub type PromptOutcome = (u64, Result<Record, SampleError>);

impl EvalRunner {
    /// Evaluates all prompts, a limited number at a time. They finish in any order.
    pub fn run_all(self: &Arc<Self>, prompts: impl Iterator<Item = (u64, Arc<Prompt>)>) -> JoinSet<PromptOutcome> {
        let permits = Arc::new(Semaphore::new(self.prompts_in_flight_max()));
        let mut running = JoinSet::new();
        for (index, prompt) in prompts {
            let (runner, permits) = (self.clone(), permits.clone());
            running.spawn(async move {
                // The semaphore is never closed.
                let _permit = permits.acquire_owned().await;
                (index, runner.run(index, prompt).await)
            });
        }
        running
    }

    /// Prompts in flight at once: enough to keep the engine's batch full while some prompts wait for a response or a
    /// critique, and few enough that no request waits long.
    fn prompts_in_flight_max(&self) -> usize {
        let critiques = self.candidates.len() * self.config.critiques;
        self.models.engine.sequences_max.div_ceil(critiques.max(1)).max(2)
    }

    /// The sampling client of `role`.
    fn sampler(&self, role: Role) -> SamplingClient {
        let sampler = self.models.sampler(role, &self.device);
        SamplingClient { events: self.events.clone(), deadline: sampler.deadline.max(DEADLINE_MIN), ..sampler }
    }

    /// Evaluates all candidates on the prompt with this index in its file.
    ///
    /// # Errors
    /// If no response was generated, the device is gone or something is broken.
    pub async fn run(self: Arc<Self>, index: u64, prompt: Arc<Prompt>) -> Result<Record, SampleError> {
        let episode = EpisodeId(index);
        let generator = self.sampler(Role::Generator);
        let generator_seed = seed(self.seed, episode, Role::Generator, 0);
        let output = role::complete(&self.models.generator.role, &generator, &prompt, 1, generator_seed).await?;
        let completion = output.completions.into_iter().next();
        let completion = completion.ok_or_else(|| SampleError::Broken("expected one text, got none".to_owned()))?;
        let context =
            Arc::new(ResponseContext { prompt: prompt.clone(), rendered: output.rendered, response: completion });
        let response = self.score_texts(&prompt, std::slice::from_ref(&context.response)).await?.remove(0);

        let mut running = JoinSet::new();
        for (index, candidate) in self.candidates.iter().enumerate() {
            let (runner, candidate) = (self.clone(), candidate.clone());
            let (context, response) = (context.clone(), response.clone());
            running.spawn(async move { (index, runner.run_critic(candidate, context, response, episode).await) });
        }
        let mut critics = Vec::with_capacity(self.candidates.len());
        while let Some(critic_record) = running.join_next().await {
            let (index, critic_record) = critic_record.map_err(|error| SampleError::Broken(error.to_string()))?;
            critics.push((index, critic_record?));
        }
        critics.sort_by_key(|(index, _)| *index);
        let critics = critics.into_iter().map(|(_, critic_record)| critic_record).collect();
        Ok(Record { id: prompt.id.clone(), task: prompt.task.clone(), response, critics })
    }

    /// All chains of one candidate.
    async fn run_critic(
        self: Arc<Self>,
        candidate: Candidate,
        context: Arc<ResponseContext>,
        response: ScoredText,
        episode: EpisodeId,
    ) -> Result<CriticRecord, SampleError> {
        let Candidate { name, source } = candidate;
        let critic_seed = seed(self.seed, episode, Role::Critic, 0);
        let critiques = recoverable(self.critiques(&source, &context, self.config.critiques, critic_seed).await)?;
        let mut running = JoinSet::new();
        for (index, critique) in critiques.unwrap_or_default().into_iter().enumerate() {
            let (source, context, response) = (source.clone(), context.clone(), response.clone());
            let chain = Chain { source, context, response, episode, index };
            running.spawn(self.clone().run_chain(chain, critique));
        }
        let mut attempts = Vec::new();
        while let Some(chain) = running.join_next().await {
            attempts.extend(chain.map_err(|error| SampleError::Broken(error.to_string()))??);
        }
        attempts.sort_by_key(|attempt: &CritiqueOutcome| (attempt.round, attempt.chain));
        Ok(CriticRecord { critic: name, attempts })
    }

    /// All rounds of one chain: refine, then criticise the first refinement.
    async fn run_chain(
        self: Arc<Self>,
        chain: Chain,
        critique: Completion,
    ) -> Result<Vec<CritiqueOutcome>, SampleError> {
        let (mut attempts, mut critique) = (Vec::new(), Arc::new(critique));
        let mut context = chain.context.clone();
        // The text that this round criticises; none in the first round, which criticises the response.
        let mut criticised = None;
        for round in 1..=self.rounds {
            // Each round's seed indices follow those of the rounds before it.
            let index = ((round - 1) * self.config.critiques + chain.index) as u64;
            let Some((completions, refinements, verdicts)) =
                recoverable(self.refine(&chain, &context, critique.clone(), index).await)?
            else {
                break;
            };
            let (text, tokens) = (critique.text.clone(), critique.ids.len());
            let about = std::mem::replace(&mut criticised, refinements.first().cloned());
            attempts.push(CritiqueOutcome {
                round,
                chain: chain.index,
                critique: text,
                tokens,
                about,
                refinements,
                verdicts,
            });
            let (Some(response), true) = (completions.into_iter().next(), round < self.rounds) else { break };
            let (prompt, rendered) = (context.prompt.clone(), context.rendered.clone());
            context = Arc::new(ResponseContext { prompt, rendered, response });
            let critic_seed = seed(self.seed, chain.episode, Role::Critic, 1 + index);
            let Some(next) = recoverable(self.critiques(&chain.source, &context, 1, critic_seed).await)? else { break };
            let Some(next) = next.into_iter().next() else { break };
            critique = Arc::new(next);
        }
        Ok(attempts)
    }

    /// `n` critiques of a response from `source`; none from the oracle if the prompt has no known answer.
    async fn critiques(
        &self,
        source: &CritiqueSource,
        context: &Arc<ResponseContext>,
        n: usize,
        seed: u64,
    ) -> Result<Vec<Completion>, SampleError> {
        let sampler = self.sampler(Role::Critic);
        match source {
            CritiqueSource::Critic(policy) => {
                let sampler = SamplingClient { policy: policy.clone(), ..sampler };
                Ok(role::complete(&self.models.critic.role, &sampler, context, n, seed).await?.completions)
            }
            CritiqueSource::Empty => fixed_text(&sampler, &self.config.empty_critique, n),
            CritiqueSource::Oracle => match context.prompt.answer.as_deref() {
                Some(answer) => fixed_text(&sampler, &self.config.oracle(answer), n),
                None => Ok(Vec::new()),
            },
            CritiqueSource::SelfCritique => self.self_critiques(context, n, seed).await,
        }
    }

    /// `n` critiques that continue the generator's own conversation; their token limit is the critic's.
    async fn self_critiques(
        &self,
        context: &ResponseContext,
        n: usize,
        seed: u64,
    ) -> Result<Vec<Completion>, SampleError> {
        let mut sampler = self.sampler(Role::Generator);
        sampler.sampling.max_tokens = self.models.critic.sampling.max_tokens;
        let mut turns = context.rendered.turns.clone();
        turns.push(Turn::new(ChatRole::Assistant, context.response.text.clone()));
        turns.push(Turn::new(ChatRole::User, self.config.self_prompt.clone()));
        let rendered = sampler.continue_after(&context.rendered, &context.response, turns).await?;
        sampler.write(&rendered, n, seed).await
    }

    /// M refinements by `critique`, with their scores, and the verdicts that compare them with the chain's first response.
    async fn refine(
        &self,
        chain: &Chain,
        context: &Arc<ResponseContext>,
        critique: Arc<Completion>,
        index: u64,
    ) -> Result<(Vec<Completion>, Vec<ScoredText>, Vec<Verdict>), SampleError> {
        let refiner = self.sampler(Role::Refiner);
        let input = (context.clone(), critique.clone());
        let refiner_seed = seed(self.seed, chain.episode, Role::Refiner, index);
        let m = self.config.refinements;
        let output = role::complete(&self.models.refiner.role, &refiner, &input, m, refiner_seed).await?;
        let refinements = output.completions;
        let texts = self.score_texts(&context.prompt, &refinements).await?;
        let verdicts = match &self.models.judges.verdicts {
            // The verdicts follow from the scores, so that code is run only once.
            JudgeSource::Verifier(_) => texts.iter().map(|text| prefer(chain.response.score, text.score)).collect(),
            source => {
                let judge = self.sampler(Role::Judge);
                let request =
                    JudgeRequest { context: chain.context.clone(), critique, refinements: refinements.clone() };
                verdicts(source, &judge, request, seed(self.seed, chain.episode, Role::Judge, index)).await?
            }
        };
        Ok((refinements, texts, verdicts))
    }

    /// The texts of `completions`, with scores if the prompt has a verifier.
    async fn score_texts(
        &self,
        prompt: &Arc<Prompt>,
        completions: &[Completion],
    ) -> Result<Vec<ScoredText>, SampleError> {
        let (checker, prompt) = (self.checker.clone(), prompt.clone());
        let unscored = |completion: &Completion| ScoredText {
            text: completion.text.clone(),
            tokens: completion.ids.len(),
            score: None,
        };
        let texts: Vec<ScoredText> = completions.iter().map(unscored).collect();
        if !verify::can_check(&prompt) {
            return Ok(texts);
        }
        let check = move || {
            let score = |text: &ScoredText| checker.check(&prompt, &text.text).ok().map(|checked| checked.score);
            texts.into_iter().map(|text| ScoredText { score: score(&text), ..text }).collect()
        };
        // A verifier that panics or does not end leaves the texts without a score.
        let unchecked = completions.iter().map(unscored).collect();
        let deadline = self.models.deadline.max(DEADLINE_MIN);
        Ok(tokio::time::timeout(deadline, CHECKING.run(check)).await.ok().and_then(Result::ok).unwrap_or(unchecked))
    }
}

/// `n` completions with a fixed text.
fn fixed_text(sampler: &SamplingClient, text: &str, n: usize) -> Result<Vec<Completion>, SampleError> {
    let ids = sampler.tokenizer.encode_text(text)?;
    let version = CriticVersion::BASE;
    let completion =
        Completion { text: text.to_owned(), ids, log_probs: Vec::new(), version, finish: FinishReason::Stop };
    Ok(vec![completion; n])
}

/// The verdict that follows from two scores; invalid if either is missing.
fn prefer(before: Option<f32>, after: Option<f32>) -> Verdict {
    let score = |score: Option<f32>| score.ok_or_else(|| CheckError::Prompt(String::new()));
    verify::prefer(score(before), score(after))
}

/// None for an error that drops only one critique; other errors are returned.
fn recoverable<T>(result: Result<T, SampleError>) -> Result<Option<T>, SampleError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(SampleError::Deadline | SampleError::TooLong | SampleError::Refused(_) | SampleError::Remote(_)) => {
            Ok(None)
        }
        Err(error @ (SampleError::Gone | SampleError::Broken(_))) => Err(error),
    }
}
